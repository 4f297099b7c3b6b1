"""Gives files to the command, which reads them in pieces: files.py PROGRAM."""
import subprocess
import sys
import tempfile

checks = 0


def render(text, *arguments):
    done = subprocess.run([sys.argv[1], *arguments], input=text, stdout=subprocess.PIPE)
    if done.returncode != 0:
        print(f"the command ended with {done.returncode}")
        sys.exit(1)
    return done.stdout


def same(got, wanted, message):
    global checks
    checks += 1
    if got != wanted:
        print(f"{message}: got {len(got)} bytes that end in {got[-60:]}, not {len(wanted)} that end in {wanted[-60:]}")
        sys.exit(1)


# Line ends around the places where the command cuts what it reads.
for before in range(4085, 4100):
    for end in b"\r", b"\r\n", b"\n":
        words = b"w" * before
        text = words + end + b"x" + end + end + b"y" * 4094 + end + end + b"z"
        wanted = b"<p>%b\nx</p>\n<p>%b</p>\n<p>z</p>\n" % (words, b"y" * 4094)
        same(render(text), wanted, f"{before} bytes, then {end}")
rows = 3000
for ends in (b"\r", b"\r"), (b"\r\n", b"\r\n"), (b"\n", b"\n"), (b"\n", b"\r"), (b"\r", b"\r\n", b"\n", b"\n"):
    for width in 3, 5, 12:
        row = b"r" * width + b"".join(ends)
        same(render(row * rows), b"<p>%b</p>\n" % (b"r" * width) * rows, f"{rows} paragraphs that end in {ends}")

# Links, from standard input and from a file.
links = 1500
address = b"/" + b"a" * 400
text = b"[there]: " + address + b"\n\n" + (b"[there] " + b"b" * 500 + b"\n\n") * links
wanted = (b'<p><a href="%b">there</a> %b</p>\n' % (address, b"b" * 500)) * links
same(render(text), wanted, "links from standard input")
with tempfile.NamedTemporaryFile() as file:
    file.write(text)
    file.flush()
    same(render(b"", file.name), wanted, "links from a file")

print(f"all {checks} checks made")
