"""Versions against those that pyproject.toml allows, and which environment the commands come from. Nothing is imported:
that a package is missing is a finding."""

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from launch.finding import Finding, error, ok, warning

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_EXTRAS = ("prepare", "train")


def python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    wanted = str(_project()["requires-python"])
    said = ".".join(map(str, version))
    if not _within(version, wanted):
        return error(
            "python", f"{said}, driftwork runs on {wanted}", "make setup PYTHON=python3.11 makes another environment"
        )
    return ok("python", said)


def packages() -> Iterator[Finding]:
    """One finding for each package that is missing or of another version, and one for all the others."""
    good = 0
    for extra, requirement in _requirements():
        name, wanted = _split(requirement)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if extra:
                cure = f"pip install -e '.[{extra}]' brings what `driftwork {extra}` needs"
                yield warning("packages", f"{name} is not installed", cure)
            else:
                yield error("packages", f"{name} is not installed", "pip install -e .")
            continue
        if not _within(_numbers(version), wanted):
            cure = f"pip install -c constraints.txt '{name}{wanted}'"
            yield error("packages", f"{name} {version}, driftwork is made for {wanted}", cure)
        else:
            good += 1
    yield ok("packages", f"{good} of the versions that driftwork is made for")


def entry_point() -> Finding:
    """`ray job submit` and launchers start `python` from PATH: it must be the one that driftwork is installed for."""
    here = Path(sys.executable).absolute().parent
    found = shutil.which("python")
    cure = f". {here}/activate" if (here / "activate").exists() else f"put {here} first in PATH"
    if found is None:
        return warning("entry point", "PATH has no `python`, which job scripts start", cure)
    if Path(found).absolute().parent != here:
        return warning("entry point", f"`python` is {found}, and this is {sys.executable}", cure)
    return ok("entry point", f"`python` is {found}")


def _project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads(PROJECT.read_text())["project"]
    return found


def _requirements() -> Iterator[tuple[str, str]]:
    """(extra or nothing, requirement)."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    for requirement in project["dependencies"]:
        yield "", requirement
    seen = set()
    for extra in _EXTRAS:
        for requirement in project["optional-dependencies"][extra]:
            if requirement not in seen:  # some are in both
                yield extra, requirement
            seen.add(requirement)


def _split(requirement: str) -> tuple[str, str]:
    found = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(.*)", requirement)
    assert found is not None, requirement
    return found[1], found[2]


def _within(version: tuple[int, ...], wanted: str) -> bool:
    """Whether a version lies in `>=A,<B`, the only form that pyproject.toml has."""
    for bound in wanted.split(","):
        than = _numbers(bound[2:] if bound.startswith(">=") else bound[1:])
        if (bound.startswith(">=") and version < than) or (bound.startswith("<") and version >= than):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
