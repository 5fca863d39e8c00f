"""Every shipped YAML file is a test case, and every mistake is one line with the key and what is allowed."""

from pathlib import Path

import pytest
import torch
import yaml

from driftwork.config_base import Config, build, config_file, dump, flatten, load
from driftwork.errors import DriftworkError
from launch.runs.config import RunConfig, parse
from launch.sweeps import grid as grids
from launch.training import setup
from pipeline.prepare.prepare import PrepareConfig
from tests.places import ROOT

CONFIGS = Path(__file__).parent.parent / "configs"
TRAIN = sorted(path for path in (CONFIGS / "train").glob("*.yaml") if "model" in yaml.safe_load(path.read_text()))
SMALL = str(CONFIGS / "train/vsdn_vae_lakh_small.yaml")


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.stem)
def test_shipped_training_config_survives_a_round_trip(path, tmp_path):
    config = load(RunConfig, path)
    assert path.stem.startswith(config.model.name)
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load(RunConfig, tmp_path / "c.yaml") == config
    assert flatten(config)["model.name"] == config.model.name


@pytest.mark.parametrize("path", sorted((CONFIGS / "prepare").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_prepare_config_loads(path):
    load(PrepareConfig, path, ["source=raw", "out=prepared"])


GRIDS = sorted((CONFIGS / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_shipped_grid_expands_to_valid_configs(path):
    grid = grids.read([str(path)])
    assert len(grid.trials) >= 4
    assert {trial.config.tracking.run_name for trial in grid.trials} == {trial.name for trial in grid.trials}
    if path.stem.endswith("_small"):
        assert len(grid.trials) * max(trial.config.train.max_epochs for trial in grid.trials) <= 2400
        assert (path.parent / f"{path.stem.removesuffix('_small')}.yaml").exists()
    else:
        assert path.with_stem(f"{path.stem}_small").exists()


def test_new_run_without_kept_path_is_refused():
    """An earlier run with the same config can still be loaded and resumed."""
    config = load(RunConfig, CONFIGS / "train/vsdn_sde_timit.yaml", ["model.substeps=1"])
    with pytest.raises(DriftworkError, match=r"a whole time_unit in one step.*set model.substeps=3"):
        setup.check_new(config)
    setup.check_new(load(RunConfig, CONFIGS / "train/vsdn_sde_timit.yaml"))


VSDN = [path for path in TRAIN if path.stem.startswith("vsdn")]


@pytest.mark.parametrize("path", VSDN, ids=lambda path: path.stem)
def test_vsdn_config_names_its_objective(path):
    """All VSDN configs have our objective: the fraction is written out, not left to a default, beside the published
    value."""
    config, text = load(RunConfig, path), path.read_text()
    assert f"held_out_fraction: {config.model.held_out_fraction}" in text
    assert config.model.held_out_fraction > 0
    assert config.train.kl_warmup_steps > 0
    assert "# Objective: ours." in text
    assert "published one is model.held_out_fraction=0 train.kl_warmup_steps=0" in text


@pytest.mark.parametrize("path", [path for path in VSDN if "sde" in path.stem], ids=lambda path: path.stem)
def test_longest_step_keeps_half_of_the_path(path):
    assert load(RunConfig, path).model.kept >= 0.5


def test_every_train_file_is_used():
    bases = {yaml.safe_load(path.read_text()).get("base") for path in TRAIN}
    assert {path.name for path in (CONFIGS / "train").glob("*.yaml")} == {path.name for path in TRAIN} | bases - {None}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.hiden=4", "unknown key 'model.hiden'; did you mean 'model.hidden'?"),
        (
            "optim.learning_rate=1",
            "unknown key 'optim.learning_rate' (known here: autocast, clip_norm, ema, lr, lr_decay,",
        ),
        ("trian.seed=1", "unknown key 'trian'; did you mean 'train'?"),
        ("lr=1", "unknown key 'lr'; did you mean 'optim.lr'?"),
        ("batch_size=1", "did you mean 'train.batch_size' or 'evaluate.batch_size'?"),
        ("model.flow_depth=2", "it is a setting of gru_ode, ode_rnn, bi_gru_ode, not of vsdn_vae, vsdn_vae_res"),
        ("model.latent=0", "model.latent=0: input should be greater than or equal to 1"),
        ("observe.train.ratios=[0]", "observe.train.ratios=0 (item 1): input should be greater than 0"),
        ("observe.train.ratios=[1.5]", "observe.train.ratios=1.5 (item 1): input should be less than or equal to 1"),
        ("observe.evaluate.ratios=[0.3]", "a regular pattern observes every n-th frame"),
        ("ranks=0", "ranks=0: input should be greater than or equal to 1"),
        ("evaluate.horizons=[0]", "evaluate.horizons=0 (item 1): input should be greater than or equal to 1"),
        ("optim.zero_stage=4", "optim.zero_stage=4: input should be 0, 1, 2 or 3"),
        ("model.name=vsdn", "model"),
        ("train.batch_size=0", "train.batch_size=0"),
        ("optim.lr=fast", "optim.lr=fast: input should be a valid number"),
        ("train", "override 'train' is not of the form key=value"),
        ("train.seed.x=1", "train.seed"),
        ("model.solver.method=dopri5", "unknown key 'model.solver'"),
        ("model={name: gru_ode, flow_depth: 2}", "_small.yaml: model.flow_depth=2 is a setting of ode_rnn"),
    ],
)
def test_mistake_is_named_in_one_line(override, said):
    with pytest.raises(DriftworkError) as caught:
        load(RunConfig, SMALL, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_autograd_trace_is_refused_at_stage_3():
    traced = ["data=x", "model.solver.trace=autograd", "model.solver.backend=torchdiffeq", "optim.zero_stage=3"]
    with pytest.raises(DriftworkError, match="second-order graph reads weights that stage 3 has released"):
        load(RunConfig, CONFIGS / "train/ode2vae_mocap.yaml", traced)
    load(RunConfig, CONFIGS / "train/ode2vae_mocap.yaml", [*traced, "optim.zero_stage=2"])


def test_average_at_stage_3_is_refused():
    with pytest.raises(DriftworkError, match="no rank has all weights"):
        load(RunConfig, SMALL, ["optim.ema=0.99", "optim.zero_stage=3"])
    load(RunConfig, SMALL, ["optim.ema=0.99", "optim.zero_stage=2"])


def test_overrides_replace_file_and_base():
    config = load(RunConfig, SMALL, ["optim.lr=3e-4", "observe.train.ratios=[0.5]", "out=runs/a:b"])
    assert config.optim.lr == 3e-4
    assert config.observe.train.ratios == (0.5,)
    assert str(config.out) == "runs/a:b"
    assert config.train.kl_warmup_steps == 200  # from the base
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0


def test_base_of_a_base_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: c.yaml\n")
    with pytest.raises(DriftworkError, match="one level is the limit"):
        load(RunConfig, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "said"), [("a: [1", "cannot be read as YAML"), ("- a\n", "not a list"), (None, "no such config file; ")]
)
def test_unusable_file_is_reported(tmp_path, text, said):
    (tmp_path / "other.yaml").write_text("")
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(DriftworkError, match=said) as caught:
        load(RunConfig, tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


def test_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = Path("configs/prepare/table.yaml")
    assert config_file(typed) == ROOT / typed
    typed.parent.mkdir(parents=True)
    typed.touch()
    assert config_file(typed) == typed  # the user's own


def test_missing_config_argument_is_reported():
    with pytest.raises(DriftworkError, match="the first argument is a config file"):
        parse(["data=x"])


def test_beta_warms_up_linearly():
    config = load(RunConfig, SMALL, ["train.kl_warmup_steps=4", "train.beta=0.5"])
    assert [config.kl_weight(step) for step in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert load(RunConfig, SMALL, ["train.kl_warmup_steps=0"]).kl_weight(0) == 1.0


def rates(updates, *overrides):
    config = load(RunConfig, SMALL, ["optim.lr=2.0", "optim.schedule=step", "optim.warmup_steps=0", *overrides])
    return [config.lr(update, updates) for update in range(updates)]


def test_step_schedule_equals_torch_bit_for_bit():
    adam = torch.optim.Adam([torch.zeros(1)], lr=2.0)
    schedule, expected = torch.optim.lr_scheduler.StepLR(adam, 3, 0.7), []
    for _ in range(20):
        expected.append(adam.param_groups[0]["lr"])
        adam.step()
        schedule.step()
    assert rates(20, "optim.lr_decay=0.7", "optim.lr_decay_steps=3") == expected


def test_cosine_falls_from_lr_to_zero():
    found = rates(6, "optim.schedule=cosine")
    assert found == pytest.approx([2.0, 1 + 0.75**0.5, 1.5, 1.0, 0.5, 1 - 0.75**0.5])


def test_warmup_precedes_either_schedule():
    """The rates are four updates of warm-up to the full rate, then the cosine's first half over four more."""
    warm = ["optim.warmup_steps=4"]
    assert rates(6, *warm) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    found = rates(8, *warm, "optim.schedule=cosine")
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])
    assert rates(3, *warm, "optim.schedule=cosine") == [0.5, 1.0, 1.5]


def test_scores_count_from_the_full_kl_weight():
    """A model without a KL does not wait for its warm-up."""
    assert load(RunConfig, SMALL).settles_at == 200
    assert load(RunConfig, CONFIGS / "train/gru_ode_lakh_small.yaml").settles_at == 0


def test_missing_key_is_named_with_its_form():
    class Wanted(Config):
        size: int

    with pytest.raises(DriftworkError, match="'size' is missing; give it in the file or as size=VALUE"):
        build(Wanted, {}, where="x")


def test_old_configs_have_the_fields_of_today(tmp_path):
    """Fields were renamed; a run's `config.yaml` is not written anew."""
    earlier = {"held_out_fraction": "unseen_share", "held_out_beta": "unseen_beta", "prior_fraction": "prior_share"}
    given = [f"model.{name}={value}" for name, value in zip(earlier, (0.25, 0.5, 0.125), strict=True)]
    for path in VSDN:
        config = load(RunConfig, path, ["data=x", *given])
        text = dump(config)
        for name, before in earlier.items():
            assert f" {name}: " in text
            text = text.replace(f" {name}: ", f" {before}: ")
        (tmp_path / "config.yaml").write_text(text)
        assert load(RunConfig, tmp_path / "config.yaml") == config


def test_section_names_its_settings_as_they_are_typed():
    with pytest.raises(
        DriftworkError, match=r"yaml: model\.solver\.method=dopri5 .* need model\.solver\.backend=torch"
    ):
        load(RunConfig, CONFIGS / "train/ode2vae_mocap.yaml", ["data=x", "model.solver.method=dopri5"])
    with pytest.raises(DriftworkError, match=r"yaml: model\.max_step=3\.0 is longer than model\.time_unit=0\.4,"):
        load(RunConfig, CONFIGS / "train/vsdn_sde_lakh.yaml", ["data=x", "model.max_step=3"])
