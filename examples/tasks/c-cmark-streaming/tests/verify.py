"""Builds cmark from the sources of src and the build files of setup, and tests it.

The tests of cmark itself are those that setup has put into /opt/cmark, which nobody
but root can write to; those of this task are in feed.py and files.py.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

UPSTREAM = "/opt/cmark"
SOURCES = os.path.abspath("src/src")
TESTS = os.path.dirname(os.path.abspath(__file__))


def prepare(work):
    """The whole project below work, of src only what the compiler reads."""
    tree = os.path.join(work, "tree")
    shutil.copytree(UPSTREAM, tree)
    for path in glob.glob(os.path.join(SOURCES, "*.[ch]")):
        shutil.copyfile(path, os.path.join(tree, "src", os.path.basename(path)))
    own = os.path.join(work, "own")
    shutil.copytree(TESTS, own)
    return tree, own


def call(name, command, cwd, wanted=None):
    """Whether command ends well and says what it says when all of its tests were run."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": cwd, "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, text=True, errors="replace", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    passed = done.returncode == 0 and (wanted is None or re.search(wanted, done.stdout, re.MULTILINE) is not None)
    if not passed:
        print(done.stdout[-6000:])
    print(f"{'passed' if passed else 'FAILED'}: {name}", flush=True)
    return passed


def verify(work):
    tree, own = prepare(work)
    build = os.path.join(work, "build")
    if not call("configure", ["cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release"], work):
        return False
    if not call("build", ["cmake", "--build", build, "--parallel", "2"], work):
        return False
    library = os.path.join(build, "src", "libcmark.so")
    program = os.path.join(build, "src", "cmark")
    python = sys.executable
    spec = [python, "-W", "ignore", os.path.join(tree, "test", "spec_tests.py"), "--no-normalize", "--spec"]
    text = os.path.join(tree, "test", "spec.txt")
    results = [
        call("cmark: interface", [os.path.join(build, "api_test", "api_test")], work, r"^539 tests passed, 0 failed"),
        call("cmark: specification", [*spec, text, "--program", program], work, r"^652 passed, 0 failed, 0 errored"),
        call("cmark: specification, library", [*spec, text, "--library-dir", os.path.dirname(library)], work,
             r"^652 passed, 0 failed, 0 errored"),
        call("cmark: smart punctuation", [*spec, os.path.join(tree, "test", "smart_punct.txt"), "--program", f"{program} --smart"],
             work, r"^16 passed, 0 failed, 0 errored"),
        call("cmark: regressions", [*spec, os.path.join(tree, "test", "regression.txt"), "--program", program], work,
             r"^16 passed, 0 failed, 0 errored"),
        call("pieces", [python, os.path.join(own, "feed.py"), library, text], work, r"^all \d+ checks made$"),
        call("files", [python, os.path.join(own, "files.py"), program], work, r"^all \d+ checks made$"),
    ]
    return all(results)


def main():
    # Not in /tmp, which is memory.
    work = tempfile.mkdtemp(prefix=".verify.", dir=os.getcwd())
    try:
        return 0 if verify(work) else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


sys.exit(main())
