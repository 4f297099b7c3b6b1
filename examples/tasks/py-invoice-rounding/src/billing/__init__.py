"""Invoice totals: nets, discounts, taxes."""

from .allocation import allocate
from .invoice import Invoice, Line
from .money import Money, exponent

__all__ = ["Invoice", "Line", "Money", "allocate", "exponent"]
