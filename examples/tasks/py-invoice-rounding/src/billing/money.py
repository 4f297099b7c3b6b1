"""Amounts of money, held as an integer of the currency's minor unit."""

from dataclasses import dataclass

_EXPONENTS = {
    "JPY": 0,
    "KRW": 0,
    "CHF": 2,
    "EUR": 2,
    "GBP": 2,
    "USD": 2,
    "BHD": 3,
    "KWD": 3,
}


def exponent(currency):
    """Number of decimals of a currency."""
    try:
        return _EXPONENTS[currency]
    except KeyError:
        raise ValueError(f"unknown currency {currency!r}") from None


@dataclass(frozen=True)
class Money:
    minor: int
    currency: str

    @classmethod
    def parse(cls, text, currency):
        """Read '1,234.50'; ValueError if it is no amount of that currency."""
        scale = 10 ** exponent(currency)
        return cls(int(float(text.replace(",", "")) * scale), currency)

    @classmethod
    def product(cls, quantity, unit_price, currency):
        """quantity * unit_price, both decimal text, rounded to the minor unit."""
        scale = 10 ** exponent(currency)
        return cls(round(float(quantity) * float(unit_price) * scale), currency)

    def percent(self, rate):
        """rate percent of this amount, rounded to the minor unit."""
        return Money(round(self.minor * float(rate) / 100), self.currency)

    def _same(self, other):
        if self.currency != other.currency:
            raise ValueError(f"cannot mix {self.currency} and {other.currency}")

    def __add__(self, other):
        self._same(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other):
        self._same(other)
        return Money(self.minor - other.minor, self.currency)

    def __neg__(self):
        return Money(-self.minor, self.currency)

    def __str__(self):
        decimals = exponent(self.currency)
        return f"{self.minor / 10 ** decimals:.{decimals}f} {self.currency}"
