package batch

import (
	"context"
	"errors"
	"time"
)

// Config says how a Batcher works.
type Config[T any] struct {
	MaxSize    int           // items in a batch
	MaxDelay   time.Duration // how long an item waits for others
	MaxPending int           // items queued, 4 * MaxSize if it is 0
	Clock      Clock         // the system's if it is nil
	Flush      func(ctx context.Context, items []T) error
}

func (c *Config[T]) check() error {
	if c.MaxPending == 0 {
		c.MaxPending = 4 * c.MaxSize
	}
	if c.Clock == nil {
		c.Clock = realClock{}
	}
	if c.Flush == nil {
		return errors.New("batch: no flush function")
	}
	if c.MaxSize < 1 {
		return errors.New("batch: MaxSize must be at least 1")
	}
	if c.MaxPending < c.MaxSize {
		return errors.New("batch: MaxPending must be at least MaxSize")
	}
	return nil
}

// Stats are numbers about a Batcher.
type Stats struct {
	Queued   int // items queued
	Waiting  int // calls of Submit that wait for room
	Flushing int // items in the running flush
	Batches  int // flushes begun
	Items    int // items handed to a flush
}
