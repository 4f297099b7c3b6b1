"""Errors of the cache."""


class LoadCycleError(RuntimeError):
    """A load would wait for itself."""
