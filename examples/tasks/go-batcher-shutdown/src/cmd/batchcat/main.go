// Command batchcat copies lines from standard input to standard output in batches.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"groupcommit/batch"
)

func main() {
	b, err := batch.New(batch.Config[string]{
		MaxSize:  8,
		MaxDelay: 10 * time.Millisecond,
		Flush: func(_ context.Context, lines []string) error {
			_, err := fmt.Println(strings.Join(lines, "\n"))
			return err
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "batchcat:", err)
		os.Exit(1)
	}
	ctx := context.Background()
	var writers sync.WaitGroup
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		line := in.Text()
		writers.Add(1)
		go func() {
			defer writers.Done()
			if err := b.Submit(ctx, line); err != nil {
				fmt.Fprintln(os.Stderr, "batchcat:", err)
			}
		}()
	}
	if err := b.Sync(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "batchcat:", err)
	}
	writers.Wait()
	if err := b.Close(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "batchcat:", err)
	}
}
