package batch

import (
	"context"
	"sync"
	"testing"
)

func TestBatches(t *testing.T) {
	var mu sync.Mutex
	sum := 0
	b, err := New(Config[int]{MaxSize: 3, Flush: func(_ context.Context, items []int) error {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range items {
			sum += n
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := 1; i <= 3; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			if err := b.Submit(context.Background(), i); err != nil {
				t.Error(err)
			}
		}(i)
	}
	wg.Wait()
	if sum != 6 {
		t.Errorf("got %d", sum)
	}
	if err := b.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
