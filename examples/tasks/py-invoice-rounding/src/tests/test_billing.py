from billing import Invoice, Line, Money, allocate


def test_parse_and_print():
    assert Money.parse("1,234.50", "EUR") == Money(123450, "EUR")
    assert str(Money(123450, "EUR")) == "1234.50 EUR"


def test_allocate_even():
    assert allocate(100, [1, 1, 2]) == [25, 25, 50]


def test_totals():
    invoice = Invoice("EUR", [Line("Desk", "2", "150.00", "20")], discount_percent="10")
    totals = invoice.totals()
    assert totals["discount"] == Money(3000, "EUR")
    assert totals["taxes"] == {"20": Money(5400, "EUR")}
    assert totals["total"] == Money(32400, "EUR")
