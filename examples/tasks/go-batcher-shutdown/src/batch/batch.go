// Package batch collects items of concurrent callers and flushes them in batches.
package batch

import (
	"context"
	"errors"
)

// Batcher collects items. Its methods may be called from any goroutine.
type Batcher[T any] struct {
	config Config[T]
	input  chan entry[T]
	sync   chan chan struct{}
	tick   chan struct{}
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	closed bool
	stats  Stats
}

type entry[T any] struct {
	item   T
	result chan error
}

// New returns a Batcher that is to be closed in the end.
func New[T any](config Config[T]) (*Batcher[T], error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	b := &Batcher[T]{
		config: config,
		input:  make(chan entry[T], config.MaxPending),
		sync:   make(chan chan struct{}),
		tick:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	go b.loop()
	return b, nil
}

// Submit queues an item and waits until its batch is flushed.
func (b *Batcher[T]) Submit(ctx context.Context, item T) error {
	if b.closed {
		return ErrClosed
	}
	e := entry[T]{item, make(chan error)}
	b.stats.Waiting++
	b.input <- e
	b.stats.Waiting--
	b.stats.Queued++
	select {
	case err := <-e.result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sync waits until all items submitted before are flushed.
func (b *Batcher[T]) Sync(ctx context.Context) error {
	flushed := make(chan struct{})
	b.sync <- flushed
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close flushes what is queued and ends the Batcher.
func (b *Batcher[T]) Close(ctx context.Context) error {
	b.closed = true
	close(b.input)
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		b.cancel()
		return ctx.Err()
	}
}

// Stats returns the present numbers.
func (b *Batcher[T]) Stats() Stats {
	return b.stats
}

func (b *Batcher[T]) loop() {
	var queue []entry[T]
	var items []T
	flush := func() {
		items = items[:0]
		for _, e := range queue {
			items = append(items, e.item)
		}
		b.flush(queue, items)
		queue = queue[:0]
	}
	for {
		select {
		case e, open := <-b.input:
			if !open {
				flush()
				close(b.done)
				return
			}
			queue = append(queue, e)
			if len(queue) == 1 {
				b.config.Clock.AfterFunc(b.config.MaxDelay, func() { b.tick <- struct{}{} })
			}
			if len(queue) >= b.config.MaxSize {
				flush()
			}
		case <-b.tick:
			flush()
		case flushed := <-b.sync:
			flush()
			close(flushed)
		}
	}
}

func (b *Batcher[T]) flush(queue []entry[T], items []T) {
	b.stats.Batches++
	b.stats.Items += len(items)
	b.stats.Queued -= len(items)
	b.stats.Flushing = len(items)
	err := b.config.Flush(b.ctx, items)
	b.stats.Flushing = 0
	var partial *PartialError
	for i, e := range queue {
		if errors.As(err, &partial) {
			e.result <- partial.Errors[i]
		} else {
			e.result <- err
		}
	}
}
