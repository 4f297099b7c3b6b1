import pytest

from billing import Money


@pytest.mark.parametrize(
    "text, currency, minor",
    [
        ("19.99", "EUR", 1999),
        ("1.15", "USD", 115),
        ("0.29", "GBP", 29),
        ("-0.05", "EUR", -5),
        ("+3.1", "EUR", 310),
        ("1,234,567.89", "EUR", 123456789),
        ("7", "CHF", 700),
        ("1500", "JPY", 1500),
        ("2.675", "KWD", 2675),
        ("90071992547409.93", "EUR", 9007199254740993),
        ("123456789012345678901234567890.12", "EUR", 12345678901234567890123456789012),
    ],
)
def test_parse_is_exact(text, currency, minor):
    assert Money.parse(text, currency) == Money(minor, currency)


@pytest.mark.parametrize(
    "text, currency",
    [
        ("1.234", "EUR"),
        ("0.5", "JPY"),
        ("1.2345", "KWD"),
        ("", "EUR"),
        ("-", "EUR"),
        ("nan", "EUR"),
        ("inf", "EUR"),
        ("1e3", "EUR"),
        ("1_000", "EUR"),
        ("1.2.3", "EUR"),
        ("ten", "EUR"),
        ("1.00", "XXX"),
    ],
)
def test_parse_rejects(text, currency):
    with pytest.raises(ValueError):
        Money.parse(text, currency)


@pytest.mark.parametrize(
    "minor, currency, text",
    [
        (-5, "EUR", "-0.05 EUR"),
        (0, "EUR", "0.00 EUR"),
        (7, "KWD", "0.007 KWD"),
        (1250, "KWD", "1.250 KWD"),
        (1500, "JPY", "1500 JPY"),
        (-1500, "JPY", "-1500 JPY"),
        (9007199254740993, "EUR", "90071992547409.93 EUR"),
        (-12345678901234567890123456789012, "USD", "-123456789012345678901234567890.12 USD"),
    ],
)
def test_print_has_every_digit(minor, currency, text):
    assert str(Money(minor, currency)) == text
