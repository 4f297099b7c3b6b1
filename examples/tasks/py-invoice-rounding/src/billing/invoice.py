"""Invoices and their totals."""

from dataclasses import dataclass
from typing import List, Optional

from .allocation import allocate
from .money import Money


@dataclass(frozen=True)
class Line:
    """One position; numbers are decimal text as they were typed in."""

    description: str
    quantity: str
    unit_price: str
    tax_rate: str = "0"

    def net(self, currency):
        return Money.product(self.quantity, self.unit_price, currency)


@dataclass(frozen=True)
class Invoice:
    currency: str
    lines: List[Line]
    discount_percent: Optional[str] = None
    discount_amount: Optional[Money] = None

    def __post_init__(self):
        if self.discount_percent is not None and self.discount_amount is not None:
            raise ValueError("give the discount in percent or as an amount, not both")
        if self.discount_amount is not None and self.discount_amount.currency != self.currency:
            raise ValueError("the discount is in another currency")

    def _discount(self, subtotal):
        if self.discount_percent is not None:
            return subtotal.percent(self.discount_percent)
        if self.discount_amount is not None:
            return self.discount_amount
        return Money(0, self.currency)

    def totals(self):
        """subtotal, discount, shares (per line), taxes (per rate), total."""
        nets = [line.net(self.currency) for line in self.lines]
        subtotal = Money(sum(net.minor for net in nets), self.currency)
        discount = self._discount(subtotal)
        shares = [
            Money(part, self.currency)
            for part in allocate(discount.minor, [net.minor for net in nets])
        ]
        taxes = {}
        for line, net, share in zip(self.lines, nets, shares):
            tax = (net - share).percent(line.tax_rate)
            taxes[line.tax_rate] = taxes.get(line.tax_rate, Money(0, self.currency)) + tax
        total = subtotal - discount
        for tax in taxes.values():
            total = total + tax
        return {
            "subtotal": subtotal,
            "discount": discount,
            "shares": shares,
            "taxes": taxes,
            "total": total,
        }
