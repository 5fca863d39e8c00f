"""Every sequence is scored once, and equally in any batch, with any padding and on any rank."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch.evaluation import evaluate
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import Ranks, alone
from launch.scoring import calibration, results, scores
from launch.scoring.baselines import nearest, straight
from launch.scoring.collect import collect
from launch.scoring.estimates import estimate
from launch.scoring.metrics import METRICS
from launch.scoring.scores import Scoring
from launch.training.rank import _validation_score
from launch.training.watchdog import Watchdog
from models.batch import Batch
from pipeline.shards.manifest import read_manifest
from tests import rounding
from tests.datasets import write_rolls, write_walks
from tests.places import tiny

CPU = torch.device("cpu")


SMOOTHER = "model={name: bi_gru_ode, latent: 4, hidden: 8, width: 16, depth: 1}"
SDE = "model={name: vsdn_sde, latent: 4, hidden: 8, width: 16, depth: 1, max_step: 0.2}"


def untrained(data, *overrides):
    overrides = [f"data={data}", "ranks=1", *overrides]
    config = load(RunConfig, tiny("vsdn_vae"), overrides)
    manifest = read_manifest(data)
    return config, manifest, run_folder.model_for(config, manifest).eval()


def score(data, batch_size, ranks, *overrides):
    """Return the scores of an untrained model and its baselines on the test split."""
    config, manifest, model = untrained(data, f"evaluate.batch_size={batch_size}", *overrides)
    contenders = Scoring.of(config, manifest, config.evaluate.samples).contenders(model)
    scored = {who: {} for who in contenders}
    for rate, stream in loaders.evaluation(config, data, manifest, "test", ranks).items():
        for who, contender in contenders.items():
            table = calibration.metrics(collect(contender, model, stream.epoch(0), rate, ranks.device).scores)
            assert all(metric in METRICS for columns in table.values() for x in columns.values() for metric in x)
            results.merge(scored[who], table)
    return scored


def rank(index, data, out, store):
    """Run one of two ranks over gloo; rank 0 writes."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=2)
    scored = score(data, 4, Ranks(index, 2, CPU))
    assert (
        results.estimates(scored["model"])["density"]["25"]["kl_nats_per_frame"].n == 7
    )  # validation runs on each rank
    if index == 0:
        results.write_results(out, "test", scored)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def rolls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores") / "rolls"
    return folder, write_rolls(folder)[1]


def same(one, other):
    """Check that baselines are equal to the last bit, and the model up to the rounding of products of other shapes."""
    for who, tasks in one.items():
        for task, columns in tasks.items():
            for column, metrics in columns.items():
                for metric, found in metrics.items():
                    x = other[who][task][column][metric]
                    assert found[:2] == x[:2]
                    close = partial(
                        np.testing.assert_allclose, rtol=0 if who != "model" else rounding.SINGLE, err_msg=metric
                    )
                    # The calibration error sums differences of numbers of up to 100 w.
                    gaps = metric == "ece_percent" and who == "model"
                    close(x.x, found.x, atol=100 * rounding.SINGLE * max(found.w) if gaps else 0)
                    close(x.w, found.w)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_scores_ignore_batch_and_padding(rolls, batch_size):
    same(score(rolls[0], 3, alone()), score(rolls[0], batch_size, alone()))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_filter_scores_the_same_in_any_batch(rolls, batch_size):
    same(score(rolls[0], 3, alone(), SDE), score(rolls[0], batch_size, alone(), SDE))


def test_state_space_model_is_scored_by_its_filter(rolls):
    """Likelihood and prediction are those of the filter; with `predict=rollout`, of paths of the prior alone."""
    config, manifest, model = untrained(rolls[0], SDE, "evaluate.particles=6", "evaluate.batch_size=7")
    stream = loaders.evaluation(config, rolls[0], manifest, "test", alone())["25"]
    batch = next(iter(stream.epoch(0)))
    shown = batch.observed & (batch.observed.cumsum(1) > 1)
    found = {}
    with torch.inference_mode():
        for how in ("filter", "rollout"):
            own = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"predict": how})})
            scoring = Scoring.of(own, manifest, own.evaluate.samples)
            found[how] = scoring.model(model, batch, "25")
        evidence = found["filter"]["density"]["25"]["nll_particle_filter_nats_per_frame"]
        torch.testing.assert_close(evidence.x, -model.log_evidence(batch, 6))
        assert torch.equal(evidence.w, batch.observed.sum(1))
        for how, predictive in (
            ("filter", model.predict(batch, 6)),
            ("rollout", model.rollout(batch, own.evaluate.samples)),
        ):
            brier = ((predictive.mean - batch.values).square().mean(2) * shown).sum(1)
            torch.testing.assert_close(found[how]["prediction"]["25"]["brier"].x, brier, check_dtype=False)
        assert "nll_particle_filter_nats_per_frame" not in scoring.validation(model, batch, "25")["density"]["25"]


def test_other_filter_settings_have_their_results(rolls):
    config, _, _ = untrained(rolls[0], SDE)
    _, name = evaluate._requested(config, evaluate.EvaluateConfig(particles=8, predict="rollout"))
    assert name == "test-particles-8-predict-rollout"


@pytest.mark.slow
def test_two_ranks_write_the_same_results(rolls, tmp_path):
    mp.spawn(rank, (rolls[0], tmp_path, tmp_path / "store"), nprocs=2)
    same(score(rolls[0], 4, alone()), results.read_scores(tmp_path, "test"))
    file = json.loads((tmp_path / "evaluation-test-sequences.json").read_text())
    assert file["keys"] == sorted(key for key in rolls[1] if key.startswith("test"))
    assert file["groups"] == [rolls[1][key].group for key in file["keys"]]


def test_results_file_matches_its_sequences(rolls, tmp_path):
    scored = score(rolls[0], 4, alone())
    paths = results.write_results(tmp_path, "test", scored)
    assert [path.name for path in paths] == ["evaluation-test-sequences.json", "evaluation-test.json"]
    assert results.read_scores(tmp_path, "test") == scored
    told = results.read_results(tmp_path, "test")["model"]["interpolation"]["50"]["accuracy_percent"]
    found = scored["model"]["interpolation"]["50"]["accuracy_percent"]
    assert tuple(told.values()) == estimate(found)
    assert told["groups"] == 4
    counted = [x for x, w in zip(found.x, found.w, strict=True) if w]
    assert told["value"] == pytest.approx(np.mean(counted))


def test_padding_and_unscored_sequences_do_not_count():
    def contender(module, batch, rate):
        return {"task": {rate: {"metric": scores.Ratio(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1]))}}}

    empty = torch.zeros(3, 1)
    batch = Batch(empty, empty, empty, empty, torch.tensor([1.0, 1.0, 0.0]), empty, ("b", "a", "b"), ("g", "g", "g"))
    found = collect(contender, SimpleNamespace(planner=lambda: None), [batch], "25", CPU).scores["task"]["25"]["metric"]
    assert found == (("a", "b"), ("g", "g"), (0.0, 1.0), (0.0, 1.0))


def frames(times, values, observed):
    times, values = torch.tensor([times], dtype=torch.float64), torch.tensor([values])[..., None]
    present = torch.ones(1, times.shape[1], dtype=torch.bool)
    shown = torch.zeros_like(present)
    shown[:, observed] = True
    return Batch(times, values, present, shown, torch.ones(1), torch.zeros(1), ("a",))


def test_linear_baseline_ends_with_observations():
    times = [0.0, 0.5, 0.6, 2.0, 3.0, 3.5]
    batch = frames(times, [9.0, 2.0, 9.0, 5.0, 1.0, 9.0], [1, 3, 4])
    expected = np.interp(times, [0.5, 2.0, 3.0], [2.0, 5.0, 1.0])
    torch.testing.assert_close(straight(batch)[0, :, 0], torch.tensor(expected, dtype=torch.float32))
    assert not straight(batch._replace(observed=torch.zeros(1, 6, dtype=torch.bool))).any()


def test_nearest_frame_is_the_earlier_of_two():
    times = [0.1 * i for i in range(30)]  # rounding would shift the half-way points of these times
    values = [float(i) for i in range(30)]
    batch = frames(times, values, [2, 4, 6, 11, 20, 28])
    found = nearest(batch)[0, :, 0].tolist()
    assert found == [2] * 4 + [4] * 2 + [6] * 3 + [11] * 7 + [20] * 9 + [28] * 5


def test_linear_baseline_only_interpolates(tmp_path):
    """For real-valued data the baseline has neither density nor prediction."""
    write_walks(tmp_path / "walks", lengths=(20, 14))
    scored = score(tmp_path / "walks", 4, alone())
    assert list(scored) == ["model", "persistence", "linear"]
    assert {task: list(columns) for task, columns in scored["linear"].items()} == {"interpolation": ["25", "50"]}
    assert set(scored["persistence"]) == {"prediction", "interpolation"}


def test_smoother_and_baselines_only_interpolate(rolls):
    scored = score(rolls[0], 4, alone(), SMOOTHER)
    assert all(list(tasks) == ["interpolation"] for tasks in scored.values())
    assert list(scored) == ["model", "persistence", "nearest"]
    same(scored, score(rolls[0], 3, alone(), SMOOTHER))


def test_smoother_validates_on_pseudo_likelihood(rolls):
    config, manifest, model = untrained(rolls[0], SMOOTHER)
    tracked = {}
    tracker = SimpleNamespace(metrics=lambda metrics, step: tracked.update(metrics))
    value, said = _validation_score(model, config, manifest, alone(), tracker, Watchdog(0), 0, beta=1.0)
    total, frames = {}, {}
    with torch.no_grad():
        for rate, stream in loaders.evaluation(config, rolls[0], manifest, "val", alone()).items():
            terms = [(model.pseudo_likelihood(batch), batch.weight > 0) for batch in stream.epoch(0)]
            total[rate] = sum(float(x.log_likelihood[real].double().sum()) for x, real in terms)
            frames[rate] = sum(int(x.frames[real].sum()) for x, real in terms)
    expected = {rate: -total[rate] / frames[rate] for rate in total}
    assert value == pytest.approx(sum(expected.values()) / 2, rel=1e-6)
    assert said == f"pseudo_nll_nats_per_frame {value:.4g}"
    assert tracked == {
        f"val/pseudo_likelihood_{rate}_pseudo_nll_nats_per_frame": pytest.approx(x, rel=1e-6)
        for rate, x in expected.items()
    }


PREFIX = ["observe.evaluate={pattern: prefix, frames: 4}", "evaluate.horizons=[5]"]
GRU = "model={name: gru_ode, latent: 4, hidden: 8, width: 16, depth: 1}"
SDE = "model={name: vsdn_sde, latent: 4, hidden: 8, width: 16, depth: 1}"


@pytest.mark.parametrize("model", [None, GRU, SDE])
def test_next_frame_models_forecast_from_a_prefix(tmp_path, model):
    """`predict` reads nothing of the frames after the prefix, and its errors at these frames are the scores."""
    write_walks(tmp_path / "walks", lengths=(20, 14, 17))
    config, manifest, module = untrained(tmp_path / "walks", *PREFIX, *([model] if model else []))
    scoring = Scoring.of(config, manifest, samples=3)
    assert list(scoring.contenders(module)) == ["model", "persistence"]
    ((rate, stream),) = loaders.evaluation(config, config.data, manifest, "test", alone()).items()
    assert rate == "20"  # per cent: 4 of 20 frames
    with torch.inference_mode():
        batch = next(stream.epoch(0))
        assert batch.observed.sum(1).tolist() == [4, 4, 4]
        table = scoring.model(module, batch, rate)
        assert set(table) == {"forecast"}
        assert set(table["forecast"]) == {"5", "16"}
        draws = scoring.draws.behind(module)
        mean = module.predict(batch, draws).mean
        for horizon in (5, 16):
            found = table["forecast"][str(horizon)]["mse"]
            for b, length in enumerate((20, 14, 17)):
                frames = slice(4, min(4 + horizon, length))
                wanted = (mean - batch.values)[b, frames].square().mean(1)
                torch.testing.assert_close(found.x[b] / found.w[b], wanted.mean())
        changed = torch.where(torch.arange(20)[:, None] < 4, batch.values, 7.0)
        assert torch.equal(module.predict(batch._replace(values=changed), draws).mean, mean)
        held = scoring.persistence(module, batch, rate)["forecast"]["16"]["mse"]
        wanted = (batch.values[:, 3:4] - batch.values)[:, 4:].square().mean(2) * batch.present[:, 4:]
        torch.testing.assert_close(held.x, wanted.sum(1))
        assert set(scoring.validation(module, batch, rate)["forecast"]["5"]) == {"mse"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (SMOOTHER, "bi_gru_ode does not forecast; set another pattern"),
        ("model={name: ode2vae, velocity_frames: 3}", "frames=4: a forecast of ode2vae uses model.velocity_frames=3"),
        (
            "observe.evaluate.ratios=[0.5]",
            "observe.evaluate.ratios must be .. with observe.evaluate.pattern=prefix",
        ),
    ],
)
def test_unsuitable_prefix_is_refused(model, said):
    with pytest.raises(DriftworkError, match=said):
        load(RunConfig, tiny("vsdn_vae"), ["data=walks", *PREFIX, model])
