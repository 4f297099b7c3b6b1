"""Print the totals of an invoice file."""

import json
import sys

from . import Invoice, Line, Money


def load(document):
    lines = [
        Line(
            entry["description"],
            entry["quantity"],
            entry["unit_price"],
            entry.get("tax_rate", "0"),
        )
        for entry in document["lines"]
    ]
    currency = document["currency"]
    amount = document.get("discount_amount")
    return Invoice(
        currency,
        lines,
        discount_percent=document.get("discount_percent"),
        discount_amount=Money.parse(amount, currency) if amount is not None else None,
    )


def main(argv):
    if len(argv) != 2:
        print("usage: python3 -m billing INVOICE.json", file=sys.stderr)
        return 2
    with open(argv[1], encoding="utf-8") as handle:
        totals = load(json.load(handle)).totals()
    print(f"subtotal  {totals['subtotal']}")
    print(f"discount  {totals['discount']}")
    for rate, amount in totals["taxes"].items():
        print(f"tax {rate:>4}%  {amount}")
    print(f"total     {totals['total']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
