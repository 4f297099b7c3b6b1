"""Says, and leaves as names of files, what would take over the terminal of whoever looks."""

import os
import sys

SEQUENCES = [b"\x1b]0;owned\x07", b"\x1b[2J\x1b[1;1H", b"\x1b]8;;http://owned.invalid\x07link", b"\x1b]52;c;b3duZWQ=\x07",
             b"\x1bPowned\x1b\\", b"\x1b_owned\x1b\\", b"\x9b2J", "\u009b2J".encode(), "\u009d0;owned\u009c".encode(),
             "\u202eowned\u2066".encode(), "\u200b\u2028owned\ufeff".encode(), b"\rowned", b"\b\b\bowned", b"\x7fowned", b"\xff\xfeowned",
             b"\x0eowned", b"\x1bc", b"\x1b[?1049h", b"\x1b[6n", b"\x1b[38;5;199m", b"\x1b[", b"\x1b", b"\x05", b"\x1b[1A\x1b[2Kowned"]


def main():
    out = os.fdopen(1 if sys.argv[1] == "solve" else 2, "wb", 0)
    for number, sequence in enumerate(SEQUENCES):
        out.write(b"FAILED tests/test_%d.py::test_" % number + sequence + b" - owned\n")
    out.write(b"\0" + b"".join(SEQUENCES))
    if sys.argv[1] == "verify":
        sys.exit(1)
    os.makedirs("/workspace/output", exist_ok=True)
    for sequence in SEQUENCES:
        folder = b"/workspace/output/d" + sequence.replace(b"/", b"")
        os.makedirs(folder, exist_ok=True)
        with open(folder + b"/f" + sequence.replace(b"/", b""), "wb") as file:
            file.write(sequence)


if __name__ == "__main__":
    main()
