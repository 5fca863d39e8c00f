"""Generated outputs against the model, the data and, for music, an independent reader."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from driftwork.errors import DriftworkError
from launch import generate
from launch.generation import pieces
from launch.generation.generator import FrameGenerator
from launch.runs import loaders, run_folder
from launch.runs.distributed import alone
from models.decisions import decided
from pipeline.shards.manifest import read_manifest
from tests.launch.generation.generated import MODEL, drawn, made, roll, untrained


def test_fine_music_contains_the_data_rate(music, tmp_path):
    run, sequences = music
    coarse, fine = (made(tmp_path / rate, run, f"rate={rate}", "sequences=2", "decision=0.5") for rate in ("5", "20"))
    assert (coarse["what"], coarse["factor"], fine["factor"]) == ("interpolation", 1, 4)
    for own, four in zip(drawn(coarse), drawn(fine), strict=True):
        truth = sequences[own["sequence"]]
        T = len(truth.times)
        assert (own["frames"], four["frames"]) == (T, 4 * T - 3)
        assert four["seconds"] == pytest.approx((4 * T - 3) / 20)
        at_5 = roll(tmp_path / "5" / own["file"], 5, T)
        assert np.array_equal(at_5, roll(tmp_path / "20" / four["file"], 20, 4 * T - 3)[::4])
        shown = np.flatnonzero(truth.mask[::4]) * 4
        assert np.array_equal(at_5[shown], truth.values[shown])
        assert at_5[shown].any()


def test_generated_frames_match_the_model(music):
    """Frames equal the model's to the last bit, and observed ones are unchanged, at a rate that shares every other
    frame with the data."""
    run, _ = music
    maker = maker_of(run, rate=7.5)
    with torch.inference_mode():
        (sequence,) = pieces.longest(stream_of(run), 1)
        (answer,) = maker.interpolations([sequence])
        batch = maker._batch(sequence, 1)
        expected = torch.where(batch.observed[..., None], batch.values, maker.model.interpolate(batch, 3).mean)
    T = batch.times.shape[1]
    assert answer.draws.shape == (1, int((T - 1) / 5 * 7.5 + 1e-9) + 1, 128)
    assert np.array_equal(answer.draws[0, ::3], expected[0, ::2][: len(answer.draws[0, ::3])].numpy())
    assert np.array_equal(answer.observed, batch.times[0, batch.observed[0]].numpy())


@pytest.mark.parametrize("decision", ["expected_score", "0.5"])
def test_notes_follow_the_decision_rule(music, tmp_path, decision):
    """The decision covers all frames that are not given."""
    run, sequences = music
    record = made(tmp_path / "out", run, "sequences=1", "rate=10", f"decision={decision}")
    assert record["decision"] == decision
    (entry,) = drawn(record)
    with torch.inference_mode():
        (answer,) = maker_of(run, rate=10.0).interpolations(pieces.longest(stream_of(run), 1))
    truth = sequences[answer.key]
    given = np.flatnonzero(np.isin(truth.times - truth.times[0], answer.observed))
    known = np.isin(np.arange(entry["frames"]), 2 * given)
    probability = torch.from_numpy(answer.draws[0, ~known])[None]
    notes = decided(probability, torch.ones(probability.shape[:2], dtype=torch.bool), decision)[0].numpy()
    played = roll(tmp_path / "out" / entry["file"], 10, entry["frames"])
    assert np.array_equal(played[~known], notes)
    assert np.array_equal(played[known], answer.draws[0, known] == 1)


def maker_of(run, **changes):
    config = run_folder.config_of(run)
    manifest = read_manifest(config.data)
    model = run_folder.model_for(config, manifest).eval()
    spec, observed = manifest.spec, next(iter(config.observe.evaluate.each(manifest.spec.length).values()))
    return FrameGenerator(model, observed, spec, 1 / spec.interval, 4, config.evaluate.samples, 32, seed=0)._replace(
        **changes
    )


def stream_of(run):
    config = run_folder.config_of(run)
    return next(iter(loaders.evaluation(config, config.data, read_manifest(config.data), "test", alone()).values()))


@pytest.mark.parametrize("kind", ["music", "speech", "motion", "pictures"])
def test_forecast_keeps_given_frames_and_reads_no_later(kind, request):
    """Changing later frames changes nothing."""
    run, sequences = request.getfixturevalue(kind)
    maker = maker_of(run)
    with torch.inference_mode():
        (sequence,) = pieces.longest(stream_of(run), 1)
        (answer,) = maker.continuations([sequence], 2, None)
        given = int((sequence.times - sequence.times[0] < answer.given - 1e-9).sum())
        values, mask = sequence.values.copy(), sequence.mask.copy()
        values[given:] = ~values[given:] if values.dtype == bool else 1 - values[given:]
        mask[given:] = True
        (again,) = maker.continuations([sequence._replace(values=values, mask=mask)], 2, None)
    truth = sequences[answer.key]
    assert given == (3 if kind in ("motion", "pictures") else len(truth.times) // 2)
    assert np.array_equal(answer.draws, again.draws)
    assert not np.array_equal(answer.truth, again.truth)
    kept = np.flatnonzero(truth.mask[:given])
    assert np.array_equal(answer.draws[:, kept], np.broadcast_to(truth.values[kept], answer.draws[:, kept].shape))
    assert answer.draws.shape == (2, *truth.values.shape)
    assert (answer.draws[0, given:] != answer.draws[1, given:]).any()


@pytest.mark.parametrize("what", ["continuation", "prior"])
def test_music_of_continuations_and_the_prior(music, tmp_path, what):
    run, sequences = music
    options = [f"what={what}", "draws=2", *(["sequences=1", "seconds_given=1"] if what == "continuation" else [])]
    record = made(tmp_path / "a", run, *options)
    T = max(len(s.times) for key, s in sequences.items() if key.startswith("test"))
    rolls = [roll(tmp_path / "a" / entry["file"], 5, T) for entry in drawn(record)]
    assert [entry["frames"] for entry in drawn(record)] == [T, T]
    assert (rolls[0] != rolls[1]).any()
    if what == "continuation":
        (truth,) = (entry for entry in record["files"] if entry["draw"] is None)
        assert {entry["seconds_given"] for entry in record["files"]} == {1.0}
        present = np.flatnonzero(sequences[truth["sequence"]].mask[:5])
        assert np.array_equal(rolls[0][present], roll(tmp_path / "a" / truth["file"], 5, T)[present])
    else:
        # Every fourth frame is drawn from a model that has learnt little more than the frequency of each pitch.
        share = np.mean([played[::4].mean() for played in rolls])
        assert share == pytest.approx(0.1, abs=0.04)
    again = made(tmp_path / "b", run, *options)
    assert again["files"] == record["files"]
    for entry in record["files"]:
        assert (tmp_path / "a" / entry["file"]).read_bytes() == (tmp_path / "b" / entry["file"]).read_bytes()
    other = made(tmp_path / "c", run, *options, "seed=1")
    assert (roll(tmp_path / "c" / drawn(other)[0]["file"], 5, T) != rolls[0]).any()


def test_forecaster_writes_music(music, place, tmp_path):
    run = untrained(tmp_path / "run", "ode2vae", place / "rolls")
    record = made(tmp_path / "out", run, "sequences=1", "draws=1", "rate=10")
    assert [entry["file"].endswith(".mid") for entry in record["files"]] == [True, True]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("music", "what=improvise", r"what=improvise: input should be 'interpolation', 'continuation' or 'prior'"),
        ("music", "rate=0", "rate=0: input should be greater than 0"),
        ("music", "rate=3.3333", "rate=3.3333 has no exact MIDI tempo"),
        ("music", "ratio=0.3", "ratio 0.3 is not 1/n"),
        ("music", "draws=2", "draws has no effect with what=interpolation of vsdn_vae; remove it"),
        ("music", "what=prior sequences=2", "sequences has no effect with what=prior"),
        ("music", "what=continuation seconds_given=60", "leave no frame to continue with"),
        ("music", "keys=[test-9]", "keys=test-9: the split has no such sequence; choose among test0-03, "),
        ("music", "keys=[a] sequences=2", "sequences has no effect with keys=; remove one of them"),
        ("music", "source=a.mid split=test", "split has no effect with source=; remove one of them"),
        ("music", "source=a.mid", "source=a.mid: no such file"),
        ("pictures", "source=a.gif", "source=a.gif: data set 'bouncing_balls' is not read file by file; use keys="),
        ("music", "seconds=9", "seconds has no effect with what=interpolation"),
        ("music", "what=continuation seconds=100000", "seconds=100000: must be from 0.4 to "),
        ("music", "split=tset", "split=tset: input should be 'train', 'val' or 'test'"),
        ("speech", "rate=640", "rate=640: the frames of speech are successive blocks of 100 samples"),
        ("motion", "what=interpolation", "ode2vae forecasts from the first frames; set what=continuation or"),
        ("motion", "seconds_given=1", "seconds_given has no effect with what=continuation of ode2vae"),
        ("motion", "ratio=0.5", "ratio has no effect"),
        ("motion", "decision=0.5", "decision=0.5: these data are not binary; remove it"),
        ("music", "decision=loud", "decision=loud: input should be 'expected_score' or '0.5'"),
    ],
)
def test_impossible_requests_are_refused(kind, options, said, request, tmp_path):
    run, _ = request.getfixturevalue(kind)
    with pytest.raises(DriftworkError, match=re.escape(said)) as caught:
        generate.main([str(run), f"out={tmp_path / 'out'}", *options.split()])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_smoother_only_generates_interpolations(music, place, tmp_path):
    run = untrained(tmp_path / "run", "vsdn_vae", place / "rolls", MODEL.format("bi_gru_ode", 0.2))
    for what in ("continuation", "prior"):
        with pytest.raises(DriftworkError, match=f"what={what}: bi_gru_ode .* only interpolates"):
            generate.main([str(run), f"out={tmp_path / 'out'}", f"what={what}"])
    assert len(drawn(made(tmp_path / "out", run, "sequences=1", "rate=10"))) == 1


def test_existing_folder_is_refused(music, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DriftworkError, match="exists already; give a new folder"):
        generate.main([str(music[0]), f"out={tmp_path / 'out'}"])
    assert not list((tmp_path / "out").iterdir())


def test_tracked_run_gets_the_folder(music, tmp_path, monkeypatch):
    sent = []

    class Ears:
        def artifact(self, path, folder):
            sent.append((sorted(file.suffix for file in path.iterdir()), folder))

    @contextmanager
    def open_run(config, *, run_id, **rest):
        sent.append(run_id)
        yield Ears()

    monkeypatch.setattr(run_folder, "open_run", open_run)
    made(tmp_path / "silent", music[0], "sequences=1")
    assert not sent  # trained without a tracker
    record = run_folder.record_of(music[0])
    monkeypatch.setattr(run_folder, "record_of", lambda folder: {**record, "run_id": "abc"})
    assert made(tmp_path / "out", music[0], "sequences=1")["run_id"] == "abc"
    assert sent == ["abc", ([".json", ".mid", ".mid", ".pdf", ".png"], "generated")]
