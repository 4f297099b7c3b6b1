"""Compares documents fed in pieces with documents given whole: feed.py LIBRARY SPEC."""
import ctypes
import random
import re
import sys

DEFAULT, SOURCEPOS, SMART = 0, 1 << 1, 1 << 10

cmark = ctypes.CDLL(sys.argv[1])
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
cmark.cmark_parser_new.argtypes = [ctypes.c_int]
cmark.cmark_parser_new.restype = ctypes.c_void_p
cmark.cmark_parser_feed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
cmark.cmark_parser_feed.restype = None
cmark.cmark_parser_finish.argtypes = [ctypes.c_void_p]
cmark.cmark_parser_finish.restype = ctypes.c_void_p
cmark.cmark_parser_free.argtypes = [ctypes.c_void_p]
cmark.cmark_parser_free.restype = None
cmark.cmark_parse_document.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
cmark.cmark_parse_document.restype = ctypes.c_void_p
cmark.cmark_render_xml.argtypes = [ctypes.c_void_p, ctypes.c_int]
cmark.cmark_render_xml.restype = ctypes.c_void_p
cmark.cmark_node_free.argtypes = [ctypes.c_void_p]
cmark.cmark_node_free.restype = None

checks = 0


def tree(node):
    """The tree as text, with positions; frees it."""
    text = cmark.cmark_render_xml(node, SOURCEPOS)
    result = ctypes.string_at(text)
    libc.free(text)
    cmark.cmark_node_free(node)
    return result


def whole(text, options=DEFAULT):
    return tree(cmark.cmark_parse_document(text, len(text), options))


def fed(pieces, options=DEFAULT):
    parser = cmark.cmark_parser_new(options)
    for piece in pieces:
        cmark.cmark_parser_feed(parser, piece, len(piece))
    document = cmark.cmark_parser_finish(parser)
    cmark.cmark_parser_free(parser)
    return tree(document)


def check(condition, message):
    global checks
    checks += 1
    if not condition:
        print(message)
        sys.exit(1)


def same(text, pieces, options=DEFAULT):
    assert b"".join(pieces) == text and all(pieces)
    shown = [piece[:40] for piece in pieces[:12]]
    check(fed(pieces, options) == whole(text, options), f"another tree in {len(pieces)} pieces: {shown}")


def every(text, size):
    return [text[i:i + size] for i in range(0, len(text), size)]


def cut(text, places):
    bounds = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in zip(bounds, bounds[1:])]


def examples(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        found = re.findall(r"^`{32} example\n(.*?)^\.$", file.read(), re.MULTILINE | re.DOTALL)
    check(len(found) > 600, f"{len(found)} examples in the specification")
    return [example.replace("\u2192", "\t") for example in found]


ENDS = (["\n"], ["\r"], ["\r\n"], ["\r", "\n"], ["\r\n", "\n"], ["\r", "\r\n", "\n", "\n"], ["\n", "\n", "\r", "\r", "\r"])


def ended(text, ends):
    """The text with its lines ending in one after the other of these."""
    lines = text.split("\n")
    for i in range(len(lines) - 1):
        lines[i] += ends[i % len(ends)]
    return "".join(lines).encode()


def line_ends(spec):
    """Every example of the specification with every kind of line end."""
    numbers = random.Random(20)
    for example in examples(spec):
        for ends in ENDS:
            text = ended(example, ends)
            for size in 1, 2, 3, 5:
                if text:
                    same(text, every(text, size))
            for count in 1, 2, 3, 6:
                if len(text) > count:
                    same(text, cut(text, numbers.sample(range(1, len(text)), count)))


def two_cuts():
    """All places of two cuts, in texts where blank lines matter."""
    for text in (
        "one\n\ntwo\n\n\nthree",
        "- a\n- b\n\n- c\n",
        "```\n\n\nx\n\n```\n\nend",
        "> q\n\np\n===\n\nr\x00s\n",
        "a  \nb\\\nc\n\n\td\n\n\te\n",
    ):
        for ends in ENDS:
            raw = ended(text, ends)
            for i in range(1, len(raw)):
                for j in range(i, len(raw)):
                    same(raw, cut(raw, {i, j}), SMART)
    mixed = b"a\r\n\r\rb\n\r\nc\r\r\n\nd\n\n\r"
    for bits in range(1 << (len(mixed) - 1)):
        if bits % 7 == 3:
            same(mixed, cut(mixed, {i + 1 for i in range(len(mixed) - 1) if bits >> i & 1}))


def references():
    """As many links as the size of the whole document allows, and no more."""
    url = b"/" + b"u" * 998
    for links in 90, 100, 300, 2000:
        text = b"[label]: " + url + b"\n\n" + b"".join(b"[label] %d " % i + b"text " * 60 + b"\n\n" for i in range(links))
        wanted = whole(text).count(b"<link ")
        check(0 < wanted <= links, f"{wanted} of {links} links in the whole text")
        for size in 1021, 4096, 65536, len(text):
            got = fed(every(text, size)).count(b"<link ")
            check(got == wanted, f"{got} links instead of {wanted} in pieces of {size}")
        same(text, every(text, 16000))
        same(text, cut(text, {len(text) - 1}))
        same(text, cut(text, {1}))
    # The limit is there, in pieces too.
    text = b"[l]: /" + b"u" * 20000 + b"\n\n" + b"[l]\n" * 20000
    wanted = whole(text).count(b"<link ")
    check(3 <= wanted <= 10, f"{wanted} links although they are limited")
    for size in 100, 4096, 50000:
        check(fed(every(text, size)).count(b"<link ") == wanted, f"another limit in pieces of {size}")


def parsers_do_not_share():
    """Two parsers at once, and a new one after a piece that ended in CR."""
    first, second = (cmark.cmark_parser_new(DEFAULT) for _ in range(2))
    cmark.cmark_parser_feed(first, b"a\r", 2)
    cmark.cmark_parser_feed(second, b"b\n", 2)
    cmark.cmark_parser_feed(second, b"\nc", 2)
    cmark.cmark_parser_feed(first, b"\n\r\nd", 4)
    for parser, text in (first, b"a\r\n\r\nd"), (second, b"b\n\nc"):
        document = cmark.cmark_parser_finish(parser)
        cmark.cmark_parser_free(parser)
        check(tree(document) == whole(text), f"another tree of {text}")


line_ends(sys.argv[2])
two_cuts()
references()
parsers_do_not_share()
print(f"all {checks} checks made")
