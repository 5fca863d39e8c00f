"""Help of every command."""

import subprocess
import sys
import tomllib

import pytest

from driftwork import help
from driftwork.config_base import load
from launch import cli
from launch.cli import COMMANDS, main_of
from launch.runs.config import RunConfig
from launch.runs.run_folder import create
from tests.places import ROOT, tiny


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_the_usage(name, capsys):
    main = main_of(name)
    assert main(["-h"]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]
    assert printed.startswith(f"usage: driftwork {name}")
    assert (main.settings is None) == (name in ("demo", "verify"))
    if name not in ("demo", "doctor", "ui"):  # commands that need no argument
        assert main([]) == 2
        usage = capsys.readouterr().out
        assert printed.startswith(usage)
        assert max(map(len, usage.splitlines())) <= help.WIDTH


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_its_width_and_has_no_colour(name, capsys):
    main_of(name)(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > help.WIDTH and len(line.split()) > 1] == []
    assert all(line.isprintable() and line == line.rstrip() for line in lines)


def test_surplus_words_are_refused(capsys):
    for name, argv in (
        ("verify", ["a", "b"]),
        ("export", ["a", "b", "c"]),
        ("demo", ["--fast"]),
        ("evaluate", ["--json"]),
    ):
        assert main_of(name)(argv) == 2
        assert capsys.readouterr().out.startswith(f"usage: driftwork {name}")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_the_package_version(flag, monkeypatch, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(sys, "argv", ["driftwork", flag])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"driftwork {project['version']}\n"


def line_of(printed, key):
    """Return the value and the text in parentheses beside it."""
    (found,) = [line for line in printed.replace("\n          ", " ").splitlines() if line.startswith(f"  {key} ")]
    return found.removeprefix(f"  {key} ")


def test_train_help_shows_the_values_of_a_config(capsys, tmp_path):
    """A config that lacks its data is shown too."""
    file = "configs/train/vsdn_vae_lakh.yaml"
    assert main_of("train")([str(ROOT / file), "optim.lr=3e-4", "--help"]) == 0
    printed = capsys.readouterr().out
    assert line_of(printed, "optim.lr") == "= 0.0003  (number > 0; command line)"
    assert line_of(printed, "model.latent").startswith("= 128  (integer >= 1; ")
    assert line_of(printed, "model.latent").endswith(f"{file})")
    assert line_of(printed, "train.kl_warmup_steps").endswith("configs/train/lakh.yaml)")
    assert line_of(printed, "optim.ema").endswith("; default)")
    assert "model.substeps" not in printed
    (tmp_path / "c.yaml").write_text("model: {name: gru_ode}\n")
    assert main_of("train")([str(tmp_path / "c.yaml"), "--help"]) == 0
    assert line_of(capsys.readouterr().out, "data") == "is required  (path or URL)"


def test_train_help_shows_the_values_of_a_run(capsys, tmp_path):
    run = create(load(RunConfig, tiny("vsdn_sde"), [f"out={tmp_path / 'run'}"]))
    assert main_of("train")([f"resume={run}", "train.max_epochs=9", "--help"]) == 0
    printed = capsys.readouterr().out
    assert line_of(printed, "model.samples") == f"= 2  (integer >= 1; {run}/config.yaml)"
    assert line_of(printed, "train.max_epochs") == "= 9  (integer >= 1; command line)"


def test_prepare_help_shows_the_data_set(capsys):
    assert main_of("prepare")([str(ROOT / "configs/prepare/timit.yaml"), "out=x", "--help"]) == 0
    printed = capsys.readouterr().out
    assert line_of(printed, "dataset.name").startswith("= timit  (timit; ")
    assert line_of(printed, "out") == "= x  (path or URL; command line)"
    assert "dataset.protocol" not in printed


def test_sweep_help_shows_all_values_of_what_varies(capsys):
    grid = "configs/grids/vsdn_lakh_small.yaml"
    assert main_of("sweep")([str(ROOT / grid), "train.seed=3", "at_once=1", "--help"]) == 0
    printed = capsys.readouterr().out
    assert line_of(printed, "at_once") == "= 1  (integer >= 1 or null; command line)"
    assert line_of(printed, "train.beta").startswith("= 0.1 | 1.0  (")
    assert line_of(printed, "train.beta").endswith(f"{grid})")
    assert line_of(printed, "train.seed") == "= 3  (integer >= 0; command line)"
    assert "\nmodel, with model.name=vsdn_sde|vsdn_sde_res" in printed


def test_fetch_help_shows_the_archive(capsys):
    assert main_of("fetch")(["cmu", "subject=7", "--help"]) == 0
    printed = capsys.readouterr().out
    assert line_of(printed, "subject") == "= 7  (integer or all; command line)"
    assert line_of(printed, "to") == "is required  (path)"
    assert line_of(printed, "url").startswith("= http://mocap.cs.cmu.edu  (")


@pytest.mark.process
def test_help_ends_with_its_reader():
    command = f"{sys.executable} -m launch.cli train --help | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
