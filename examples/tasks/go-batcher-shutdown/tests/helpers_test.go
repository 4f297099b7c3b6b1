package verify

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"groupcommit/batch"
)

// patience is how long something may take that must come about; once something
// did not, the run has failed, and the rest need not take long.
var patience = 60 * time.Second

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			patience = 300 * time.Millisecond
			t.Fatalf("never came about: %s", what)
		}
	}
}

// fakeClock is moved by hand; due calls are made in goroutines of their own.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*fakeTimer]bool
}

type fakeTimer struct {
	clock *fakeClock
	at    time.Time
	f     func()
}

func newClock() *fakeClock {
	return &fakeClock{now: time.Unix(1000, 0), timers: map[*fakeTimer]bool{}}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) batch.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &fakeTimer{c, c.now.Add(d), f}
	if d <= 0 {
		go f()
	} else {
		c.timers[t] = true
	}
	return t
}

func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	was := t.clock.timers[t]
	delete(t.clock.timers, t)
	return was
}

// advance moves the time on and makes the calls that are due.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []*fakeTimer
	for t := range c.timers {
		if !t.at.After(c.now) {
			due = append(due, t)
			delete(c.timers, t)
		}
	}
	c.mu.Unlock()
	sort.Slice(due, func(i, j int) bool { return due[i].at.Before(due[j].at) })
	for _, t := range due {
		go t.f()
	}
}

func (c *fakeClock) pending() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []time.Duration
	for t := range c.timers {
		all = append(all, t.at.Sub(c.now))
	}
	return all
}

// flushes records the calls of a flush function, each of which ends when it is
// told to.
type flushes struct {
	mu    sync.Mutex
	calls []*flushCall
	most  int // that ran at the same time
	now   int
}

type flushCall struct {
	items []string
	ctx   context.Context
	end   chan func() error
}

func (f *flushes) flush(ctx context.Context, items []string) error {
	call := &flushCall{append([]string(nil), items...), ctx, make(chan func() error, 1)}
	f.mu.Lock()
	f.calls = append(f.calls, call)
	f.now++
	if f.now > f.most {
		f.most = f.now
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.now--
		f.mu.Unlock()
		for i := range items {
			items[i] = "changed by flush"
		}
	}()
	return (<-call.end)()
}

func (f *flushes) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

// call waits for the n-th call (from 1) and checks its items.
func (f *flushes) call(t *testing.T, n int, items string) *flushCall {
	t.Helper()
	until(t, fmt.Sprintf("flush %d with %q", n, items), func() bool { return f.count() >= n })
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(f.calls[n-1].items, " "); got != items {
		t.Fatalf("flush %d got %q, want %q", n, got, items)
	}
	return f.calls[n-1]
}

func (c *flushCall) ends(err error) { c.end <- func() error { return err } }

// submission is a call of Submit in a goroutine of its own.
type submission struct {
	cancel context.CancelFunc
	result chan error
}

type fixture struct {
	*testing.T
	*batch.Batcher[string]
	clock *fakeClock
	flushes
	before int // goroutines
}

func setup(t *testing.T, size int, delay time.Duration, pending int) *fixture {
	f := &fixture{T: t, clock: newClock(), before: runtime.NumGoroutine()}
	b, err := batch.New(batch.Config[string]{MaxSize: size, MaxDelay: delay, MaxPending: pending, Clock: f.clock, Flush: f.flush})
	if err != nil {
		t.Fatal(err)
	}
	f.Batcher = b
	return f
}

// start calls Submit and waits until the Batcher knows of it.
func (f *fixture) start(item string) *submission {
	f.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &submission{cancel, make(chan error, 1)}
	s0 := f.Stats()
	total := s0.Queued + s0.Waiting + s0.Items
	go func() { s.result <- f.Submit(ctx, item) }()
	until(f.T, "Submit of "+item+" is known", func() bool {
		s := f.Stats()
		return s.Queued+s.Waiting+s.Items > total
	})
	return s
}

func (f *fixture) returns(s *submission, want error) {
	f.Helper()
	var got error
	until(f.T, fmt.Sprintf("Submit returns %v", want), func() bool {
		select {
		case got = <-s.result:
			return true
		default:
			return false
		}
	})
	if got != want {
		f.Fatalf("Submit returned %v, want %v", got, want)
	}
}

// waits checks that a call has not returned, after giving it the chance to.
func (f *fixture) waits(result chan error, what string) {
	f.Helper()
	for i := 0; i < 50; i++ {
		runtime.Gosched()
	}
	time.Sleep(2 * time.Millisecond)
	select {
	case err := <-result:
		f.Fatalf("%s returned %v too early", what, err)
	default:
	}
}

func (f *fixture) stats(want batch.Stats) {
	f.Helper()
	var got batch.Stats
	until(f.T, fmt.Sprintf("Stats are %+v (they are %+v)", want, f.Stats()), func() bool {
		got = f.Stats()
		return reflect.DeepEqual(got, want)
	})
}

func (f *fixture) run(call func(context.Context) error) (chan error, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- call(ctx) }()
	return result, cancel
}

func (f *fixture) got(result chan error, want error, what string) {
	f.Helper()
	var err error
	until(f.T, what+" returns", func() bool {
		select {
		case err = <-result:
			return true
		default:
			return false
		}
	})
	if err != want {
		f.Fatalf("%s returned %v, want %v", what, err, want)
	}
}

// finish closes the Batcher and checks that nothing is left of it.
func (f *fixture) finish() {
	f.Helper()
	result, _ := f.run(f.Close)
	f.got(result, nil, "Close")
	if f.most > 1 {
		f.Errorf("%d flushes ran at the same time", f.most)
	}
	if left := f.clock.pending(); len(left) != 0 {
		f.Errorf("timers are left: %v", left)
	}
	for i, call := range f.calls {
		if call.ctx.Err() == nil {
			f.Errorf("the context of flush %d is not cancelled", i+1)
		}
	}
	until(f.T, "all goroutines end", func() bool { return runtime.NumGoroutine() <= f.before })
}
