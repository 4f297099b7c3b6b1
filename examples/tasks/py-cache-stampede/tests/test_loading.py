import threading

import pytest
from conftest import Call, until

from loadcache import LoadCycleError, LoadingCache


def joined(cache, key, number):
    until(lambda: cache.waiting(key) == number, f"{number} threads waiting for {key!r}")


def test_many_threads_one_load(gate):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    others = [Call(cache.get, "k") for _ in range(8)]
    joined(cache, "k", 8)
    value = object()
    gate.release(1, lambda key: value)
    assert all(call.result() is value for call in [first, *others])
    assert gate.count() == 1
    assert cache.waiting("k") == 0
    assert cache.stats() == {"hits": 0, "loads": 1, "joins": 8, "failures": 0, "evictions": 0}
    assert cache.get("k") is value
    assert cache.stats()["hits"] == 1


def test_other_keys_are_not_delayed(gate):
    cache = LoadingCache(gate)
    slow = Call(cache.get, "slow")
    gate.entered(1)
    fast = Call(cache.get, "fast")
    gate.release(2, "f")
    assert fast.result() == "f"
    assert Call(cache.get, "fast").result() == "f"
    Call(cache.put, "third", 3).result()
    assert Call(cache.get, "third").result() == 3
    Call(cache.invalidate, "third").result()
    assert Call(cache.stats).result()["loads"] == 2
    assert Call(len, cache).result() == 1
    assert Call(cache.waiting, "slow").result() == 0
    gate.release(1, "s")
    assert slow.result() == "s"


def test_failure_reaches_all_and_is_not_kept(gate):
    cache = LoadingCache(gate)
    calls = [Call(cache.get, "k")]
    gate.entered(1)
    calls += [Call(cache.get, "k") for _ in range(3)]
    joined(cache, "k", 3)
    error = LookupError("no such thing")
    gate.release(1, error)
    for call in calls:
        with pytest.raises(LookupError) as caught:
            call.result()
        assert caught.value is error
    assert len(cache) == 0
    again = Call(cache.get, "k")
    gate.release(2, "better")
    assert again.result() == "better"
    assert cache.stats() == {"hits": 0, "loads": 2, "joins": 3, "failures": 1, "evictions": 0}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_the_loading_thread_is_ended(gate, error):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    others = [Call(cache.get, "k") for _ in range(4)]
    joined(cache, "k", 4)
    gate.release(1, error)
    with pytest.raises(type(error)):
        first.result()
    gate.entered(2)
    joined(cache, "k", 3)
    gate.release(2, "value")
    assert [call.result() for call in others] == ["value"] * 4
    assert gate.count() == 2
    assert cache.stats() == {"hits": 0, "loads": 2, "joins": 7, "failures": 1, "evictions": 0}


def test_none_and_false_are_values(gate):
    for number, value in enumerate([None, False, 0], 1):
        cache = LoadingCache(gate)
        first = Call(cache.get, "k")
        gate.entered(number)
        second = Call(cache.get, "k")
        joined(cache, "k", 1)
        gate.release(number, lambda key, value=value: value)
        assert first.result() is value and second.result() is value
        assert cache.get("k") is value


def test_timeout(gate):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            Call(cache.get, "k", timeout=timeout).result()
    assert cache.waiting("k") == 0
    patient = Call(cache.get, "k", timeout=60)
    joined(cache, "k", 1)
    gate.release(1, 5)
    assert (first.result(), patient.result(), gate.count()) == (5, 5, 1)
    own = Call(cache.get, "other", timeout=0)
    gate.release(2, 6)
    assert own.result() == 6


@pytest.mark.parametrize("how", ["invalidate", "clear"])
def test_forgetting_during_a_load(gate, how):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    before = Call(cache.get, "k")
    joined(cache, "k", 1)
    Call(cache.invalidate, "k").result() if how == "invalidate" else Call(cache.clear).result()
    assert cache.waiting("k") == 0
    late = Call(cache.get, "k")
    gate.entered(2)
    later = Call(cache.get, "k")
    joined(cache, "k", 1)
    gate.release(1, "old")
    assert (first.result(), before.result()) == ("old", "old")
    joined(cache, "k", 1)
    gate.release(2, "new")
    assert (late.result(), later.result()) == ("new", "new")
    assert (cache.get("k"), gate.count()) == ("new", 2)


def test_the_old_load_ends_last(gate):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    cache.invalidate("k")
    second = Call(cache.get, "k")
    gate.release(2, "new")
    assert second.result() == "new"
    gate.release(1, "old")
    assert first.result() == "old"
    assert cache.get("k") == "new"


def test_a_forgotten_load_that_fails(gate):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    cache.invalidate("k")
    second = Call(cache.get, "k")
    gate.entered(2)
    gate.release(1, ValueError("old"))
    with pytest.raises(ValueError):
        first.result()
    third = Call(cache.get, "k")
    joined(cache, "k", 1)
    gate.release(2, "new")
    assert (second.result(), third.result(), gate.count()) == ("new", "new", 2)


def test_put_during_a_load(gate):
    cache = LoadingCache(gate)
    first = Call(cache.get, "k")
    gate.entered(1)
    before = Call(cache.get, "k")
    joined(cache, "k", 1)
    Call(cache.put, "k", "put").result()
    assert Call(cache.get, "k").result() == "put"
    gate.release(1, "loaded")
    assert (first.result(), before.result(), cache.get("k")) == ("loaded", "loaded", "put")
    assert gate.count() == 1


def test_a_joined_value_that_is_gone_at_once(gate, clock):
    cache = LoadingCache(gate, ttl=0, clock=clock)
    first = Call(cache.get, "k")
    gate.entered(1)
    others = [Call(cache.get, "k") for _ in range(3)]
    joined(cache, "k", 3)
    gate.release(1, "brief")
    assert [call.result() for call in [first, *others]] == ["brief"] * 4
    assert gate.count() == 1 and len(cache) == 0


def test_loaders_may_use_the_cache():
    def loader(key):
        if key > 1:
            return cache.get(key - 1) + cache.get(key - 2)
        return key

    cache = LoadingCache(loader)
    assert Call(cache.get, 30).result() == 832040
    assert cache.stats()["loads"] == 31

    def invalidating(key):
        other.invalidate(key)
        other.put("side", key)
        return len(other)

    other = LoadingCache(invalidating)
    assert Call(other.get, "k").result() == 1
    assert Call(other.get, "side").result() == "k"


def test_own_key_is_a_cycle():
    cache = LoadingCache(lambda key: cache.get(key))
    with pytest.raises(LoadCycleError):
        Call(cache.get, "k").result()
    chain = {"a": "b", "b": "c", "c": "a", "d": "a"}
    chained = LoadingCache(lambda key: chained.get(chain[key]))
    for start in "adc":
        with pytest.raises(LoadCycleError):
            Call(chained.get, start).result()
    assert len(chained) == 0
    chain["c"] = "e"
    chained.put("e", 9)
    assert Call(chained.get, "d").result() == 9


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("timeout", [None, 60])
def test_cycle_over_threads(gate, size, timeout):
    cache = LoadingCache(gate)
    calls = []
    for number in range(size):
        calls.append(Call(cache.get, number))
        gate.entered(number + 1)
    # Each load now wants the next key; the last one would close the circle.
    for number in range(size - 1):
        gate.release(number + 1, lambda key: ("via", cache.get(key + 1, timeout)))
        joined(cache, number + 1, 1)

    def last(key):
        try:
            return cache.get(0, timeout)
        except LoadCycleError:
            return "cycle"

    gate.release(size, last)
    assert calls[-1].result() == "cycle"
    expected = "cycle"
    for call in reversed(calls[:-1]):
        expected = ("via", expected)
        assert call.result() == expected
    assert gate.count() == size


def test_waiting_in_a_row_is_no_cycle(gate):
    cache = LoadingCache(gate)
    a = Call(cache.get, "a")
    gate.entered(1)
    b = Call(cache.get, "b")
    gate.release(2, lambda key: cache.get("a") + "b")
    joined(cache, "a", 1)
    c = Call(cache.get, "c")
    gate.release(3, lambda key: cache.get("b") + cache.get("a") + "c")
    joined(cache, "b", 1)
    gate.release(1, "a")
    assert (a.result(), b.result(), c.result()) == ("a", "ab", "abac")


def test_no_cycle_after_a_timeout(gate):
    cache = LoadingCache(gate)
    a = Call(cache.get, "a")
    gate.entered(1)
    b = Call(cache.get, "b")

    def impatient(key):
        with pytest.raises(TimeoutError):
            cache.get("a", timeout=0.01)
        return gate("inner")

    gate.release(2, impatient)
    gate.entered(3)
    gate.release(1, lambda key: cache.get("b") + "a")
    joined(cache, "b", 1)
    gate.release(3, "b")
    assert (b.result(), a.result()) == ("b", "ba")


def test_forgotten_loads_may_still_be_part_of_a_cycle(gate):
    cache = LoadingCache(gate)
    a = Call(cache.get, "a")
    gate.entered(1)
    b = Call(cache.get, "b")
    gate.release(2, lambda key: cache.get("a"))
    joined(cache, "a", 1)
    cache.invalidate("a")
    # b still waits for the old load of a, which now wants b.
    gate.release(1, lambda key: cache.get("b"))
    with pytest.raises(LoadCycleError):
        a.result()
    with pytest.raises(LoadCycleError):
        b.result()


class Steps:
    """Stops one thread at its n-th step through code of the caller."""

    def __init__(self, stop_at):
        self.stop_at = stop_at
        self.stopped = threading.Event()
        self.go = threading.Event()
        self.victim = None
        self.steps = 0

    def step(self):
        if threading.current_thread() is self.victim:
            self.steps += 1
            if self.steps == self.stop_at:
                self.stopped.set()
                self.go.wait(0.1)  # who holds a lock here must not wait for the other thread


class Key:
    def __init__(self, name, steps):
        self.name, self.steps = name, steps

    def __hash__(self):
        self.steps.step()
        return hash(self.name)

    def __eq__(self, other):
        self.steps.step()
        return isinstance(other, Key) and self.name == other.name

    def __repr__(self):
        return f"Key({self.name})"


@pytest.mark.parametrize("stop_at", range(1, 16))
@pytest.mark.parametrize("expired", [False, True])
def test_two_threads_at_every_step(stop_at, expired):
    steps = Steps(stop_at)
    loads = []
    now = [0]

    def clock():
        steps.step()
        return now[0]

    cache = LoadingCache(lambda key: loads.append(key.name) or len(loads), ttl=10, max_entries=3, clock=clock)
    if expired:
        cache.get(Key("k", steps))
        now[0] = 10
        loads.clear()
    ready = threading.Event()

    def first():
        steps.victim = threading.current_thread()
        ready.set()
        return cache.get(Key("k", steps))

    one = Call(first)
    ready.wait()
    until(lambda: steps.stopped.is_set() or not one.is_alive(), "the first thread stops or ends")
    two = Call(cache.get, Key("k", steps))
    two.join(0.05)
    steps.go.set()
    assert (one.result(), two.result()) == (1, 1)
    assert loads == ["k"], "loaded more than once"
    assert len(cache) == 1
    stats = cache.stats()
    assert stats["hits"] + stats["joins"] == 1
