"""Helpers that make threads take turns in a known order."""

import faulthandler
import threading
import time

import pytest



class Patience:
    """Seconds after which a thread counts as stuck; only reached in failing tests.

    Once something was stuck the run has failed, so the rest need not take long.
    """

    seconds = 8

    @classmethod
    def lost(cls, what):
        cls.seconds = 0.2
        pytest.fail(what)


# If threads hang for good, say where, instead of hanging with them.
faulthandler.dump_traceback_later(100, exit=True)


class Call(threading.Thread):
    """Runs a function in a thread of its own and keeps what came of it."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self._call = (function, args, kwargs)
        self.value = self.error = None
        self.start()

    def run(self):
        function, args, kwargs = self._call
        try:
            self.value = function(*args, **kwargs)
        except BaseException as error:
            self.error = error

    def result(self):
        self.join(Patience.seconds)
        if self.is_alive():
            Patience.lost("a thread is stuck")
        if self.error is not None:
            raise self.error
        return self.value


def until(condition, what):
    """Wait for a state that comes about sooner or later, however slow the machine."""
    end = time.monotonic() + Patience.seconds
    while not condition():
        if time.monotonic() > end:
            Patience.lost(f"never came about: {what}")
        time.sleep(0.001)


class Gate:
    """A loader whose calls stop until they are let go, each by itself."""

    def __init__(self):
        self.calls = []
        self._lock = threading.Lock()

    def __call__(self, key):
        call = {"key": key, "go": threading.Event(), "thread": threading.get_ident()}
        with self._lock:
            self.calls.append(call)
        assert call["go"].wait(60)
        outcome = call["outcome"]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome(key) if callable(outcome) else outcome

    def entered(self, number):
        until(lambda: len(self.calls) >= number, f"{number} loader calls")
        return self.calls[number - 1]

    def release(self, number, outcome):
        call = self.entered(number)
        call["outcome"] = outcome
        call["go"].set()

    def count(self, key=None):
        return len([c for c in self.calls if key is None or c["key"] == key])


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    for call in gate.calls:
        call.setdefault("outcome", None)
        call["go"].set()


@pytest.fixture
def clock():
    return Clock()
