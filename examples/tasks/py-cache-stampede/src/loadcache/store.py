"""The values in the order of their use."""

from collections import OrderedDict


class Entry:
    __slots__ = ("value", "expires")

    def __init__(self, value, expires):
        self.value = value
        self.expires = expires


class Store:
    """At most max_entries values; not safe for threads by itself."""

    def __init__(self, max_entries, clock):
        self._max = max_entries
        self._clock = clock
        self._entries = OrderedDict()
        self.evictions = 0

    def fresh(self, entry):
        return entry.expires is None or self._clock() <= entry.expires

    def find(self, key):
        """The fresh entry of a key, or None."""
        entry = self._entries.get(key)
        if entry is None or not self.fresh(entry):
            return None
        return entry

    def add(self, key, value, ttl):
        expires = None if ttl is None else self._clock() + ttl
        self._entries[key] = Entry(value, expires)
        if self._max is not None and len(self._entries) > self._max:
            self._entries.popitem(last=False)
            self.evictions += 1

    def drop(self, key):
        self._entries.pop(key, None)

    def clear(self):
        self._entries.clear()

    def __len__(self):
        return len(self._entries)
