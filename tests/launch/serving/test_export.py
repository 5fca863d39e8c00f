"""Served models against the model in this process, and the responses to bad requests."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from driftwork.errors import DriftworkError
from launch import export as command
from launch.generation import pieces
from launch.generation.generator import FrameGenerator
from launch.runs.weights import BEST
from launch.serving import export, served_model
from models.decisions import decided
from models.generation import interpolate_at, times_at_rate
from pipeline.observe import key_seed
from tests import rounding
from tests.launch.serving.requests import BAD, GOOD
from tests.launch.serving.trained import BI, Trained


@pytest.mark.parametrize("kind", ["music", "paths"])
def test_served_model_matches_the_model(kind, request, loaded):
    trained = request.getfixturevalue(kind)
    batch, row = trained.sequence()
    own, seed = batch.times[0], 7
    asked = batch._replace(seed=torch.tensor([seed]))
    with torch.inference_mode():
        expected = trained.model.predict(asked, 5 if kind == "paths" else 3).mean[0]
        between = torch.cat([own, own[:-1] + 0.07]).sort().values
        # Frames that exist but are not observed are not part of a request.
        shown = asked._replace(
            times=own[batch.observed[0]][None], values=batch.values[:, batch.observed[0]],
            present=batch.present[:, batch.observed[0]], observed=batch.observed[:, batch.observed[0]],
        )  # fmt: skip
        filled = interpolate_at(trained.model, shown, between, 5).frames[0]
    found = loaded(trained, {**row, "ask": own.tolist()}, task="prediction", seed=seed)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding.SINGLE)
    found = loaded(trained, {**row, "ask": between.tolist()}, samples=5, seed=seed)
    torch.testing.assert_close(found, filled, rtol=0, atol=rounding.SINGLE)


@pytest.mark.parametrize("decision", ["expected_score", "0.5"])
def test_request_may_choose_a_decision(music, loaded, decision):
    """The decision covers the requested frames that are not given; given frames are unchanged."""
    batch, row = music.sequence()
    ask = sorted({*row["times"][::2], *(batch.times[0] + 0.07).tolist()})
    given = torch.tensor([seconds in row["times"] for seconds in ask])
    probability = loaded(music, {**row, "ask": ask}, seed=7)
    found = loaded(music, {**row, "ask": ask}, seed=7, decision=decision)
    assert torch.equal(found[given], probability[given])
    assert torch.equal(found[~given] == 1, decided(probability[None], ~given[None], decision)[0, ~given])
    assert ((found == 0) | (found == 1)).all()
    predicted = loaded(music, {**row, "ask": ask}, seed=7, task="prediction")
    found = loaded(music, {**row, "ask": ask}, seed=7, task="prediction", decision=decision)
    everything = torch.ones(1, len(ask), dtype=torch.bool)
    assert torch.equal(found == 1, decided(predicted[None], everything, decision)[0])


def test_real_values_are_not_decided(motion):
    from mlflow.exceptions import MlflowException

    twin = served_model._load_pyfunc(motion.folder / export.FOLDER / "data/driftwork")
    with pytest.raises(MlflowException, match=r"decision=0\.5: this model's data are not binary"):
        twin.predict(pd.DataFrame([motion.sequence()[1] | {"ask": [0.1]}]), {"decision": "0.5"})


def test_served_interpolation_matches_generate(music, loaded):
    _, row = music.sequence()
    spec = music.manifest.spec
    observed = next(iter(music.config.observe.evaluate.each(spec.length).values()))
    maker = FrameGenerator(music.model, observed, spec, 5.0, 4, 3, 32, seed=0)
    sequences = pieces.longest(music.stream, 1)
    batch = maker._batch(sequences[0], 1)
    with torch.inference_mode():
        made = next(maker.interpolations(sequences))
    seen = batch.observed[0]
    row = {"times": made.observed.tolist(), "values": batch.values[0, seen].tolist(), "ask": batch.times[0].tolist()}
    found = loaded(music, row, seed=key_seed(0, "generate", made.key, 0))
    assert np.array_equal(found.numpy(), made.draws[0])


def test_served_notes_are_joined_as_generated(music):
    """Between two neighbouring given frames a note that is on in both stays one note at a higher rate."""
    spec, observed = music.manifest.spec, music.config.observe.evaluate.at((1.0,))
    maker = FrameGenerator(music.model, observed, spec, 20.0, 1, 3, 32, seed=0, decision="0.5")
    sequences = pieces.longest(music.stream, 1)
    with torch.inference_mode():
        made = next(maker.interpolations(sequences))
    batch = maker._batch(sequences[0], 1)
    seen = batch.observed[0]
    row = {
        "times": made.observed.tolist(),
        "values": batch.values[0, seen].tolist(),
        "ask": times_at_rate(batch.times[0], 20.0).tolist(),
    }
    twin = served_model._load_pyfunc(music.folder / export.FOLDER / "data/driftwork")
    answer = twin.predict(pd.DataFrame([row]), {"seed": key_seed(0, "generate", made.key, 0), "decision": "0.5"})[0]
    assert np.array_equal(np.array(answer["values"]) == 1, made.notes[0])
    plain = twin.predict(pd.DataFrame([row]), {"seed": key_seed(0, "generate", made.key, 0)})[0]
    assert not np.array_equal(np.array(plain["values"]) > 0.5, made.notes[0]), "joining changes nothing here"


def test_served_forecast_matches_the_model(motion, loaded):
    batch, row = motion.sequence()
    with torch.inference_mode():
        expected = motion.model.forecast(batch._replace(seed=torch.tensor([7])), 11).mean[0]
    found = loaded(motion, {**row, "ask": batch.times[0].tolist()}, samples=11, seed=7)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding.SINGLE * float(expected.abs().max()))


def test_late_and_several_sequences_are_served(music):
    """There is no frame before the first given one, and sequences do not affect each other."""
    frames = np.eye(16)[:2]
    rows = [
        {"times": [0.4, 1.0], "values": frames, "ask": [0.0, 0.4, 3]},
        {"times": [0, 1], "values": frames.astype(int), "ask": [0.5]},
    ]
    twin = served_model._load_pyfunc(music.folder / export.FOLDER / "data/driftwork")
    together = twin.predict(pd.DataFrame(rows))
    alone_ = [twin.predict(pd.DataFrame([row]))[0] for row in rows]
    assert together == alone_
    answer = np.array(together[0]["values"])
    assert np.array_equal(answer[1], frames[0])  # an observed frame is itself
    assert ((answer >= 0) & (answer <= 1)).all()


@pytest.mark.parametrize(("change", "params", "said"), BAD, ids=[said for *_, said in BAD])
def test_bad_request_is_reported_in_one_line(music, change, params, said):
    from mlflow.exceptions import MlflowException

    twin = served_model._load_pyfunc(music.folder / export.FOLDER / "data/driftwork")
    with pytest.raises(MlflowException) as caught:
        twin.predict(pd.DataFrame([{**GOOD, **change}]), params)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.get_http_status_code() == 400


def test_forecast_needs_the_encoder_frames(motion):
    from mlflow.exceptions import MlflowException

    twin = served_model._load_pyfunc(motion.folder / export.FOLDER / "data/driftwork")
    batch, row = motion.sequence()
    for times in (row["times"][:2], [2 * seconds for seconds in row["times"]]):
        short = {"times": times, "values": row["values"][: len(times)], "ask": [0.1]}
        with pytest.raises(MlflowException, match="a forecast needs the first 3 frames, at 0, "):
            twin.predict(pd.DataFrame([short]))


def test_served_smoother_only_interpolates(place):
    trained = Trained(place / "both-ways", place / "rolls", "vsdn_vae", BI)
    assert served_model.tasks(trained.model) == ("interpolation",)


def test_export_has_no_pickle_and_few_requirements(music):
    """The export lists only the packages that the model needs."""
    folder = music.folder / export.FOLDER
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "requirements.txt", "code/served_model.py", "code/models/registry.py"} <= files
    assert {"data/driftwork/weights.safetensors", "data/driftwork/config.yaml"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pyc", ".pt", ".bin"))]
    needed = ("code/models/", "code/driftwork/", "code/served_model.")
    assert not [name for name in files if name.startswith("code/") and not name.startswith(needed)]
    wanted = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert wanted == {"mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch"}


def test_better_weights_do_not_change_the_export(place):
    """Better weights are exported only by another export."""
    trained = Trained(place / "again", place / "rolls", "vsdn_vae")
    weights = export.write(trained.folder, trained.config, trained.manifest) / "data/driftwork" / served_model.WEIGHTS
    before = weights.read_bytes()
    better = {name: x + 1 for name, x in trained.model.state_dict().items()}
    os.replace(_saved(better, place / "better"), trained.folder / BEST)
    assert weights.read_bytes() == before
    export.write(trained.folder, trained.config, trained.manifest)
    assert weights.read_bytes() != before


def test_full_disk_keeps_the_old_export(music, monkeypatch):
    def full(*_, **__):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")] * 30)

    monkeypatch.setattr(export.mlflow_store, "save_model", full)
    with pytest.raises(
        DriftworkError, match=r"/model: cannot be written: \[Errno 28\] No space left on device; free space"
    ):
        export.write(music.folder, music.config, music.manifest)
    assert (music.folder / export.FOLDER / "MLmodel").exists()
    assert not [path for path in music.folder.iterdir() if path.name.startswith(".")]


def _saved(weights, path):
    save_file(weights, path)
    return path


def test_run_without_weights_is_not_exported(place):
    trained = Trained(place / "empty", place / "rolls", "vsdn_vae")
    (trained.folder / BEST).unlink()
    with pytest.raises(DriftworkError, match=r"no best\.safetensors"):
        command.main([str(trained.folder)])
