"""Runs photo-archive with names of every kind, once per shell."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import unittest

SCRIPT = os.path.abspath("src/bin/photo-archive")
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)] or ["sh"]
MAY = 1714564800  # 2024-05-01 12:00 UTC
NAMES = [
    "plain.jpg",
    "My  Holiday (1).JPG",
    " leading and trailing .jpg",
    "-rf.jpg",
    "--help.jpeg",
    "*.jpg",
    "[ab]?.raw",
    "back\\slash\\n.jpg",
    "quote'single.jpg",
    'quote"double.RAW',
    "line\nbreak.jpg",
    "ends in a line break\n.jpg",
    "tab\there.jpg",
    "$HOME `id` $(id).jpg",
    "semi;colon&and|pipe.jpg",
    "~tilde.jpg",
    "#hash!bang.JpEg",
    "a.b.c.jpg",
    ".hidden.jpg",
    "100%s.jpg",
    "\u00fcml\u00e4ut.jpg",
]
ENV = {"PATH": os.environ["PATH"], "HOME": "/tmp", "LC_ALL": "C"}


def content(path):
    with open(path, "rb") as handle:
        return handle.read()


def put(path, data, mtime=MAY):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(data)
    os.utime(path, (mtime, mtime))


def tree(top):
    found = {}
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = os.readlink(path) if os.path.islink(path) else content(path).decode()
    return found


class Base:
    shell = None

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="photo ")
        self.addCleanup(shutil.rmtree, self.dir)
        self.card = os.path.join(self.dir, "card")
        self.archive = os.path.join(self.dir, "archive")
        os.mkdir(self.card)

    def run_script(self, *args, env=None, status=0):
        done = subprocess.run([self.shell, SCRIPT, *args], cwd=self.dir, env={**ENV, **(env or {})},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, status, f"{args}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def fill(self):
        for number, name in enumerate(NAMES):
            put(os.path.join(self.card, "DCIM", "folder * %d" % (number % 3), name), f"photo {number}")

    def test_every_name_is_imported(self):
        self.fill()
        done = self.run_script("import", "card", "archive")
        self.assertEqual(done.stdout, f"imported {len(NAMES)}, skipped 0\n")
        self.assertEqual(tree(self.archive), {f"2024-05/{name}": f"photo {n}" for n, name in enumerate(NAMES)})
        for name in NAMES:
            self.assertEqual(int(os.stat(os.path.join(self.archive, "2024-05", name)).st_mtime), MAY)
        again = self.run_script("import", "card", "archive")
        self.assertEqual(again.stdout, f"imported 0, skipped {len(NAMES)}\n")
        self.assertEqual(sorted(os.listdir(self.dir)), ["archive", "card"])

    def test_unusual_folders(self):
        for card, archive in (("my card", "my archive"), ("-card", "-archive"), ("c*", "a[b]"),
                              ("new\nline", "ends\n"), ("c\\t", "new/deep er/archive"), ("x;y", "$z")):
            with self.subTest(card=card, archive=archive):
                put(os.path.join(self.dir, card, "s p", "a b.jpg"), "1")
                put(os.path.join(self.dir, card, "c.jpg"), "2")
                done = self.run_script("import", card, archive)
                self.assertEqual(done.stdout, "imported 2, skipped 0\n")
                top = os.path.join(self.dir, archive)
                self.assertEqual(tree(top), {"2024-05/a b.jpg": "1", "2024-05/c.jpg": "2"})
                self.run_script("checksum", archive)
                self.run_script("verify", archive)
                put(os.path.join(top, "old x.tmp"), "t", MAY)
                self.run_script("prune", archive, "1")
                self.assertEqual(sorted(tree(top)), ["2024-05/a b.jpg", "2024-05/c.jpg", "SHA256SUMS"])

    def test_only_photos_no_links(self):
        put(os.path.join(self.card, "a.jpg"), "1")
        put(os.path.join(self.card, "b.jpg.txt"), "x")
        put(os.path.join(self.card, "ajpg"), "x")
        put(os.path.join(self.card, "c.txt\nd"), "x")
        put(os.path.join(self.card, "dir.jpg", "note.txt"), "x")
        put(os.path.join(self.card, "dir.jpg\n", "note.raw.bak"), "x")
        put(os.path.join(self.dir, "other", "l.jpg"), "linked")
        os.symlink(os.path.join(self.dir, "other", "l.jpg"), os.path.join(self.card, "link.jpg"))
        os.symlink(os.path.join(self.dir, "other"), os.path.join(self.card, "linkdir"))
        done = self.run_script("import", "card", "archive")
        self.assertEqual(done.stdout, "imported 1, skipped 0\n")
        self.assertEqual(tree(self.archive), {"2024-05/a.jpg": "1"})

    def test_nothing_to_import(self):
        self.assertEqual(self.run_script("import", "card", "archive").stdout, "imported 0, skipped 0\n")

    def test_month_is_utc(self):
        put(os.path.join(self.card, "new year.jpg"), "1", 1704067200)
        put(os.path.join(self.card, "old year.jpg"), "2", 1704067199)
        for zone in ("UTC", "XXX+11", "YYY-13"):
            with self.subTest(zone=zone):
                shutil.rmtree(self.archive, ignore_errors=True)
                self.run_script("import", "card", "archive", env={"TZ": zone})
                self.assertEqual(sorted(tree(self.archive)), ["2023-12/old year.jpg", "2024-01/new year.jpg"])

    def test_same_name_other_content(self):
        names = ["a b.jpg", "x.tar.jpg", "-n.raw", "l\nb.jpg", ".jpg", "e\\c.jpg"]
        for name in names:
            for number in range(3):
                put(os.path.join(self.card, str(number), name), f"content {number}")
            put(os.path.join(self.card, "again", name), "content 1")
        done = self.run_script("import", "card", "archive")
        self.assertEqual(done.stdout, f"imported {3 * len(names)}, skipped {len(names)}\n")
        got = tree(os.path.join(self.archive, "2024-05"))
        for name in names:
            stem, ext = name.rsplit(".", 1)
            wanted = [name, f"{stem}~1.{ext}", f"{stem}~2.{ext}"]
            self.assertEqual(sorted(got[w] for w in wanted), ["content 0", "content 1", "content 2"], name)
        self.assertEqual(len(got), 3 * len(names))
        done = self.run_script("import", "card", "archive")
        self.assertEqual(done.stdout, f"imported 0, skipped {4 * len(names)}\n")

    def test_existing_files_are_kept(self):
        put(os.path.join(self.card, "a b.jpg"), "new")
        put(os.path.join(self.archive, "2024-05", "a b.jpg"), "mine")
        os.symlink("nowhere", os.path.join(self.archive, "2024-05", "a b~1.jpg"))
        self.run_script("import", "card", "archive")
        self.assertEqual(tree(os.path.join(self.archive, "2024-05")),
                         {"a b.jpg": "mine", "a b~1.jpg": "nowhere", "a b~2.jpg": "new"})

    def test_missing_card(self):
        for card in ("no card", "-nope", ""):
            done = self.run_script("import", card, "archive", status=1)
            self.assertNotEqual(done.stderr, "")
            self.assertFalse(os.path.exists(self.archive))

    def test_checksums(self):
        self.fill()
        self.run_script("import", "card", "archive")
        put(os.path.join(self.archive, "sub dir", "SHA256SUMS"), "a file like any other")
        self.run_script("checksum", "archive")
        listed = subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=self.archive,
                                env=ENV, capture_output=True, text=True)
        self.assertEqual(listed.returncode, 0, listed.stdout + listed.stderr)
        names = []
        for line in content(os.path.join(self.archive, "SHA256SUMS")).decode().splitlines():
            escaped = line.startswith("\\")
            digest, name = line.lstrip("\\").split("  ", 1)
            if escaped:
                name = name.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
            self.assertEqual(digest, hashlib.sha256(content(os.path.join(self.archive, name))).hexdigest())
            names.append(name.encode())
        files = {f"./{name}".encode() for name in tree(self.archive)} - {b"./SHA256SUMS"}
        self.assertEqual(names, sorted(files))
        self.run_script("verify", "archive")
        before = content(os.path.join(self.archive, "SHA256SUMS"))
        self.run_script("checksum", "archive")
        self.assertEqual(content(os.path.join(self.archive, "SHA256SUMS")), before)
        self.assertEqual(sorted(os.listdir(self.archive)), ["2024-05", "SHA256SUMS", "sub dir"])

    def test_checksum_failure_keeps_the_old_list(self):
        put(os.path.join(self.archive, "a b.jpg"), "1")
        self.run_script("checksum", "archive")
        before = content(os.path.join(self.archive, "SHA256SUMS"))
        os.makedirs(os.path.join(self.dir, "bin"))
        with open(os.path.join(self.dir, "bin", "sha256sum"), "w", encoding="utf-8") as handle:
            handle.write("#!/bin/sh\necho broken\nexit 1\n")
        os.chmod(os.path.join(self.dir, "bin", "sha256sum"), 0o755)
        broken = {"PATH": os.path.join(self.dir, "bin") + ":" + ENV["PATH"]}
        done = subprocess.run([self.shell, SCRIPT, "checksum", "archive"], cwd=self.dir, env={**ENV, **broken},
                              capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(content(os.path.join(self.archive, "SHA256SUMS")), before)
        self.assertEqual(sorted(os.listdir(self.archive)), ["SHA256SUMS", "a b.jpg"])

    def test_empty_archive(self):
        os.mkdir(self.archive)
        self.run_script("checksum", "archive")
        self.assertEqual(content(os.path.join(self.archive, "SHA256SUMS")), b"")
        self.run_script("verify", "archive")
        put(os.path.join(self.archive, "x"), "1")
        self.run_script("verify", "archive", status=1)

    def test_verify_notices_changes(self):
        victim = os.path.join(self.archive, "2024-05", "line\nbreak *.jpg")

        def changed():
            put(victim, "2")

        def missing():
            os.remove(victim)

        def added():
            put(os.path.join(self.archive, "new\nfile.jpg"), "1")

        def renamed():
            os.rename(victim, victim + "x")

        def replaced():
            os.remove(os.path.join(self.archive, "2024-05", "b.jpg"))
            put(os.path.join(self.archive, "2024-05", "c.jpg"), "b")

        def no_list():
            os.remove(os.path.join(self.archive, "SHA256SUMS"))

        for change in (changed, missing, added, renamed, replaced, no_list):
            with self.subTest(change=change.__name__):
                shutil.rmtree(self.archive, ignore_errors=True)
                put(victim, "1")
                put(os.path.join(self.archive, "2024-05", "b.jpg"), "b")
                self.run_script("checksum", "archive")
                self.run_script("verify", "archive")
                change()
                self.run_script("verify", "archive", status=1)

    def test_prune(self):
        now = time.time()
        old, young = now - 3.5 * 86400, now - 1.5 * 86400
        keep = {
            "a/keep me.jpg": old,
            "a/young one.tmp": young,
            "keep": old,
            "me.tmp.jpg": old,
            "b c/x": old,
            "tmp": old,
        }
        remove = ["a/x keep me.tmp", "x.tmp", "-rf.tmp", "*.tmp", "n\nkeep\n.tmp", "q'\".tmp", "b\\c.tmp",
                  "empty later/deep er/y z.tmp", ".hid den.tmp"]
        for name, mtime in keep.items():
            put(os.path.join(self.archive, name), "k", mtime)
        for name in remove:
            put(os.path.join(self.archive, name), "r", old)
        put(os.path.join(self.dir, "keep"), "outside")
        put(os.path.join(self.dir, "z.tmp"), "outside", old)
        os.makedirs(os.path.join(self.archive, "em pty", "one\n"))
        os.makedirs(os.path.join(self.archive, "folder.tmp"))
        put(os.path.join(self.archive, "full.tmp", "x"), "k", old)
        os.utime(os.path.join(self.archive, "full.tmp"), (old, old))
        self.run_script("prune", "archive", "2")
        self.assertEqual(sorted(tree(self.archive)), sorted([*keep, "full.tmp/x"]))
        self.assertEqual(sorted(n for n in os.listdir(self.archive) if os.path.isdir(os.path.join(self.archive, n))),
                         ["a", "b c", "full.tmp"])
        self.assertEqual(sorted(os.listdir(self.dir)), ["archive", "card", "keep", "z.tmp"])

    def test_prune_keeps_the_archive_itself(self):
        os.mkdir(self.archive)
        self.run_script("prune", "archive", "0")
        self.assertTrue(os.path.isdir(self.archive))

    def test_prune_checks_its_arguments(self):
        put(os.path.join(self.archive, "x.tmp"), "1")
        for days in ("x", "-1", "", "1.5", "1 -o -name keep", "1\n2", "+1"):
            self.run_script("prune", "archive", days, status=2)
        self.assertEqual(sorted(tree(self.dir)), ["archive/x.tmp"])

    def test_prune_of_a_missing_archive_touches_nothing(self):
        put(os.path.join(self.dir, "old.tmp"), "1")
        for command in ("checksum", "verify"):
            self.run_script(command, "no such archive", status=1)
        self.run_script("prune", "no such archive", "1", status=1)
        self.assertEqual(sorted(tree(self.dir)), ["old.tmp"])

    def test_usage(self):
        for args in ((), ("import",), ("import", "a"), ("import", "a", "b", "c"), ("verify",), ("checksum", "a", "b"),
                     ("prune", "a"), ("nonsense", "a"), ("",), ("im port", "a", "b")):
            done = self.run_script(*args, status=2)
            self.assertIn("usage", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_callers_ifs(self):
        put(os.path.join(self.card, "a-1_2 x.jpg"), "1")
        put(os.path.join(self.archive, "0old.tmp"), "1")
        command = 'IFS="0-_/."; . "$0"'
        for args, expected in ((("import", "card", "archive"), "imported 1, skipped 0\n"),
                               (("checksum", "archive"), ""), (("verify", "archive"), ""),
                               (("prune", "archive", "10"), "")):
            done = subprocess.run([self.shell, "-c", command, SCRIPT, *args], cwd=self.dir, env=ENV,
                                  capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (0, expected), done.stderr)
        self.assertEqual(sorted(tree(self.archive)), ["2024-05/a-1_2 x.jpg", "SHA256SUMS"])


for _shell in SHELLS:
    globals()[f"Test_{_shell}"] = type(f"Test_{_shell}", (Base, unittest.TestCase), {"shell": _shell})

if __name__ == "__main__":
    unittest.main(verbosity=1)
