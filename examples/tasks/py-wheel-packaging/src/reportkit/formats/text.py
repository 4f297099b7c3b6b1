"""Plain text, in columns."""


def render(title, rows, texts):
    columns = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    lines = [title, "=" * len(title)]
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    lines.append(texts["rows"].format(max(len(rows) - 1, 0)))
    return "\n".join(lines) + "\n"
