"""Check versions for known security holes: `python -m tests.audit [--online]`.

The list of advisories.yaml is short and needs no network. `--online` also runs pip-audit, whose service has more
advisories and covers indirect dependencies. If pip-audit is not installed or its service does not answer, this is
reported but is not a failure.
"""

import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from driftwork.config_base import Config, build, read_mapping
from tests.places import ROOT

PINS = ROOT / "constraints.txt"
_PATIENCE_S = 300


class Advisory(Config):
    id: str
    what: str
    fixed: tuple[str, ...]
    """First good version of each release branch; empty if none is known."""
    accepted: str = ""
    """Reason why an affected version may stay; empty if it may not."""


def advisories(path: Path = ROOT / "advisories.yaml") -> dict[str, list[Advisory]]:
    """Map each package to its advisories."""
    return {
        package: [build(Advisory, entry, where=f"{path}: {package}") for entry in entries]
        for package, entries in read_mapping(path).items()
    }


def affected(version: str, fixed: tuple[str, ...]) -> bool:
    """Return whether a version is older than the fix of its branch (major.minor), or than the newest fix if it has
    none."""
    good = [Version(text) for text in fixed]
    branch = [fix for fix in good if fix.release[:2] == Version(version).release[:2]]
    return not good or Version(version) < (branch or [max(good)])[0]


def findings(versions: Mapping[str, str], known: Mapping[str, list[Advisory]]) -> Iterator[tuple[str, bool]]:
    """Yield (line, whether it is a failure) for each advisory that affects a version."""
    for package, entries in known.items():
        for entry in entries:
            if package in versions and affected(versions[package], entry.fixed):
                why = f"; accepted: {entry.accepted}" if entry.accepted else ""
                good = " or ".join(entry.fixed) or "none"
                yield f"{package} {versions[package]}: {entry.id}, {entry.what}; good: {good}{why}", not entry.accepted


def pins() -> dict[str, str]:
    lines = [line.split("==") for line in PINS.read_text().splitlines() if "==" in line]
    return {name.lower(): version.strip() for name, version in lines}


def installed(names: Mapping[str, Any]) -> dict[str, str]:
    found = {name: version for name in names if (version := _version(name))}
    return {**found, "python": platform.python_version()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def online(command: list[str]) -> tuple[list[str], bool]:
    """Return (lines, whether there is a failure) of pip-audit for the pins."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
        found = json.loads(ended.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return ["pip-audit: its service does not answer; only advisories.yaml was checked"], False
    lines = [
        f"{package['name']} {package['version']}: {hole['id']}; good: {' or '.join(hole['fix_versions']) or 'none'}"
        for package in found
        for hole in package.get("vulns", [])
    ]
    return lines or [f"pip-audit: {len(found)} packages, nothing known"], bool(lines)


def main(argv: list[str]) -> int:
    known = advisories()
    failed = False
    for where, versions in ((PINS.name, pins()), ("installed", installed(known))):
        for line, bad in findings(versions, known):
            print(f"{'error' if bad else 'note'}: {where}: {line}")
            failed |= bad
    print(f"{sum(map(len, known.values()))} advisories checked")
    if "--online" in argv:
        lines, bad = ["pip-audit is not installed: pip install pip-audit"], False
        if importlib.util.find_spec("pip_audit"):
            asked = ["-r", str(PINS), "--no-deps", "--disable-pip", "-f", "json", "--progress-spinner", "off"]
            lines, bad = online([sys.executable, "-m", "pip_audit", *asked])
        print("\n".join(lines))
        failed |= bad
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
