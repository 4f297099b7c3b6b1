package batch

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by Submit when the Batcher is closed.
	ErrClosed = errors.New("batch: closed")
	// ErrAborted is returned for items whose flush ended its goroutine.
	ErrAborted = errors.New("batch: flush aborted")
)

// PartialError is returned by a flush function of which only some items failed.
type PartialError struct {
	Errors map[int]error // by the index in the batch
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("batch: %d items failed", len(e.Errors))
}

// PanicError is returned for items whose flush panicked.
type PanicError struct {
	Value any
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("batch: flush panicked: %v", e.Value)
}
