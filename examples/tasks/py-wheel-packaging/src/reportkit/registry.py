"""Finds the formats."""

import sys
from importlib import metadata

from .formats import csv, html, text

GROUP = "reportkit.format"


def formats():
    """The functions that render, by name; plugins win over the built-in ones."""
    found = {"text": text.render, "html": html.render, "csv": csv.render}
    points = metadata.entry_points(group=GROUP)
    for point in points:
        found[point.name] = point.load()
    return found
