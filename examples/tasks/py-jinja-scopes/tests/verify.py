"""Runs the tests of Jinja itself and those of this task against src/src/jinja2.

The tests of Jinja are those that setup has put into /opt/jinja, which nobody but
root can write to. Of src only the package is used, so that no settings beside it
have an influence.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

PACKAGE = os.path.abspath("src/src/jinja2")
TESTS = os.path.dirname(os.path.abspath(__file__))


def run(work, name, least):
    """Whether at least so many tests were run, and none failed."""
    folder = os.path.join(work, name)
    report = os.path.join(work, f"{name}.xml")
    with open(os.path.join(folder, "pytest.ini"), "w", encoding="utf-8") as file:
        file.write("[pytest]\n")
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": folder,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": os.path.join(work, "package"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", "--maxfail=15", "-p", "no:cacheprovider", "-W", "error",
               "-c", "pytest.ini", f"--junitxml={report}", f"--basetemp={work}/temp-{name}", "tests"]
    done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return False
    suites = xml.etree.ElementTree.parse(report).getroot().iter("testsuite")
    counts = [[int(suite.get(key)) for key in ("tests", "skipped", "failures", "errors")] for suite in suites]
    tests, skipped, failures, errors = (sum(column) for column in zip(*counts))
    print(f"{name}: {tests} tests, {skipped} skipped, {failures} failures, {errors} errors", flush=True)
    return failures == errors == 0 and tests - skipped >= least


def main():
    work = tempfile.mkdtemp(prefix="verify.")
    try:
        shutil.copytree(PACKAGE, os.path.join(work, "package", "jinja2"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree("/opt/jinja/tests", os.path.join(work, "jinja", "tests"))
        shutil.copytree(TESTS, os.path.join(work, "task", "tests"))
        results = [run(work, "jinja", 850), run(work, "task", 958)]
        return 0 if all(results) else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


sys.exit(main())
