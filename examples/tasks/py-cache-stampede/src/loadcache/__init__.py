"""A cache for threads that loads what is missing."""

from .cache import LoadingCache
from .errors import LoadCycleError

__all__ = ["LoadCycleError", "LoadingCache"]
