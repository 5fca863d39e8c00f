"""What every command says of itself."""

import importlib
import sys
import tomllib

import pytest

from launch import cli
from launch.cli import COMMANDS
from tests.places import ROOT


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_usage(name, capsys):
    main = importlib.import_module(f"launch.{name}").main
    assert main(["-h"]) == main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert usage.startswith(f"usage: driftwork {name}")
    if name not in ("demo", "doctor", "ui"):  # which need no word
        assert main([]) == 2
        assert 2 * capsys.readouterr().out == usage


def test_words_that_a_command_has_no_use_for_are_no_request(capsys):
    for name, argv in (
        ("verify", ["a", "b"]),
        ("export", ["a", "b", "c"]),
        ("demo", ["--fast"]),
        ("evaluate", ["--json"]),
    ):
        assert importlib.import_module(f"launch.{name}").main(argv) == 2
        assert capsys.readouterr().out.startswith(f"usage: driftwork {name}")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_that_of_the_package(flag, monkeypatch, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(sys, "argv", ["driftwork", flag])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"driftwork {project['version']}\n"
