import base64
import configparser
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

SOURCE = os.path.abspath("src")
ENV = {"PATH": os.environ["PATH"], "HOME": "/tmp", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
INFO = "report_kit-1.4.0.dist-info"
WHEEL = "report_kit-1.4.0-py3-none-any.whl"
SDIST = "report_kit-1.4.0.tar.gz"
CALL = "import sys; sys.path.insert(0, 'tools'); import minibuild; print(getattr(minibuild, sys.argv[1])(sys.argv[2], *eval(sys.argv[3])))"

MODULES = {
    "reportkit/__init__.py", "reportkit/cli.py", "reportkit/registry.py", "reportkit/resources.py",
    "reportkit/formats/__init__.py", "reportkit/formats/text.py", "reportkit/formats/html.py", "reportkit/formats/csv.py",
}
DATA = {
    "reportkit/templates/page.html", "reportkit/templates/mail/page.html",
    "reportkit/locale/de/texts.json", "reportkit/locale/en/texts.json",
}


def build(project, out, hook="build_wheel", arguments="()", env=None):
    out.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", CALL, hook, str(out), arguments], cwd=project,
                          env={**ENV, **(env or {})}, capture_output=True, text=True)
    assert done.returncode == 0, f"{hook} failed:\n{done.stdout}{done.stderr}"
    return out / os.path.basename(done.stdout.splitlines()[-1]), done.stdout.splitlines()[-1]


def checkout(target):
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache", "dist", "build"))
    return target


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    top = tmp_path_factory.mktemp("wheel")
    return build(checkout(top / "project"), top / "out")[0]


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    top = tmp_path_factory.mktemp("sdist")
    return build(checkout(top / "project"), top / "out", "build_sdist")[0]


@pytest.fixture(scope="session")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{INFO}/METADATA").decode("utf-8")


def headers(text, name):
    head = text.split("\n\n", 1)[0]
    return [line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith(name.lower() + ": ")]


def test_names(tmp_path):
    project = checkout(tmp_path / "p")
    path, returned = build(project, tmp_path / "a")
    assert (returned, os.listdir(tmp_path / "a")) == (WHEEL, [WHEEL])
    path, returned = build(project, tmp_path / "b", "build_sdist")
    assert (returned, os.listdir(tmp_path / "b")) == (SDIST, [SDIST])
    assert path.exists()


def test_wheel_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        assert archive.testzip() is None
        info = {name for name in names if name.startswith(f"{INFO}/")}
        assert set(names) - info == MODULES | DATA
        assert len(names) == len(set(names))
        assert info == {f"{INFO}/{n}" for n in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
        for name in MODULES | DATA:
            with open(os.path.join(SOURCE, name), "rb") as handle:
                assert archive.read(name) == handle.read(), name
        assert "Ångström" in archive.read(f"{INFO}/licenses/LICENSE").decode("utf-8")


def test_wheel_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{INFO}/WHEEL").decode()
    assert headers(text, "Wheel-Version") == ["1.0"]
    assert headers(text, "Root-Is-Purelib") == ["true"]
    assert headers(text, "Tag") == ["py3-none-any"]


def test_record(wheel):
    with zipfile.ZipFile(wheel) as archive:
        rows = list(csv.reader(io.StringIO(archive.read(f"{INFO}/RECORD").decode())))
        assert all(len(row) == 3 for row in rows)
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, size in rows:
            if name == f"{INFO}/RECORD":
                assert (digest, size) == ("", "")
                continue
            data = archive.read(name)
            wanted = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={wanted}", str(len(data))), name


def test_metadata(metadata):
    text = metadata
    assert headers(text, "Metadata-Version") == ["2.1"]
    assert headers(text, "Name") == ["Report.Kit"]
    assert headers(text, "Version") == ["1.4.0"]
    assert headers(text, "Summary") == ["Small reports – from tables to text, HTML and CSV"]
    assert headers(text, "Requires-Python") == [">=3.9"]
    assert headers(text, "Keywords") == ["report,table,csv"]
    assert len(headers(text, "License")) == 1
    people = headers(text, "Author") + headers(text, "Author-email")
    assert "The reportkit team" in ", ".join(people)
    assert any("Zoë Ångström" in p and "zoe@reportkit.invalid" in p for p in headers(text, "Author-email")), people
    assert headers(text, "Classifier") == ["License :: OSI Approved :: MIT License", "Programming Language :: Python :: 3"]
    assert headers(text, "Project-URL") == ["Homepage, https://reportkit.invalid/",
                                            "Issue tracker, https://reportkit.invalid/issues"]


def test_requirements(metadata):
    text = metadata
    assert sorted(headers(text, "Provides-Extra")) == ["mail", "xlsx"]
    squeezed = sorted(re.sub(r"\s", "", line).replace("'", '"') for line in headers(text, "Requires-Dist"))
    assert squeezed == sorted([
        'colourlib>=1.2;sys_platform!="win32"',
        'mailer>=2;extra=="mail"',
        'tzlib;(python_version<"3.10"orsys_platform=="win32")andextra=="mail"',
        'sheets~=3.1;extra=="xlsx"',
    ])


def test_description(metadata):
    text = metadata
    assert [h.split(";")[0] for h in headers(text, "Description-Content-Type")] == ["text/markdown"]
    with open(os.path.join(SOURCE, "README.md"), encoding="utf-8") as handle:
        assert text.split("\n\n", 1)[1].strip() == handle.read().strip()


def install(wheel, target):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


START = """
import sys
from importlib.metadata import distribution
sys.argv[0] = "reportkit"
points = [p for p in distribution("report-kit").entry_points if p.group == "console_scripts"]
assert [p.name for p in points] == ["reportkit"], points
sys.exit(points[0].load()())
"""


def start(path, *arguments, cwd, stdin="name,n\nÄpfel,<3>\n", status=0):
    done = subprocess.run([sys.executable, "-S", "-c", START, *arguments], cwd=cwd, input=stdin.encode(),
                          env={**ENV, "PYTHONPATH": os.pathsep.join(map(str, path))}, capture_output=True)
    assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode("utf-8") if status == 0 else done.stderr.decode("utf-8")


@pytest.mark.parametrize("zipped", [False, True])
def test_installed_command(wheel, tmp_path, zipped):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = [wheel if zipped else install(wheel, tmp_path / "site")]
    assert start(path, "--version", cwd=elsewhere) == "reportkit 1.4.0\n"
    assert start(path, "--list", cwd=elsewhere) == "csv\nhtml\ntext\n"
    assert start(path, cwd=elsewhere) == "Report\n======\nname   n\nÄpfel  <3>\n1 rows\n"
    assert start(path, "--language", "de", cwd=elsewhere).startswith("Übersicht\n=========\n")
    assert start(path, "--format", "csv", cwd=elsewhere) == '"name","n"\n"Äpfel","<3>"\n'
    page = start(path, "--format", "html", "--language", "de", cwd=elsewhere)
    assert "<h1>Übersicht – reportkit</h1>" in page and "<td>&lt;3&gt;</td>" in page
    assert start(path, "--format", "html", "--mail", cwd=elsewhere).startswith('<table summary="Report">')
    assert "no language" in start(path, "--language", "fr", cwd=elsewhere, status=2)
    assert "no format" in start(path, "--format", "pdf", cwd=elsewhere, status=2)


def test_locale_does_not_matter(wheel, tmp_path):
    site = install(wheel, tmp_path / "site")
    code = "from reportkit import resources; import sys; assert resources.texts('de')['title'] == '\\xdcbersicht'; assert '\\u2013' in resources.template('page.html')"
    done = subprocess.run([sys.executable, "-X", "utf8=0", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**ENV, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr


def plugin(site, name, module, points):
    (site / f"{module}.py").write_text("def render(title, rows, texts):\n    return f'{title}: {len(rows)}\\n'\n")
    info = site / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[reportkit.formats]\n" + points)


def test_plugins(wheel, tmp_path):
    site = install(wheel, tmp_path / "site")
    other = tmp_path / "other"
    other.mkdir()
    plugin(other, "shortform", "shortform", "short = shortform:render\n")
    plugin(other, "broken", "broken_plugin", "bad = no_such_module_here:render\nworse = broken_plugin:missing\n")
    (other / "raises.py").write_text("raise RuntimeError('no')\n")
    plugin(other, "raising", "unused", "awful = raises:render\n")
    listed = start([other, site], "--list", cwd=tmp_path)
    assert listed == "csv\nhtml\nshort\ntext\n"
    assert start([other, site], "--format", "short", cwd=tmp_path) == "Report: 2\n"
    assert start([other, site], "--format", "text", cwd=tmp_path).startswith("Report\n")


def test_own_formats_are_entry_points(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{INFO}/entry_points.txt").decode()
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str
    parser.read_string(text)
    assert set(parser.sections()) == {"console_scripts", "reportkit.formats"}
    assert dict(parser["reportkit.formats"]) == {n: f"reportkit.formats.{n}:render" for n in ("text", "html", "csv")}


def test_building_does_not_import_the_package(tmp_path):
    project = checkout(tmp_path / "p")
    init = project / "reportkit" / "__init__.py"
    init.write_text("import a_module_that_is_not_there\n" + init.read_text().replace('"1.4.0"', "'2.0.1'"))
    path, name = build(project, tmp_path / "out")
    assert name == "report_kit-2.0.1-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        assert headers(archive.read("report_kit-2.0.1.dist-info/METADATA").decode(), "Version") == ["2.0.1"]


def test_optional_hook_arguments(tmp_path):
    project = checkout(tmp_path / "p")
    one = build(project, tmp_path / "a", arguments="({'x': 'y'}, None)")[0]
    two = build(project, tmp_path / "b", arguments="(None, '/tmp')")[0]
    assert one.read_bytes() == two.read_bytes()


def test_globs_of_package_data(tmp_path):
    project = checkout(tmp_path / "p")
    package = project / "reportkit"
    for name in ("locale/en/deep/more/texts.json", "locale/top.json", "locale/en/notes.txt", "templates/mail/x/y.html",
                 "locale/en/texts.json~", "templates/.page.html.swp"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x")
    config = project / "pyproject.toml"
    text = re.sub(r"package-data = \[.*?\]", 'package-data = ["templates/*.html", "locale/**/*.json"]',
                  config.read_text(encoding="utf-8"), flags=re.S)
    config.write_text(text, encoding="utf-8")
    with zipfile.ZipFile(build(project, tmp_path / "out")[0]) as archive:
        data = {n for n in archive.namelist() if not n.endswith(".py") and not n.startswith(INFO)}
    assert data == {f"reportkit/{n}" for n in ("templates/page.html", "locale/top.json", "locale/en/texts.json",
                                               "locale/de/texts.json", "locale/en/deep/more/texts.json")}


def litter(project):
    for folder in ("reportkit", "reportkit/formats", "tools", "tests"):
        cache = project / folder / "__pycache__"
        cache.mkdir(exist_ok=True)
        (cache / "x.cpython-311.pyc").write_bytes(b"x")
    (project / "reportkit" / "cli.py~").write_text("x")
    (project / "reportkit" / "old.pyc").write_bytes(b"x")
    for folder in ("dist", "build/lib/reportkit"):
        (project / folder).mkdir(parents=True)
        (project / folder / "left.py").write_text("x")


@pytest.mark.parametrize("hook", ["build_wheel", "build_sdist"])
def test_reproducible(tmp_path, hook):
    first = checkout(tmp_path / "first")
    one = build(first, tmp_path / "a", hook)[0].read_bytes()
    # The same tree, made in another order, with other times and modes, and dirty.
    second = tmp_path / "second"
    for folder, folders, files in sorted(os.walk(first), reverse=True):
        target = second / os.path.relpath(folder, first)
        target.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, reverse=True):
            shutil.copyfile(os.path.join(folder, name), target / name)
            os.chmod(target / name, 0o700)
            os.utime(target / name, (1e9, 1e9))
    litter(second)
    old = os.umask(0o077)
    try:
        two = build(second, tmp_path / "b", hook, env={"TZ": "XXX-13", "PYTHONHASHSEED": "1"})[0].read_bytes()
        again = build(second, tmp_path / "b", hook, env={"TZ": "XXX+11", "PYTHONHASHSEED": "2"})[0].read_bytes()
    finally:
        os.umask(old)
    assert one == two == again


def test_time_stamps(tmp_path):
    project = checkout(tmp_path / "p")

    def times(epoch, hook):
        env = {"TZ": "XXX-5"} if epoch is None else {"SOURCE_DATE_EPOCH": epoch, "TZ": "XXX-5"}
        path = build(project, tmp_path / f"out{epoch}", hook, env=env)[0]
        if hook == "build_sdist":
            with tarfile.open(path) as archive:
                return {member.mtime for member in archive}
        with zipfile.ZipFile(path) as archive:
            return {entry.date_time for entry in archive.infolist()}

    assert times(None, "build_wheel") == {(1980, 1, 1, 0, 0, 0)}
    assert times("1700000000", "build_wheel") == {time.gmtime(1700000000)[:6]}
    assert times("5", "build_wheel") == {(1980, 1, 1, 0, 0, 0)}
    assert times("1700000000", "build_sdist") == {1700000000}
    assert times(None, "build_sdist") == {315532800}


def test_sdist(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        names = {member.name for member in archive if member.isfile()}
        for member in archive:
            assert member.name.split("/")[0] == "report_kit-1.4.0", member.name
            assert (member.uid, member.gid) == (0, 0) and member.uname in ("", "root"), member.name
        archive.extractall(tmp_path)
    top = "report_kit-1.4.0/"
    expected = MODULES | DATA | {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "tools/minibuild.py"}
    assert {top + name for name in expected} <= names
    assert any(name.startswith(top + "tests/") for name in names)
    with zipfile.ZipFile(wheel) as archive:
        assert (tmp_path / top / "PKG-INFO").read_bytes() == archive.read(f"{INFO}/METADATA")
    again = build(tmp_path / top, tmp_path / "out")[0]
    assert again.read_bytes() == wheel.read_bytes()


def test_checkout_still_works(tmp_path):
    done = subprocess.run([sys.executable, "-m", "reportkit.cli", "--format", "html"], cwd=SOURCE, env=ENV, input=b"a\n",
                          capture_output=True)
    assert done.returncode == 0 and b"<td>a</td>" in done.stdout, done.stderr.decode()
