"""Builds copies of src in many ways and looks at what make did."""

import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest

SOURCE = os.path.abspath("src")
ENV = {"PATH": os.environ["PATH"], "HOME": "/tmp", "LC_ALL": "C"}
NUMBERS = "3\n1\n2\n4\n10\n"


def snapshot(top):
    found = set()
    for folder, folders, files in os.walk(top):
        found |= {os.path.relpath(os.path.join(folder, name), top) for name in files + folders}
    return found


class Build(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="statkit-")
        self.addCleanup(shutil.rmtree, self.top)
        self.dir = self.copy("work")
        # The compiler writes down how it was called.
        self.log = os.path.join(self.top, "calls")
        self.cc = self.script("logging-cc", f'echo "$*" >> "{self.log}"\nexec gcc "$@"\n')

    def copy(self, name):
        target = os.path.join(self.top, name)
        shutil.copytree(SOURCE, target)
        # As delivered: whatever a build left behind in src does not count.
        subprocess.run(["make", "clean"], cwd=target, env=ENV, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        for folder, _, files in os.walk(target):
            for file in files:
                if file.endswith((".o", ".a", ".d")) or file in ("statcli", "sk_version.h"):
                    os.remove(os.path.join(folder, file))
        past = time.time() - 1000
        for folder, _, files in os.walk(target):
            for file in files:
                os.utime(os.path.join(folder, file), (past, past))
        return target

    def run_in(self, *args, status=0, cwd=None, stdin=None, env=None):
        done = subprocess.run(args, cwd=cwd or self.dir, env={**ENV, **(env or {})}, input=stdin,
                              capture_output=True, text=True, timeout=120)
        if status is not None:
            self.assertEqual(done.returncode, status, f"{' '.join(args)}\n{done.stdout}{done.stderr}")
        return done

    def script(self, name, text):
        path = os.path.join(self.top, name)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write("#!/bin/sh\n" + text)
        os.chmod(path, 0o755)
        return path

    def make(self, *args, **more):
        with open(self.log, "w", encoding="utf-8"):
            pass
        return self.run_in("make", f"CC={self.cc}", *args, **more)

    def calls(self):
        with open(self.log, encoding="utf-8") as handle:
            lines = handle.read().splitlines()
        compiles = [line for line in lines if re.search(r"\.c(\s|$)", line)]
        return compiles, [line for line in lines if line not in compiles]

    def touch(self, name):
        """Newer than all that age() has made old."""
        when = time.time() - 100
        os.utime(os.path.join(self.dir, name), (when, when))

    def age(self):
        """Make everything old, keeping the order in time."""
        for folder, _, files in os.walk(self.dir):
            for name in files:
                path = os.path.join(folder, name)
                when = os.stat(path).st_mtime - 500
                os.utime(path, (when, when))

    def compiled(self):
        """The sources the last make has compiled."""
        return {os.path.basename(name) for line in self.calls()[0] for name in re.findall(r"[\w./-]+\.c\b", line)}

    def statcli(self, *args, cwd=None):
        return self.run_in("./statcli", *args, stdin=NUMBERS, cwd=cwd).stdout

    def check_tool(self, cwd=None):
        self.assertEqual(self.statcli("mean", "variance", "q50", "q25", cwd=cwd), "mean 4\nvariance 12.5\nq50 3\nq25 2\n")
        self.assertEqual(self.statcli("-p", "3", "stddev", cwd=cwd), "stddev 3.54\n")

    def test_fresh_build_without_warnings(self):
        done = self.make()
        self.assertNotIn("warning", done.stdout + done.stderr)
        self.assertTrue(os.path.exists(os.path.join(self.dir, "lib", "libstatkit.a")))
        self.check_tool()
        self.assertEqual(self.statcli("--version"), "statcli 2.4.1 (library 2.4.1)\n")

    def test_optimisation_levels(self):
        for flags in ("-O0 -g", "-Os", "-O3 -Werror"):
            with self.subTest(CFLAGS=flags):
                self.make("clean")
                self.make(f"CFLAGS={flags}")
                self.check_tool()

    def test_caller_flags_from_the_environment(self):
        self.make("clean")
        self.make(env={"CFLAGS": "-O1", "CPPFLAGS": "-DSK_SOMETHING=1", "LDFLAGS": "-Wl,--as-needed"})
        compiles, links = self.calls()
        self.assertTrue(compiles)
        for line in compiles:
            for flag in ("-O1", "-DSK_SOMETHING=1", "-Wall", "-Wextra", "-std=c11"):
                self.assertIn(flag, line)
        self.assertIn("-Wl,--as-needed", " ".join(links))
        self.check_tool()
        self.make("clean")
        self.make("CPPFLAGS=-DSK_OTHER", "LDFLAGS=-Wl,--as-needed")
        compiles, links = self.calls()
        self.assertIn("-DSK_OTHER", compiles[0])
        self.assertIn("-Wl,--as-needed", " ".join(links))
        self.check_tool()

    def test_parallel(self):
        for order in ((), ("statcli",), ("lib/libstatkit.a", "statcli")):
            with self.subTest(order=order):
                self.make("clean")
                self.make("-j8", *order)
                self.check_tool()

    def test_folder_with_blanks(self):
        target = self.copy("my  stat kit")
        self.make("-j4", cwd=target)
        self.check_tool(cwd=target)
        self.make("install", "PREFIX=/tmp/p", f"DESTDIR={self.top}/plain", cwd=target)
        self.make("clean", cwd=target)

    def test_second_make_does_nothing(self):
        self.make("-j4")
        self.make("-q")
        self.make()
        self.assertEqual(self.calls(), ([], []))
        self.age()
        self.make("-q")

    def test_touched_source(self):
        self.make()
        self.age()
        self.touch("lib/quantile.c")
        self.make("-q", status=1)
        self.make()
        self.assertEqual(self.compiled(), {"quantile.c"})
        self.make("-q")

    def test_touched_headers(self):
        self.make()
        for header, users in (
            ("include/statkit.h", {"mean.c", "quantile.c", "hist.c", "version.c", "format.c", "statcli.c"}),
            ("lib/internal.h", {"mean.c"}),
            ("tools/options.h", {"statcli.c", "options.c"}),
        ):
            with self.subTest(header=header):
                self.age()
                self.touch(header)
                self.make()
                self.assertEqual(self.compiled(), users)
                self.make("-q")

    def test_changed_header_changes_the_program(self):
        self.make()
        self.age()
        path = os.path.join(self.dir, "include", "statkit.h")
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
        self.assertIn("return x * x;", text)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(text.replace("return x * x;", "return x * x * 2;"))
        self.make()
        self.assertEqual(self.statcli("variance"), "variance 25\n")

    def test_changed_version(self):
        self.make()
        self.age()
        with open(os.path.join(self.dir, "VERSION"), "w", encoding="utf-8") as handle:
            handle.write("3.0.0-rc1\n")
        self.make("-j4")
        self.assertEqual(self.compiled(), {"version.c", "statcli.c"})
        self.assertEqual(self.statcli("--version"), "statcli 3.0.0-rc1 (library 3.0.0-rc1)\n")
        self.make("-q")

    def test_removed_header_does_not_stop_the_build(self):
        # A header that is no longer included may go.
        path = os.path.join(self.dir, "lib", "internal.h")
        extra = os.path.join(self.dir, "lib", "extra.h")
        with open(extra, "w", encoding="utf-8") as handle:
            handle.write("/* nothing */\n")
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
        with open(path, "w", encoding="utf-8") as handle:
            handle.write('#include "extra.h"\n' + text)
        self.make()
        self.age()
        os.remove(extra)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(text)
        self.make()
        self.check_tool()

    def members(self):
        return set(self.run_in("ar", "t", "lib/libstatkit.a").stdout.split())

    def test_archive_has_every_file_and_no_stale_one(self):
        extra = os.path.join(self.dir, "lib", "extra.c")
        with open(extra, "w", encoding="utf-8") as handle:
            handle.write('#include "statkit.h"\ndouble sk_extra(void);\ndouble sk_extra(void) { return sk_square(3.0); }\n')
        past = time.time() - 1000
        os.utime(extra, (past, past))
        self.make()
        usual = {name for name in self.members() if "extra" not in name}
        self.assertGreater(len(self.members()), len(usual))
        self.age()
        os.remove(extra)
        self.touch("lib/hist.c")
        self.make()
        self.assertEqual(self.members(), usual)
        self.check_tool()

    def test_failing_compiler_leaves_nothing_that_looks_finished(self):
        fake = self.script(
            "flaky-cc",
            'out=\nfor arg do [ "$out" = next ] && out=$arg; [ "$arg" = -o ] && out=next; done\n'
            'case "$*" in\n  *quantile.c*|*"-o statcli"*) echo broken > "$out"; exit 1 ;;\nesac\nexec gcc "$@"\n')
        self.make(f"CC={fake}", status=2)
        self.make()
        self.check_tool()
        self.make("clean")
        self.make("-k", f"CC={fake}", status=2)
        self.make()
        self.check_tool()

    def test_failing_version_step(self):
        path = os.path.join(self.dir, "VERSION")
        os.rename(path, path + ".away")
        self.make(status=2)
        os.rename(path + ".away", path)
        self.make()
        self.assertEqual(self.statcli("--version"), "statcli 2.4.1 (library 2.4.1)\n")

    def test_program_with_several_files(self):
        self.make()
        for name, text in {
            "one.c": '#include "statkit.h"\n#include <stdio.h>\ndouble two(double);\nint main(void)\n{\n'
                     "    char text[32];\n    double v[] = {1, 2, 4};\n    int before = sk_precision;\n    sk_precision = 3;\n"
                     '    sk_format(text, sizeof text, two(sk_stddev(v, 3)));\n    printf("%d %s\\n", before, text);\n'
                     "    return 0;\n}\n",
            "two.c": '#include "statkit.h"\ndouble two(double x)\n{\n    double (*f)(double) = sk_square;\n'
                     "    sk_precision += 1;\n    return f(x) + sk_square(x);\n}\n",
        }.items():
            with open(os.path.join(self.top, name), "w", encoding="utf-8") as handle:
                handle.write(text)
        for level in ("-O0", "-O2"):
            self.run_in("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", level, "-I", "include", f"{self.top}/one.c",
                        f"{self.top}/two.c", "-Llib", "-lstatkit", "-lm", "-o", f"{self.top}/prog")
            self.assertEqual(self.run_in(f"{self.top}/prog").stdout, "6 4.667\n")

    def test_cxx_program(self):
        self.make()
        with open(os.path.join(self.top, "prog.cc"), "w", encoding="utf-8") as handle:
            handle.write('#include "statkit.h"\n#include <cstdio>\nint main()\n{\n    double v[] = {1, 2, 6};\n'
                         '    std::printf("%g %g %s\\n", sk_mean(v, 3), sk_square(1.5), sk_version());\n}\n')
        self.run_in("g++", "-Wall", "-Wextra", "-Werror", "-I", "include", f"{self.top}/prog.cc", "-Llib", "-lstatkit",
                    "-lm", "-o", f"{self.top}/prog")
        self.assertEqual(self.run_in(f"{self.top}/prog").stdout, "3 2.25 2.4.1\n")

    def test_install(self):
        stage = os.path.join(self.top, "stage")
        old = os.umask(0o077)
        try:
            self.make("-j4", "install", f"DESTDIR={stage}", "PREFIX=/tmp/sk")
            self.make("install", f"DESTDIR={stage}", "PREFIX=/tmp/sk")
        finally:
            os.umask(old)
        root = os.path.join(stage, "tmp", "sk")
        files = {name: oct(os.stat(os.path.join(root, name)).st_mode & 0o777)
                 for name in snapshot(root) if os.path.isfile(os.path.join(root, name))}
        self.assertEqual(files, {"bin/statcli": "0o755", "lib/libstatkit.a": "0o644", "include/statkit.h": "0o644"})
        self.assertEqual(self.run_in(f"{root}/bin/statcli", "mean", stdin="1 2").stdout, "mean 1.5\n")
        self.make("install", f"PREFIX={self.top}/direct")
        self.assertTrue(os.path.exists(f"{self.top}/direct/bin/statcli"))

    def test_clean(self):
        before = snapshot(self.dir)
        self.make("-j4")
        self.make("clean")
        self.assertEqual(snapshot(self.dir), before)
        self.make("clean")
        for name in ("notes.d.txt", "lib/notes.o.txt", "tools/mine"):
            with open(os.path.join(self.dir, name), "w", encoding="utf-8") as handle:
                handle.write("mine\n")
        self.make()
        self.make("clean")
        self.assertEqual(snapshot(self.dir), before | {"notes.d.txt", "lib/notes.o.txt", "tools/mine"})

    def test_files_named_like_targets(self):
        for name in ("clean", "all", "install"):
            with open(os.path.join(self.dir, name), "w", encoding="utf-8") as handle:
                handle.write("\n")
        before = snapshot(self.dir)
        self.make()
        self.make("all")
        self.check_tool()
        self.make("install", f"PREFIX={self.top}/direct")
        self.assertTrue(os.path.exists(f"{self.top}/direct/lib/libstatkit.a"))
        self.make("clean")
        self.assertEqual(snapshot(self.dir), before)


if __name__ == "__main__":
    unittest.main(verbosity=1)
