from reportkit.formats import csv, text

TEXTS = {"rows": "{} rows"}


def test_text():
    assert text.render("T", [["a", "bb"], ["ccc", "d"]], TEXTS) == "T\n=\na    bb\nccc  d\n1 rows\n"


def test_csv():
    assert csv.render("T", [["a", 'b"']], TEXTS) == '"a","b"""\n'
