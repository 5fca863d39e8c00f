"""Pinned versions against known security holes: an older version fails, and an unreachable service does not."""

import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tests import audit


def test_pins_have_no_unaccepted_hole(capsys):
    assert audit.main([]) == 0, capsys.readouterr().out


def test_pin_below_a_fix_is_named(tmp_path, monkeypatch, capsys):
    old = re.sub(r"(?m)^torch==.*$", "torch==2.5.1", audit.PINS.read_text())
    monkeypatch.setattr(audit, "PINS", tmp_path / "constraints.txt")
    audit.PINS.write_text(old)
    assert audit.main([]) == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    start = "error: constraints.txt: torch 2.5.1: "
    assert bad == [
        start + "CVE-2025-32434, torch.load runs code in spite of weights_only; good: 2.6.0",
        start + "CVE-2026-24747, torch.load with weights_only corrupts memory; good: 2.10.0",
    ]


@pytest.mark.parametrize(
    ("version", "fixed", "bad"),
    [
        ("3.9.0", ("3.10.0",), True),  # numbers, not text
        ("3.10.0", ("3.10.0",), False),
        ("3.10.0rc1", ("3.10.0",), True),
        ("3.11.7", ("3.11.13", "3.12.11"), True),
        ("3.11.13", ("3.11.13", "3.12.11"), False),
        ("3.12.3", ("3.11.13", "3.12.11"), True),
        ("3.13.9", ("3.11.13", "3.12.11"), False),
        ("99", (), True),
    ],
)
def test_versions_are_compared_within_their_branch(version, fixed, bad):
    assert audit.affected(version, fixed) is bad


def test_pyproject_excludes_vulnerable_versions():
    project = tomllib.loads((audit.ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra] + project["dependencies"]
    known = audit.advisories()
    for requirement in map(Requirement, lines):
        lowest = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        for entry in known.get(requirement.name, []):
            assert entry.accepted or not audit.affected(lowest[0], entry.fixed), f"{requirement} lets {entry.id} in"


@pytest.mark.process
@pytest.mark.parametrize(
    ("said", "line", "bad"),
    [
        (
            '{"dependencies": [{"name": "a", "version": "1"}]}',
            "pip-audit: 1 packages, nothing known",
            False,
        ),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}',
            "a 1: X-1; good: 2",
            True,
        ),
        ("", "pip-audit: its service does not answer; only advisories.yaml was checked", False),
    ],
)
def test_pip_audit_findings_fail_but_silence_does_not(said, line, bad):
    assert audit.online([sys.executable, "-c", f"print({said!r})"]) == ([line], bad)
