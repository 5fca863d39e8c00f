"""The table of a run's predictions against the model and the data set."""

import csv
import re

import numpy as np
import pytest
import torch
from pyarrow import parquet

from driftwork.errors import DriftworkError
from launch import predict
from launch.runs import loaders, run_folder
from launch.runs.distributed import alone
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_rolls, write_speech, write_walks
from tests.launch.generation.generated import MODEL, untrained


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def speech(place):
    """Provide a run that filters, and its sequences by key."""
    _, sequences = write_speech(place / "sounds", counts=(3000, 2000))
    return untrained(place / "speech", "vsdn_vae", place / "sounds", MODEL.format("vsdn_sde", 0.0125)), sequences


@pytest.fixture(scope="module")
def music(place):
    _, sequences = write_rolls(place / "rolls", train=(6,), val=(2,), test=(4,))
    return untrained(place / "music", "vsdn_vae", place / "rolls", "evaluate.samples=3"), sequences


@pytest.fixture(scope="module")
def motion(place):
    _, sequences = write_walks(place / "walks")
    return untrained(place / "motion", "ode2vae", place / "walks"), sequences


def written(run, out, *options):
    assert predict.main([str(run), f"out={out}", *options]) == 0
    assert [path.name for path in out.parent.iterdir() if out.name in path.name] == [out.name]
    return out


def batches(run, split="test"):
    """Return the model with the run's weights, its config, and the batches of a split."""
    config = run_folder.config_of(run)
    manifest = read_manifest(config.data)
    model = run_folder.model_for(config, manifest).eval()
    stream = next(iter(loaders.evaluation(config, config.data, manifest, split, alone()).values()))
    return model, config, list(stream.epoch(0))


def of(table, key):
    """Return the frames of a sequence."""
    return table["sequence"] == list(table["keys"]).index(key)


def check_data(table, sequences, batch):
    for b, key in enumerate(batch.keys):
        rows, sequence = of(table, key), sequences[key]
        truth = np.where(sequence.mask[:, None], sequence.values, np.nan).astype(np.float32)
        assert np.array_equal(table["truth"][rows], truth, equal_nan=True)
        assert np.array_equal(table["time"][rows], sequence.times - sequence.times[0])
        observed = batch.observed[b, : len(truth), None].expand(truth.shape)
        assert np.array_equal(table["observed"][rows], observed.numpy())


def test_arrays_contain_data_and_predictions(speech, tmp_path):
    """Arrays equal data and predictions to the last bit, for every sequence of the split."""
    run, sequences = speech
    table = np.load(written(run, tmp_path / "a.npz", "quantiles=[0.05,0.95]"))
    model, config, test = batches(run)
    assert list(table["keys"]) == [key for batch in test for key in batch.keys]
    for batch in test:
        check_data(table, sequences, batch)
        with torch.inference_mode():
            found = model.interpolate(batch, config.evaluate.samples)
            mixture = found.mixture()
            expected = {
                "mean": found.mean, "deviation": found.deviation,
                "quantile_0.05": mixture.quantile(0.05), "quantile_0.95": mixture.quantile(0.95),
            }  # fmt: skip
        for b, key in enumerate(batch.keys):
            T = len(sequences[key].times)
            for name, answer in expected.items():
                assert np.array_equal(table[name][of(table, key)], answer[b, :T].numpy()), (key, name)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_long_tables_contain_the_arrays(speech, tmp_path, ending):
    """There is a row for each channel of each frame; a value that the data lack is null, or empty."""
    run, _ = speech
    arrays = np.load(written(run, tmp_path / "a.npz"))
    out = written(run, tmp_path / f"a.{ending}")
    if ending == "parquet":
        rows = parquet.read_table(out).to_pylist()
    else:
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["key", "time", "channel", "truth", "observed", "mean", "deviation"]
    F, D = arrays["mean"].shape
    assert len(rows) == F * D
    assert [row["key"] for row in rows[::D]] == list(arrays["keys"][arrays["sequence"]])
    assert [int(row["channel"]) for row in rows] == list(range(D)) * F
    assert [float(row["time"]) for row in rows[::D]] == list(arrays["time"])
    for name in ("truth", "mean", "deviation"):
        column = [np.nan if row[name] in (None, "") else np.float32(row[name]) for row in rows]
        assert np.array_equal(np.array(column, np.float32).reshape(F, D), arrays[name], equal_nan=True)
    seen = [str(row["observed"]).lower() == "true" for row in rows]
    assert np.array_equal(np.array(seen).reshape(F, D), arrays["observed"])


@pytest.mark.parametrize("task", ["interpolation", "prediction"])
def test_binary_data_get_probabilities(music, tmp_path, task):
    run, sequences = music
    table = np.load(written(run, tmp_path / "a.npz", f"task={task}", "ratio=0.5"))
    assert set(table) == {"keys", "sequence", "time", "truth", "observed", "probability"}
    model, _, (batch,) = batches(run)
    shown = torch.zeros_like(batch.present)
    shown[:, ::2] = True
    batch = batch._replace(observed=batch.present & shown)
    check_data(table, sequences, batch)
    with torch.inference_mode():
        expected = (model.interpolate if task == "interpolation" else model.predict)(batch, 3).mean
    for b, key in enumerate(batch.keys):
        assert np.array_equal(table["probability"][of(table, key)], expected[b, : len(sequences[key].times)].numpy())


def test_forecaster_observes_its_first_frames(motion, tmp_path):
    run, sequences = motion
    table = np.load(written(run, tmp_path / "a.npz"))
    model, config, test = batches(run)
    for batch in test:
        first = torch.arange(batch.times.shape[1]) < model.given
        check_data(table, sequences, batch._replace(observed=batch.present & first))
        with torch.inference_mode():
            expected = model.forecast(batch, config.evaluate.samples).mean
        for b, key in enumerate(batch.keys):
            assert np.array_equal(table["mean"][of(table, key)], expected[b, : len(sequences[key].times)].numpy())


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("music", ["out=a.txt"], "out=a.txt: must be a file that ends in .npz, .parquet, .csv"),
        (
            "motion",
            ["out=a.npz", "quantiles=[0.1,0.10]"],
            "quantiles=[0.1, 0.1]: two levels have the column quantile_0.1",
        ),
        ("music", ["out=a.npz", "quantiles=[0.5]"], "quantiles: these data are not real-valued"),
        (
            "music",
            ["out=a.npz", "task=forecast"],
            "task=forecast: vsdn_vae of this run supports only interpolation and pred",
        ),
        (
            "motion",
            ["out=a.npz", "task=interpolation"],
            "task=interpolation: ode2vae of this run supports only forecast",
        ),
        ("motion", ["out=a.npz", "ratio=0.5"], "ratio=0.5: "),
        ("music", ["out=none/a.csv"], "out=none/a.csv: cannot be written: No such file"),
        ("music", ["out=a.npz", "tracking.uri=sqlite:///x.db"], "tracking.uri=sqlite:///x.db has no effect"),
    ],
)
def test_mistakes_leave_no_file(kind, options, said, request, tmp_path, monkeypatch):
    run, _ = request.getfixturevalue(kind)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DriftworkError, match=re.escape(said)):
        predict.main([str(run), *options])
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_keeps_earlier_file(music, tmp_path, monkeypatch):
    run, _ = music
    out = tmp_path / "a.parquet"
    out.write_text("earlier")

    def interrupted(answerer, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict.Answerer, "frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict.main([str(run), f"out={out}"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert out.read_text() == "earlier"
