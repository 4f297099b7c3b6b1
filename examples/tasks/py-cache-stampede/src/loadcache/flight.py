"""Loads that are under way."""

import threading


class Flight:
    """One call of the loader, and who waits for it."""

    def __init__(self):
        self.done = threading.Event()
        self.waiters = 0
        self.value = None

    def finish(self, value):
        self.value = value
        self.done.set()

    def wait(self, timeout):
        self.waiters += 1
        finished = self.done.wait(timeout)
        self.waiters -= 1
        return finished
