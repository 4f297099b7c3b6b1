#!/bin/sh
# One lock for the state of the cache, never held while a loader runs.
set -eu
cat > src/loadcache/store.py <<'E'
"""The values in the order of their use."""

from collections import OrderedDict


class Entry:
    __slots__ = ("value", "expires")

    def __init__(self, value, expires):
        self.value = value
        self.expires = expires

    def fresh(self, now):
        return self.expires is None or now < self.expires


class Store:
    """At most max_entries values; not safe for threads by itself."""

    def __init__(self, max_entries, clock):
        self._max = max_entries
        self._clock = clock
        self._entries = OrderedDict()
        self.evictions = 0

    def find(self, key):
        """The fresh entry of a key, which counts as used, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not entry.fresh(self._clock()):
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def add(self, key, value, ttl):
        now = self._clock()
        self._entries[key] = Entry(value, None if ttl is None else now + ttl)
        self._entries.move_to_end(key)
        if self._max is None or len(self._entries) <= self._max:
            return
        self._expire(now)
        while len(self._entries) > self._max:
            self._entries.popitem(last=False)
            self.evictions += 1

    def _expire(self, now):
        for key in [key for key, entry in self._entries.items() if not entry.fresh(now)]:
            del self._entries[key]

    def drop(self, key):
        self._entries.pop(key, None)

    def clear(self):
        self._entries.clear()

    def __len__(self):
        now = self._clock()
        return sum(entry.fresh(now) for entry in self._entries.values())
E
cat > src/loadcache/flight.py <<'E'
"""Loads that are under way."""

import threading


class Flight:
    """One call of the loader, and who waits for it.

    owner is the thread that runs the loader. waiters is guarded by the lock of
    the cache; the outcome is set once, before done.
    """

    def __init__(self, owner):
        self.owner = owner
        self.done = threading.Event()
        self.waiters = 0
        self.value = None
        self.error = None
        self.abandoned = False

    def result(self):
        if self.error is not None:
            raise self.error
        return self.value
E
cat > src/loadcache/cache.py <<'E'
"""The cache itself."""

import threading
import time

from .errors import LoadCycleError
from .flight import Flight
from .store import Store


class LoadingCache:
    """Values by key, loaded with loader(key) when they are missing.

    ttl: seconds for which a value is fresh, None for ever
    max_entries: how many values are kept, None for all
    clock: a function that returns seconds
    """

    def __init__(self, loader, ttl=None, max_entries=None, clock=time.monotonic):
        if max_entries is not None and max_entries < 1:
            raise ValueError("max_entries must be at least 1")
        self._loader = loader
        self._ttl = ttl
        # Guards all that follows. Reentrant, as keys are code of the caller.
        self._lock = threading.RLock()
        self._store = Store(max_entries, clock)
        self._flights = {}  # the load that a new get joins, by key
        self._waits = {}  # the load that a thread waits for, by thread
        self._hits = self._loads = self._joins = self._failures = 0

    def get(self, key, timeout=None):
        """The value of a key; TimeoutError if another thread's load takes too long."""
        me = threading.get_ident()
        while True:
            with self._lock:
                entry = self._store.find(key)
                if entry is not None:
                    self._hits += 1
                    return entry.value
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = Flight(me)
                    self._loads += 1
                    break
                if self._would_wait_for(flight, me):
                    raise LoadCycleError(f"the load of {key!r} would wait for itself")
                self._joins += 1
                flight.waiters += 1
                self._waits[me] = flight
            try:
                finished = flight.done.wait(timeout)
            finally:
                with self._lock:
                    flight.waiters -= 1
                    del self._waits[me]
            if not finished:
                raise TimeoutError(f"the load of {key!r} takes too long")
            if not flight.abandoned:
                return flight.result()
        return self._load(key, flight)

    def _would_wait_for(self, flight, thread):
        """Whether a load waits for a load of the thread, over any number of others."""
        # A load that is done holds nobody up, even if not all have woken up yet.
        while flight is not None and not flight.done.is_set():
            if flight.owner == thread:
                return True
            flight = self._waits.get(flight.owner)
        return False

    def _load(self, key, flight):
        try:
            value = self._loader(key)
        except BaseException as error:
            with self._lock:
                self._failures += 1
                self._end(key, flight)
                if isinstance(error, Exception):
                    flight.error = error
                else:
                    flight.abandoned = True
                flight.done.set()
            raise
        with self._lock:
            # Not stored if the key was invalidated or put in the meantime.
            if self._end(key, flight):
                self._store.add(key, value, self._ttl)
            flight.value = value
            flight.done.set()
        return value

    def _end(self, key, flight):
        """Take a load off the list; False if it was taken off before."""
        if self._flights.get(key) is not flight:
            return False
        del self._flights[key]
        return True

    def put(self, key, value):
        """Store a value as if it had been loaded."""
        with self._lock:
            self._flights.pop(key, None)
            self._store.add(key, value, self._ttl)

    def invalidate(self, key):
        """Forget the value of a key."""
        with self._lock:
            self._flights.pop(key, None)
            self._store.drop(key)

    def clear(self):
        """Forget all values."""
        with self._lock:
            self._flights.clear()
            self._store.clear()

    def waiting(self, key):
        """Number of threads that wait for the load of a key."""
        with self._lock:
            flight = self._flights.get(key)
            return 0 if flight is None else flight.waiters

    def stats(self):
        with self._lock:
            return {
                "hits": self._hits,
                "loads": self._loads,
                "joins": self._joins,
                "failures": self._failures,
                "evictions": self._store.evictions,
            }

    def __len__(self):
        with self._lock:
            return len(self._store)
E
