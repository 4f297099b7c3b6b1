"""The cache itself."""

import threading
import time

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
        self._store = Store(max_entries, clock)
        self._flights = {}
        self._load_lock = threading.Lock()
        self._hits = self._loads = self._joins = self._failures = 0

    def get(self, key, timeout=None):
        """The value of a key; TimeoutError if another thread's load takes too long."""
        entry = self._store.find(key)
        if entry is not None:
            self._hits += 1
            return entry.value
        flight = self._flights.get(key)
        if flight is not None:
            self._joins += 1
            if not flight.wait(timeout):
                raise TimeoutError(f"the load of {key!r} takes too long")
            return self._store.find(key).value
        flight = self._flights[key] = Flight()
        self._loads += 1
        with self._load_lock:
            value = self._loader(key)
        self._store.add(key, value, self._ttl)
        flight.finish(value)
        del self._flights[key]
        return value

    def put(self, key, value):
        """Store a value as if it had been loaded."""
        self._store.add(key, value, self._ttl)

    def invalidate(self, key):
        """Forget the value of a key."""
        self._store.drop(key)

    def clear(self):
        """Forget all values."""
        self._store.clear()

    def waiting(self, key):
        """Number of threads that wait for the load of a key."""
        flight = self._flights.get(key)
        return 0 if flight is None else flight.waiters

    def stats(self):
        return {
            "hits": self._hits,
            "loads": self._loads,
            "joins": self._joins,
            "failures": self._failures,
            "evictions": self._store.evictions,
        }

    def __len__(self):
        return len(self._store)
