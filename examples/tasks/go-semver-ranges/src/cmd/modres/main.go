// Command modres filters the versions on its standard input.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"

	"modres/pick"
)

func main() {
	newest := flag.Bool("max", false, "print only the newest version")
	flag.Parse()
	var available []string
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() != "" {
			available = append(available, lines.Text())
		}
	}
	if err := run(*newest, available, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "modres:", err)
		os.Exit(1)
	}
}

func run(newest bool, available, constraints []string) error {
	if newest {
		v, err := pick.Newest(available, constraints)
		if err == nil {
			fmt.Println(v)
		}
		return err
	}
	found, err := pick.Matching(available, constraints)
	for _, v := range found {
		fmt.Println(v)
	}
	return err
}
