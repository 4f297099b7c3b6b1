"""CSV with all fields in quotes."""

import csv
import io


def render(title, rows, texts):
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return out.getvalue()
