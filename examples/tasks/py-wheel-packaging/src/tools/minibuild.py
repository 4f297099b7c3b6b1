"""A small PEP 517 build backend for pure Python packages.

Reads [project] and [tool.minibuild] of pyproject.toml:

    [tool.minibuild]
    package = "name"              # the package folder
    package-data = ["x/*.html"]   # globs below it
"""

import hashlib
import io
import os
import tarfile
import tomllib
import zipfile
from pathlib import Path


def _config():
    with open("pyproject.toml", "rb") as handle:
        return tomllib.load(handle)


def _version(config):
    package = __import__(config["tool"]["minibuild"]["package"])
    return package.__version__


def _base_name(config):
    return f"{config['project']['name']}-{_version(config)}"


def _metadata(config):
    project = config["project"]
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {_version(config)}",
        f"Summary: {project['description']}",
    ]
    for author in project.get("authors", []):
        lines.append(f"Author: {author['name']}")
    for requirement in project.get("dependencies", []):
        lines.append(f"Requires-Dist: {requirement}")
    for extra in project.get("optional-dependencies", {}):
        lines.append(f"Provides-Extra: {extra}")
    return "\n".join(lines) + "\n"


def _entry_points(config):
    project = config["project"]
    lines = ["[scripts]"]
    for name, target in project.get("scripts", {}).items():
        lines.append(f"{name} = {target}")
    for group, points in project.get("entry-points", {}).items():
        lines.append(f"[{group.replace('.', '_')}]")
        for name, target in points.items():
            lines.append(f"{name}={target}")
    return "\n".join(lines) + "\n"


def _package_files(config):
    """The files of the package, relative to the project."""
    settings = config["tool"]["minibuild"]
    package = Path(settings["package"])
    files = list(package.glob("*.py"))
    for pattern in settings.get("package-data", []):
        files.extend(package.glob(pattern))
    return files


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    config = _config()
    base = _base_name(config)
    info = f"{base}.dist-info"
    name = f"{base}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(path, data):
            record.append(f"{path},sha256={hashlib.sha256(data).hexdigest()},{len(data)}")
            wheel.writestr(path, data)

        for path in _package_files(config):
            add(str(path), path.read_bytes())
        add(f"{info}/METADATA", _metadata(config).encode("ascii", "replace"))
        add(f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: minibuild\n")
        add(f"{info}/entry_points.txt", _entry_points(config).encode())
        wheel.writestr(f"{info}/RECORD", "\n".join(record))
    return os.path.join(wheel_directory, name)


def build_sdist(sdist_directory, config_settings=None):
    config = _config()
    base = _base_name(config)
    name = f"{base}.tar.gz"
    with tarfile.open(os.path.join(sdist_directory, name), "w:gz") as sdist:
        data = _metadata(config).encode("ascii", "replace")
        entry = tarfile.TarInfo(f"{base}/PKG-INFO")
        entry.size = len(data)
        sdist.addfile(entry, io.BytesIO(data))
        for path in _package_files(config):
            sdist.add(path, f"{base}/{path}")
        sdist.add("README.md", f"{base}/README.md")
    return os.path.join(sdist_directory, name)


def get_requires_for_build_wheel(config_settings=None):
    return []


def get_requires_for_build_sdist(config_settings=None):
    return []
