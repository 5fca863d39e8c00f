"""Grid files: their trials, and errors for impossible ones."""

from pathlib import Path

import pytest

from driftwork.errors import DriftworkError
from launch.sweeps import grid as grids
from tests.places import tiny

TINY = tiny("vsdn_vae")


@pytest.fixture
def read(tmp_path):
    """Provide a function that reads a grid of a given text, whose base is the tiny config unless the text names one."""

    def reads(text, *overrides):
        file = tmp_path / "some.yaml"
        file.write_text(text if "base:" in text else f"base: {TINY}\n{text}")
        return grids.read([str(file), *overrides])

    return reads


def names(grid):
    return [trial.name for trial in grid.trials]


def test_grid_has_every_combination_in_order(read):
    grid = read("grid: {train.beta: [0.1, 1], model.latent: [2, 4, 8]}")
    assert names(grid) == [f"beta={beta}, latent={latent}" for beta in ("0.1", "1") for latent in (2, 4, 8)]
    fourth = grid.trials[3]
    assert fourth.values == {"train.beta": 1, "model.latent": 2}
    assert (fourth.config.train.beta, fourth.config.model.latent, fourth.config.model.hidden) == (1.0, 2, 8)
    assert fourth.folder == Path("runs/some/beta=1,latent=2")
    assert fourth.config.tracking.run_name == "beta=1, latent=2"


def test_zip_and_runs_multiply_with_grid(read):
    zipped = "zip: {model.latent: [2, 4], model.width: [8, 16]}\n"
    assert names(read(zipped)) == ["latent=2, width=8", "latent=4, width=16"]
    runs = "runs: [{model.name: vsdn_vae_res}, {train: {beta: 0.5}, model.free_nats: 0}]\n"
    assert names(read(runs)) == ["vsdn_vae_res", "beta=0.5, free_nats=0"]
    grid = read(f"{zipped}{runs}grid: {{train.seed: [0, 1, 2]}}")
    assert len(grid.trials) == 2 * 2 * 3
    assert names(grid)[:2] == [f"vsdn_vae_res, latent=2, width=8, seed={seed}" for seed in (0, 1)]
    assert names(grid)[-1] == "beta=0.5, free_nats=0, latent=4, width=16, seed=2"
    last = grid.trials[-1].config
    assert (last.train.beta, last.model.free_nats, last.model.width, last.train.seed) == (0.5, 0, 16, 2)


def test_several_bases_are_one_more_factor(read):
    ode2vae = TINY.with_name("tiny_ode2vae.yaml")
    grid = read(f"base: [{TINY}, {ode2vae}]\ngrid: {{train.seed: [0, 1]}}")
    assert names(grid) == [f"{name}, seed={s}" for name in ("tiny_vsdn_vae", "tiny_ode2vae") for s in (0, 1)]
    assert [trial.config.model.name for trial in grid.trials] == ["vsdn_vae"] * 2 + ["ode2vae"] * 2


def test_trial_names_are_short_and_valid(read):
    """Keys are cut to their distinguishing words, and lists fit a folder's name."""
    grid = read(
        "set: {observe.evaluate.pattern: regular}\n"
        "grid: {observe.train.ratios: [[0.25], [0.25, 0.5]], observe.evaluate.ratios: [[0.5]], data: [a/b]}"
    )
    assert names(grid)[1] == "train.ratios=0.25+0.5, evaluate.ratios=0.5, data=a-b"
    assert grid.trials[1].config.observe.train.ratios == (0.25, 0.5)


def test_config_of_one_run_is_no_grid():
    with pytest.raises(DriftworkError, match="a config of one run, not a grid; a grid names it as base: "):
        grids.read([str(TINY), "data=rolls"])


def test_base_is_taken_from_command_line(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("grid: {train.seed: [0, 1]}")
    with pytest.raises(DriftworkError, match="'base' is missing; give it in the file or as base=VALUE"):
        grids.read([str(file)])
    assert [trial.config.train.seed for trial in grids.read([str(file), f"base={TINY}"]).trials] == [0, 1]


def test_command_line_overrides_set_and_base(read):
    text = "set: {train: {max_epochs: 7}, data: there}\nat_once: 3\ngrid: {train.seed: [0]}"
    (trial,) = read(text).trials
    assert (trial.config.train.max_epochs, trial.config.train.batch_size, str(trial.config.data)) == (7, 8, "there")
    grid = read(text, "data=here", "train.max_epochs=9", "at_once=2", "out=elsewhere", "evaluate=val", "name=x")
    (trial,) = grid.trials
    assert (trial.config.train.max_epochs, str(trial.config.data), trial.folder) == (
        9,
        "here",
        Path("elsewhere/seed=0"),
    )
    assert (grid.name, grid.config.at_once, grid.config.evaluate) == ("x", 2, "val")


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("grid: {model.latent: [1, 2, 0]}", (), "some.yaml: trial 3 (latent=0): .*latent=0: input should be greater"),
        ("runs: [{model.latent: 1}, {train.beta: 0}, {model.hiden: 4}]", (),
         "some.yaml: trial 3 (hiden=4): .*unknown key 'model.hiden'; did you mean 'model.hidden'?"),
        ("grdi: {train.beta: [0]}", (), "some.yaml: unknown key 'grdi'; did you mean 'grid'?"),
        ("", (), "some.yaml: nothing varies, so there is nothing to run"),
        ("grid: {}", (), "some.yaml: nothing varies, so there is nothing to run"),
        ("grid: {train.beta: []}", (), "some.yaml: train.beta has no values, so there is nothing to run"),
        ("zip: {train.beta: []}", (), "some.yaml: train.beta has no values, so there is nothing to run"),
        ("zip: {train.beta: [0, 1], train.seed: [0]}", (), "train.beta has 2, train.seed has 1"),
        ("grid: {train.beta: [0.5, 1, 1.0]}", (), "some.yaml: trial 3 (beta=1.0): the same run as trial 2"),
        ("runs: [{train.beta: 1}, {train.seed: 0}]", (), "some.yaml: trial 2 (seed=0): the same run as trial 1"),
        ("grid: {data: [a/b, a-b]}", (), "its folder runs/some/data=a-b is that of trial 1 too"),
        ("grid: {train.beta: [0]}\nset: {train.beta: 1}", (), "train.beta is set under set and under grid"),
        ("grid: {train.beta: [0]}", ("train.beta=1",), "train.beta varies from trial to trial"),
        ("grid: {train.beta: [0]}\nset: {out: x}", (), "out of a trial is set by the sweep; remove it"),
        ("grid: {train.beta: [0]}", ("tracking.parent=x",), "tracking.parent of a trial is set by the sweep"),
        ("grid: {train.beta: 1}", (), "grid.train.beta=1: input should be a valid tuple"),
        ("grid: {train.beta: [0]}", ("at_once=0",), "at_once=0: input should be greater than or equal to 1"),
        ("grid: {train.beta: [0]}", ("evaluate=train",), "evaluate=train: input should be 'val' or 'test'"),
        ("grid: {train.beta: [0]}", ("data",), "'data' is not of the form key=value"),
        ("grid: {train.beta: [0], model.latent: [&a 1, *a]}", (), "cannot be read as YAML: an alias (*name) is not"),
        ("grid: {train.seed: [99999999999999999999]}", (), "is a number of more than 64 bits"),
        ("set: {\"a\\nb\": 1}\ngrid: {train.seed: [0]}", (), "'a\\nb' is not a dotted key"),
        ("runs: [{train.beta: [{!!timestamp 2026-01-01: 1}]}]", (), "keys must be str"),
        (f"grid: {{train.seed: {[*range(32)]}, model.latent: {[*range(1, 33)]}}}", (), "more than 1,000 trials"),
        (f"grid: {{{', '.join(f'k{i}: [0]' for i in range(65))}}}", (), "65 keys vary; a sweep takes at most 64"),
        (f"grid: {{tracking.experiment: [{'x' * 300}]}}", (), "its values make a folder's name of 311 characters"),
        ("base: none.yaml\ngrid: {train.beta: [0]}", (), "none.yaml: no such config file"),
        ("base: []\ngrid: {train.beta: [0]}", (), "base has no values"),
        ("base: [a.yaml, b/a.yaml]", (), "base: list each train config only once"),
    ],
)  # fmt: skip
def test_mistake_is_named_in_one_line(read, text, overrides, said):
    with pytest.raises(DriftworkError) as caught:
        read(text, *overrides)
    message, position = str(caught.value), 0
    for piece in said.split(".*"):
        assert piece in message[position:], message
        position = message.index(piece, position) + len(piece)
    assert "\n" not in message


def test_missing_grid_is_reported():
    with pytest.raises(DriftworkError, match="the first argument is a grid"):
        grids.read(["data=x"])
