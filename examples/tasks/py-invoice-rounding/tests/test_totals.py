import json
import os
import random
import subprocess
import sys
from fractions import Fraction

import pytest

from billing import Invoice, Line, Money, allocate


def half_away(value):
    sign = -1 if value < 0 else 1
    return sign * int(abs(value) + Fraction(1, 2))


def net(quantity, price, currency="EUR"):
    return Line("x", quantity, price).net(currency).minor


@pytest.mark.parametrize(
    "quantity, price, currency, minor",
    [
        ("1", "0.125", "EUR", 13),
        ("1", "0.135", "EUR", 14),
        ("1", "1.005", "EUR", 101),
        ("-1", "0.125", "EUR", -13),
        ("3", "0.335", "EUR", 101),
        ("0.5", "5", "JPY", 3),
        ("0.5", "7", "JPY", 4),
        ("-0.5", "5", "JPY", -3),
        ("1.0000000000000000000000000001", "0.005", "EUR", 1),
        ("0.9999999999999999999999999999", "0.005", "EUR", 0),
        ("1", "1.0005", "KWD", 1001),
        ("3", "90071992547409.93", "EUR", 27021597764222979),
        ("1", "1234567890123456789012345678901234567890.125", "EUR",
         123456789012345678901234567890123456789013),
    ],
)
def test_line_net(quantity, price, currency, minor):
    assert net(quantity, price, currency) == minor


@pytest.mark.parametrize(
    "total, weights, parts",
    [
        (100, [1, 1, 1], [34, 33, 33]),
        (1, [1, 1, 1], [1, 0, 0]),
        (5, [1, 1], [3, 2]),
        (-100, [1, 1, 1], [-34, -33, -33]),
        (10, [0, 3, 0, 3, 3], [0, 4, 0, 3, 3]),
        (7, [1, 2, 4], [1, 2, 4]),
        (8, [1, 2, 4], [1, 2, 5]),
        (2, [5, 10, 10], [0, 1, 1]),
        (0, [0, 0], [0, 0]),
        (10**30 + 1, [1, 1], [5 * 10**29 + 1, 5 * 10**29]),
    ],
)
def test_allocate(total, weights, parts):
    assert allocate(total, weights) == parts


@pytest.mark.parametrize("total, weights", [(1, [0, 0]), (5, []), (3, [4, -4])])
def test_allocate_without_weight(total, weights):
    with pytest.raises(ValueError):
        allocate(total, weights)


def test_allocate_invariants():
    rng = random.Random(20240117)
    for _ in range(400):
        weights = [rng.choice([0, rng.randrange(1, 50), rng.randrange(1, 10**20)])
                   for _ in range(rng.randrange(1, 9))]
        if sum(weights) == 0:
            continue
        total = rng.choice([1, -1]) * rng.randrange(0, 10**rng.randrange(1, 22))
        parts = allocate(total, weights)
        assert sum(parts) == total, (total, weights, parts)
        for part, weight in zip(parts, weights):
            exact = Fraction(total * weight, sum(weights))
            assert abs(part - exact) < 1, (total, weights, parts)
            if weight == 0:
                assert part == 0


def test_discount_shares_add_up():
    lines = [Line(c, "1", "0.33", "20") for c in "abcdefg"]
    totals = Invoice("EUR", lines, discount_amount=Money(100, "EUR")).totals()
    assert sum(s.minor for s in totals["shares"]) == 100
    assert [s.minor for s in totals["shares"]] == [15, 15, 14, 14, 14, 14, 14]
    assert totals["taxes"] == {"20": Money(26, "EUR")}
    assert totals["total"] == Money(231 - 100 + 26, "EUR")


def test_percent_discount_rounds_half_up_once():
    totals = Invoice("EUR", [Line("a", "1", "0.25"), Line("b", "1", "0.25")], discount_percent="5").totals()
    assert totals["discount"] == Money(3, "EUR")
    assert [s.minor for s in totals["shares"]] == [2, 1]
    assert totals["total"] == Money(47, "EUR")


def test_tax_is_rounded_per_rate_not_per_line():
    lines = [Line(str(i), "1", "0.02", "20") for i in range(10)]
    assert Invoice("EUR", lines).totals()["taxes"] == {"20": Money(4, "EUR")}


def test_equal_rates_are_one_group():
    lines = [
        Line("a", "1", "0.02", "20"),
        Line("b", "1", "0.13", "5.5"),
        Line("c", "1", "0.02", "20.0"),
        Line("d", "1", "0.13", "5.50"),
        Line("e", "1", "9.99", "0"),
    ]
    totals = Invoice("EUR", lines).totals()
    assert totals["taxes"] == {"20": Money(1, "EUR"), "5.5": Money(1, "EUR"), "0": Money(0, "EUR")}
    assert list(totals["taxes"]) == ["20", "5.5", "0"]


def test_credit_note_mirrors_invoice():
    def totals(sign):
        lines = [Line("a", sign + "3", "1.115", "7.7"), Line("b", sign + "1", "0.125", "2.5")]
        return Invoice("CHF", lines, discount_percent="2.5").totals()

    plus, minus = totals(""), totals("-")
    assert minus["total"] == -plus["total"]
    assert minus["discount"] == -plus["discount"]
    assert minus["shares"] == [-share for share in plus["shares"]]
    assert minus["taxes"] == {rate: -amount for rate, amount in plus["taxes"].items()}


def test_random_invoices_match_exact_arithmetic():
    rng = random.Random(7)
    for _ in range(150):
        lines, nets = [], []
        for number in range(rng.randrange(1, 7)):
            quantity = f"{rng.randrange(1, 40)}.{rng.randrange(10)}"
            price = f"{rng.randrange(0, 10**rng.randrange(1, 17))}.{rng.randrange(1, 1000):03d}"
            lines.append(Line(str(number), quantity, price, rng.choice(["0", "5.5", "19", "20"])))
            nets.append(half_away(Fraction(quantity) * Fraction(price) * 100))
        percent = rng.choice(["0", "2.5", "33.3"])
        totals = Invoice("EUR", lines, discount_percent=percent).totals()
        discount = half_away(Fraction(sum(nets)) * Fraction(percent) / 100)
        assert totals["subtotal"].minor == sum(nets)
        assert totals["discount"].minor == discount
        groups = {}
        for line, amount, share in zip(lines, nets, totals["shares"]):
            groups[line.tax_rate] = groups.get(line.tax_rate, 0) + amount - share.minor
        taxes = {rate: half_away(base * Fraction(rate) / 100) for rate, base in groups.items()}
        assert {rate: tax.minor for rate, tax in totals["taxes"].items()} == taxes
        assert totals["total"].minor == sum(nets) - discount + sum(taxes.values())


def test_command_line(tmp_path):
    path = tmp_path / "invoice.json"
    path.write_text(json.dumps({
        "currency": "EUR",
        "discount_amount": "0.10",
        "lines": [
            {"description": "a", "quantity": "3", "unit_price": "1.005", "tax_rate": "20"},
            {"description": "b", "quantity": "1", "unit_price": "20000", "tax_rate": "0"},
        ],
    }))
    done = subprocess.run([sys.executable, "-m", "billing", str(path)], capture_output=True, text=True,
                          env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert [line.split()[-2:] for line in done.stdout.splitlines()] == [
        ["20003.02", "EUR"], ["0.10", "EUR"], ["0.60", "EUR"], ["0.00", "EUR"], ["20003.52", "EUR"],
    ]
