package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"groupcommit/batch"
)

const ms = time.Millisecond

func TestConfig(t *testing.T) {
	flush := func(context.Context, []int) error { return nil }
	for i, c := range []batch.Config[int]{
		{MaxSize: 0, Flush: flush}, {MaxSize: -1, Flush: flush}, {MaxSize: 1}, {MaxSize: 1, MaxDelay: -1, Flush: flush},
		{MaxSize: 5, MaxPending: 4, Flush: flush}, {MaxSize: 1, MaxPending: -1, Flush: flush},
	} {
		if _, err := batch.New(c); err == nil {
			t.Errorf("config %d: no error", i)
		}
	}
	b, err := batch.New(batch.Config[int]{MaxSize: 5, MaxPending: 5, Flush: flush})
	if err != nil {
		t.Fatal(err)
	}
	b.Close(context.Background())
}

func TestFullBatch(t *testing.T) {
	f := setup(t, 3, time.Hour, 0)
	a, b := f.start("a"), f.start("b")
	f.stats(batch.Stats{Queued: 2})
	f.waits(a.result, "Submit")
	c := f.start("c")
	call := f.call(t, 1, "a b c")
	f.stats(batch.Stats{Flushing: 3, Batches: 1, Items: 3})
	if left := f.clock.pending(); len(left) != 0 {
		t.Errorf("timers run while nothing is queued: %v", left)
	}
	call.ends(nil)
	for _, s := range []*submission{a, b, c} {
		f.returns(s, nil)
	}
	f.stats(batch.Stats{Batches: 1, Items: 3})
	f.finish()
}

func TestDelayCountsFromTheOldest(t *testing.T) {
	f := setup(t, 3, 100*ms, 0)
	a := f.start("a")
	f.clock.advance(60 * ms)
	b := f.start("b")
	f.clock.advance(39 * ms)
	f.waits(a.result, "Submit")
	if f.count() != 0 {
		t.Fatal("flushed too early")
	}
	f.clock.advance(1 * ms)
	call := f.call(t, 1, "a b")
	// While it runs more are queued, and grow old.
	c := f.start("c")
	f.clock.advance(50 * ms)
	d := f.start("d")
	if left := f.clock.pending(); len(left) != 0 {
		t.Errorf("timers run while a flush does: %v", left)
	}
	call.ends(nil)
	f.returns(a, nil)
	f.returns(b, nil)
	until(t, "a timer for c", func() bool { return len(f.clock.pending()) == 1 })
	if left := f.clock.pending(); left[0] != 50*ms {
		t.Errorf("the timer is for %v, want 50ms", left[0])
	}
	f.clock.advance(50 * ms)
	call = f.call(t, 2, "c d")
	e := f.start("e")
	f.clock.advance(150 * ms)
	call.ends(nil)
	f.returns(c, nil)
	f.returns(d, nil)
	f.call(t, 3, "e").ends(nil)
	f.returns(e, nil)
	f.finish()
}

func TestWhatIsLeftOverKeepsItsAge(t *testing.T) {
	f := setup(t, 2, 100*ms, 8)
	a, b := f.start("a"), f.start("b")
	call := f.call(t, 1, "a b")
	c := f.start("c")
	f.clock.advance(30 * ms)
	d := f.start("d")
	e := f.start("e")
	f.clock.advance(30 * ms)
	call.ends(nil)
	f.returns(a, nil)
	f.returns(b, nil)
	f.call(t, 2, "c d").ends(nil)
	f.returns(c, nil)
	f.returns(d, nil)
	f.clock.advance(69 * ms)
	f.waits(e.result, "Submit")
	f.clock.advance(1 * ms)
	f.call(t, 3, "e").ends(nil)
	f.returns(e, nil)
	f.finish()
}

func TestNoDelay(t *testing.T) {
	f := setup(t, 10, 0, 0)
	a := f.start("a")
	call := f.call(t, 1, "a")
	b, c := f.start("b"), f.start("c")
	f.waits(b.result, "Submit")
	call.ends(nil)
	f.returns(a, nil)
	f.call(t, 2, "b c").ends(nil)
	f.returns(b, nil)
	f.returns(c, nil)
	f.finish()
}

func TestErrors(t *testing.T) {
	f := setup(t, 3, time.Hour, 0)
	three := func() []*submission { return []*submission{f.start("a"), f.start("b"), f.start("c")} }
	boom, one := errors.New("boom"), errors.New("one")

	s := three()
	f.call(t, 1, "a b c").ends(boom)
	for i := range s {
		f.returns(s[i], boom)
	}
	s = three()
	f.call(t, 2, "a b c").ends(fmt.Errorf("wrapped: %w", &batch.PartialError{Errors: map[int]error{1: one, 2: nil, 7: boom}}))
	f.returns(s[0], nil)
	f.returns(s[1], one)
	f.returns(s[2], nil)

	s = three()
	f.call(t, 3, "a b c").end <- func() error { panic("bang") }
	for i := range s {
		var got error
		until(t, "Submit returns after a panic", func() bool {
			select {
			case got = <-s[i].result:
				return true
			default:
				return false
			}
		})
		var panicked *batch.PanicError
		if !errors.As(got, &panicked) || panicked.Value != "bang" {
			t.Fatalf("got %v, want a PanicError", got)
		}
	}
	s = three()
	f.call(t, 4, "a b c").end <- func() error { runtime.Goexit(); return nil }
	for i := range s {
		f.returns(s[i], batch.ErrAborted)
	}
	s = three()
	f.call(t, 5, "a b c").ends(nil)
	for i := range s {
		f.returns(s[i], nil)
	}
	f.finish()
}

func TestGivingUpWhileQueued(t *testing.T) {
	f := setup(t, 3, 100*ms, 0)
	a := f.start("a")
	f.clock.advance(40 * ms)
	b := f.start("b")
	a.cancel()
	f.returns(a, context.Canceled)
	f.stats(batch.Stats{Queued: 1})
	f.clock.advance(60 * ms)
	f.waits(b.result, "Submit")
	if f.count() != 0 {
		t.Fatal("b was flushed at the age of a")
	}
	c := f.start("c")
	f.clock.advance(40 * ms)
	call := f.call(t, 1, "b c")
	d := f.start("d")
	d.cancel()
	f.returns(d, context.Canceled)
	call.ends(nil)
	f.returns(b, nil)
	f.returns(c, nil)
	e := f.start("e")
	e.cancel()
	f.returns(e, context.Canceled)
	until(t, "the timer is stopped when nothing is queued", func() bool { return len(f.clock.pending()) == 0 })
	f.stats(batch.Stats{Batches: 1, Items: 2})
	f.finish()
}

func TestGivingUpWhileFlushing(t *testing.T) {
	f := setup(t, 2, time.Hour, 0)
	a, b := f.start("a"), f.start("b")
	call := f.call(t, 1, "a b")
	a.cancel()
	f.returns(a, context.Canceled)
	if call.ctx.Err() != nil {
		t.Error("the flush was cancelled with one of its callers")
	}
	f.stats(batch.Stats{Flushing: 2, Batches: 1, Items: 2})
	call.ends(nil)
	f.returns(b, nil)
	c, d := f.start("c"), f.start("d")
	f.call(t, 2, "c d").ends(nil)
	f.returns(c, nil)
	f.returns(d, nil)
	f.finish()
}

func TestContextThatHasEnded(t *testing.T) {
	f := setup(t, 1, time.Hour, 0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for i := 0; i < 20; i++ {
		result := make(chan error, 1)
		go func() { result <- f.Submit(ctx, "x") }()
		f.got(result, context.Canceled, "Submit")
	}
	f.stats(batch.Stats{})
	f.finish()
}

func TestRoom(t *testing.T) {
	f := setup(t, 2, 100*ms, 3)
	a, b := f.start("a"), f.start("b")
	call := f.call(t, 1, "a b")
	var more []*submission
	for _, item := range strings.Fields("c d e f g h") {
		more = append(more, f.start(item))
	}
	f.stats(batch.Stats{Queued: 3, Waiting: 3, Flushing: 2, Batches: 1, Items: 2})
	// f waits for room and gives up; d is queued and gives up, so that g gets in.
	more[3].cancel()
	f.returns(more[3], context.Canceled)
	f.stats(batch.Stats{Queued: 3, Waiting: 2, Flushing: 2, Batches: 1, Items: 2})
	more[1].cancel()
	f.returns(more[1], context.Canceled)
	f.stats(batch.Stats{Queued: 3, Waiting: 1, Flushing: 2, Batches: 1, Items: 2})
	f.clock.advance(70 * ms)
	call.ends(nil)
	f.returns(a, nil)
	f.returns(b, nil)
	call = f.call(t, 2, "c e")
	f.stats(batch.Stats{Queued: 2, Flushing: 2, Batches: 2, Items: 4})
	call.ends(nil)
	f.returns(more[0], nil)
	f.returns(more[2], nil)
	f.call(t, 3, "g h").ends(nil)
	f.returns(more[4], nil)
	f.returns(more[5], nil)
	f.finish()
}

func TestAgeBeginsWithRoom(t *testing.T) {
	f := setup(t, 2, 100*ms, 2)
	a, b := f.start("a"), f.start("b")
	call := f.call(t, 1, "a b")
	c, d, e := f.start("c"), f.start("d"), f.start("e")
	f.stats(batch.Stats{Queued: 2, Waiting: 1, Flushing: 2, Batches: 1, Items: 2})
	f.clock.advance(90 * ms)
	call.ends(nil)
	call = f.call(t, 2, "c d")
	f.stats(batch.Stats{Queued: 1, Flushing: 2, Batches: 2, Items: 4})
	call.ends(nil)
	f.returns(c, nil)
	f.returns(d, nil)
	f.clock.advance(99 * ms)
	f.waits(e.result, "Submit")
	f.clock.advance(ms)
	f.call(t, 3, "e").ends(nil)
	f.returns(e, nil)
	f.returns(a, nil)
	f.returns(b, nil)
	f.finish()
}

func TestSync(t *testing.T) {
	f := setup(t, 3, time.Hour, 3)
	result, _ := f.run(f.Sync)
	f.got(result, nil, "Sync of nothing")
	a := f.start("a")
	first, _ := f.run(f.Sync)
	call := f.call(t, 1, "a")
	failed := errors.New("failed")
	b := f.start("b")
	f.waits(first, "Sync")
	call.ends(failed)
	f.got(first, nil, "Sync")
	f.returns(a, failed)
	f.waits(b.result, "Submit")
	if f.count() != 1 {
		t.Fatal("Sync flushed what was submitted later")
	}
	// Now with a running flush and callers that wait for room.
	c, d := f.start("c"), f.start("d")
	call = f.call(t, 2, "b c d")
	var more []*submission
	for _, item := range strings.Fields("e f g h i") {
		more = append(more, f.start(item))
	}
	f.stats(batch.Stats{Queued: 3, Waiting: 2, Flushing: 3, Batches: 2, Items: 4})
	second, _ := f.run(f.Sync)
	third, giveUp := f.run(f.Sync)
	f.waits(second, "Sync")
	giveUp()
	f.got(third, context.Canceled, "Sync")
	more[1].cancel()
	f.returns(more[1], context.Canceled)
	call.ends(nil)
	f.call(t, 3, "e g h").ends(nil)
	call = f.call(t, 4, "i")
	f.waits(second, "Sync")
	call.ends(nil)
	f.got(second, nil, "Sync")
	for _, s := range []*submission{b, c, d, more[0], more[2], more[3], more[4]} {
		f.returns(s, nil)
	}
	f.finish()
}

func TestSyncWhenTheRestGivesUp(t *testing.T) {
	f := setup(t, 2, time.Hour, 0)
	a, b := f.start("a"), f.start("b")
	call := f.call(t, 1, "a b")
	c := f.start("c")
	result, _ := f.run(f.Sync)
	f.waits(result, "Sync")
	c.cancel()
	f.returns(c, context.Canceled)
	call.ends(nil)
	f.got(result, nil, "Sync")
	f.returns(a, nil)
	f.returns(b, nil)
	f.stats(batch.Stats{Batches: 1, Items: 2})
	f.finish()
}

func TestClose(t *testing.T) {
	f := setup(t, 2, time.Hour, 2)
	a, b := f.start("a"), f.start("b")
	call := f.call(t, 1, "a b")
	c, d, e := f.start("c"), f.start("d"), f.start("e")
	one, _ := f.run(f.Close)
	f.returns(e, batch.ErrClosed) // so Close has begun
	two, _ := f.run(f.Close)
	refused, _ := f.run(func(ctx context.Context) error { return f.Submit(ctx, "x") })
	f.got(refused, batch.ErrClosed, "Submit")
	f.waits(one, "Close")
	call.ends(nil)
	call = f.call(t, 2, "c d")
	synced, _ := f.run(f.Sync)
	f.waits(two, "Close")
	f.waits(synced, "Sync")
	call.ends(nil)
	f.got(one, nil, "Close")
	f.got(two, nil, "Close")
	f.got(synced, nil, "Sync")
	for _, s := range []*submission{a, b, c, d} {
		f.returns(s, nil)
	}
	synced, _ = f.run(f.Sync)
	f.got(synced, nil, "Sync")
	f.finish()
}

func TestCloseRefusesThoseWaitingForRoom(t *testing.T) {
	f := setup(t, 1, time.Hour, 1)
	a := f.start("a")
	call := f.call(t, 1, "a")
	b, c, d := f.start("b"), f.start("c"), f.start("d")
	f.stats(batch.Stats{Queued: 1, Waiting: 2, Flushing: 1, Batches: 1, Items: 1})
	closed, _ := f.run(f.Close)
	f.returns(c, batch.ErrClosed)
	f.returns(d, batch.ErrClosed)
	f.stats(batch.Stats{Queued: 1, Flushing: 1, Batches: 1, Items: 1})
	call.ends(nil)
	f.call(t, 2, "b").ends(nil)
	f.got(closed, nil, "Close")
	f.returns(a, nil)
	f.returns(b, nil)
	f.finish()
}

func TestCloseInAHurry(t *testing.T) {
	f := setup(t, 1, time.Hour, 4)
	a := f.start("a")
	call := f.call(t, 1, "a")
	b, c := f.start("b"), f.start("c")
	patient, _ := f.run(f.Close)
	f.waits(patient, "Close")
	hurried, hurry := f.run(f.Close)
	f.waits(hurried, "Close")
	hurry()
	f.got(hurried, context.Canceled, "Close")
	f.returns(b, batch.ErrClosed)
	f.returns(c, batch.ErrClosed)
	until(t, "the running flush is cancelled", func() bool { return call.ctx.Err() != nil })
	f.waits(patient, "Close")
	f.waits(a.result, "Submit")
	call.ends(nil)
	f.returns(a, nil)
	f.got(patient, nil, "Close")
	f.stats(batch.Stats{Batches: 1, Items: 1})
	f.finish()
}

func TestCloseAtOnce(t *testing.T) {
	f := setup(t, 3, time.Hour, 0)
	f.finish()

	f = setup(t, 3, time.Hour, 0)
	s := f.start("a")
	s.cancel()
	f.returns(s, context.Canceled)
	f.finish()

	f = setup(t, 3, time.Hour, 0)
	s = f.start("a")
	closed, _ := f.run(f.Close)
	f.call(t, 1, "a").ends(nil)
	f.got(closed, nil, "Close")
	f.returns(s, nil)
	f.finish()
}

func TestTheSliceIsTheFlushFunctions(t *testing.T) {
	var kept [][]string
	b, err := batch.New(batch.Config[string]{MaxSize: 2, MaxDelay: time.Hour, Flush: func(_ context.Context, items []string) error {
		kept = append(kept, items)
		_ = append(items, "appended")
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 4; i++ {
		var wg sync.WaitGroup
		for k := 0; k < 2; k++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				b.Submit(context.Background(), fmt.Sprint("item ", i))
			}()
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		until(t, "both are flushed", func() bool {
			select {
			case <-done:
				return true
			default:
				return false
			}
		})
	}
	for i, items := range kept {
		if want := fmt.Sprint("item ", i); len(items) != 2 || items[0] != want || items[1] != want {
			t.Errorf("batch %d is now %q", i, items)
		}
	}
	b.Close(context.Background())
}

func TestManyCallers(t *testing.T) {
	before := runtime.NumGoroutine()
	var mu sync.Mutex
	seen := map[string]int{}
	running := 0
	odd := errors.New("odd")
	b, err := batch.New(batch.Config[string]{MaxSize: 7, MaxDelay: 50 * time.Microsecond, MaxPending: 9,
		Flush: func(_ context.Context, items []string) error {
			mu.Lock()
			running++
			if running > 1 || len(items) > 7 || len(items) == 0 {
				t.Errorf("%d flushes at once, %d items", running, len(items))
			}
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
			defer mu.Unlock()
			running--
			failed := map[int]error{}
			for i, item := range items {
				seen[item]++
				if item[len(item)-1]%2 == 1 {
					failed[i] = odd
				}
			}
			return &batch.PartialError{Errors: failed}
		}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]map[string]error, 40)
	for g := range results {
		wg.Add(1)
		results[g] = map[string]error{}
		go func(g int) {
			defer wg.Done()
			for i := 0; i < 50; i++ {
				item := fmt.Sprintf("%d/%d", g, i)
				ctx, cancel := context.WithCancel(context.Background())
				if i%5 == 4 {
					go cancel()
				}
				if i == 25 {
					b.Sync(ctx)
				}
				results[g][item] = b.Submit(ctx, item)
				cancel()
			}
		}(g)
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	patience *= 3
	until(t, "all callers return", func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	patience /= 3
	if err := b.Close(context.Background()); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for g := range results {
		for item, err := range results[g] {
			var want error
			if item[len(item)-1]%2 == 1 {
				want = odd
			}
			if n := seen[item]; n > 1 {
				t.Errorf("%s was flushed %d times", item, n)
			} else if err == context.Canceled {
				continue
			} else if n != 1 || err != want {
				t.Errorf("%s: flushed %d times, result %v", item, n, err)
			}
		}
	}
	until(t, "all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}
