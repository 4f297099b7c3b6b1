"""A page with a table."""

from html import escape

from .. import resources


def render(title, rows, texts):
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    page = resources.template(texts["template"])
    return page.replace("{title}", escape(title)).replace("{rows}", body)
