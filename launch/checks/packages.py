"""Check versions of packages against pyproject.toml, and the environment of the commands. No package is imported, since
a missing one is a finding."""

import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from launch.checks.finding import Finding, error, ok, warning

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
_EXTRAS = ("prepare", "train")


def python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    wanted = SpecifierSet(_project()["requires-python"])
    running = ".".join(map(str, version))
    if not wanted.contains(running):
        cure = "create another environment: make setup PYTHON=python3.11"
        return error("python", f"{running}; driftwork requires {_written(wanted)}", cure)
    return ok("python", running)


def packages() -> Iterator[Finding]:
    """Yield a finding for each package that is missing or has a wrong version, and one for all others."""
    good = 0
    for extra, requirement in _requirements():
        name, wanted = requirement.name, requirement.specifier
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if extra:
                cure = f"for the packages of `driftwork {extra}`: pip install -e '.[{extra}]'"
                yield warning("packages", f"{name} is not installed", cure)
            else:
                yield error("packages", f"{name} is not installed", "pip install -e .")
            continue
        if not wanted.contains(version, prereleases=True):
            cure = f"pip install -c constraints.txt '{name}{_written(wanted)}'"
            yield error("packages", f"{name} {version}; driftwork requires {_written(wanted)}", cure)
        else:
            good += 1
    yield ok("packages", f"{good} with a version that driftwork supports")


def entry_point() -> Finding:
    """Check that `python` in PATH, which `ray job submit` and launchers start, is the one with driftwork."""
    here = Path(sys.executable).absolute().parent
    found = shutil.which("python")
    cure = f". {here}/activate" if (here / "activate").exists() else f"put {here} first in PATH"
    if found is None:
        return warning("entry point", "PATH has no `python`, which job scripts start", cure)
    if Path(found).absolute().parent != here:
        return warning("entry point", f"`python` in PATH is {found}, but this command runs in {sys.executable}", cure)
    return ok("entry point", f"`python` is {found}")


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(PROJECT.read_text())["project"]
    return found


def _requirements() -> Iterator[tuple[str, Requirement]]:
    """Yield each (extra, requirement); the extra is empty for a package that is always required."""
    project = _project()
    wanted = dict.fromkeys(project["dependencies"], "")
    for extra in _EXTRAS:
        for line in project["optional-dependencies"][extra]:
            wanted.setdefault(line, extra)  # some are in several
    for line, extra in wanted.items():
        yield extra, Requirement(line)


def _written(wanted: SpecifierSet) -> str:
    """Return the allowed versions as text, as in pyproject.toml with the lower bound first."""
    return ",".join(sorted(map(str, wanted), reverse=True))
