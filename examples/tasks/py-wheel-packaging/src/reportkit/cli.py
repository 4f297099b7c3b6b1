"""The command reportkit."""

import argparse
import csv
import sys

from . import __version__, registry, resources


def main(argv=None):
    parser = argparse.ArgumentParser(prog="reportkit", description="Turns CSV on standard input into a report.")
    parser.add_argument("--format", default="text")
    parser.add_argument("--language", default="en")
    parser.add_argument("--mail", action="store_true", help="HTML as it is fit for a mail")
    parser.add_argument("--list", action="store_true", help="list the formats")
    parser.add_argument("--version", action="version", version=f"reportkit {__version__}")
    options = parser.parse_args(argv)
    formats = registry.formats()
    if options.list:
        for name in sorted(formats):
            print(name)
        return 0
    if options.format not in formats:
        print(f"reportkit: there is no format {options.format!r}", file=sys.stderr)
        return 2
    try:
        texts = resources.texts(options.language)
    except FileNotFoundError:
        print(f"reportkit: there is no language {options.language!r}", file=sys.stderr)
        return 2
    texts["template"] = "mail/page.html" if options.mail else "page.html"
    rows = list(csv.reader(sys.stdin))
    sys.stdout.write(formats[options.format](texts["title"], rows, texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
