"""Generated outputs against the model and the data, and their files against independent readers."""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pretty_midi
import pyacclaim
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import generate
from launch.generation import pieces
from launch.generation.generator import Maker
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.weights import BEST
from models.decisions import decided
from pipeline.readers.mocap import MocapConfig, features
from pipeline.readers.skeleton import parse_amc, parse_asf, positions
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_films, write_rolls, write_speech, write_walks
from tests.places import tiny

MODEL = "model={{name: {}, latent: 4, hidden: 8, width: 16, depth: 1, max_step: {}}}"


def untrained(place, config, data, *overrides):
    """Return a run folder with initial weights."""
    file = tiny(config)
    resolved = load(RunConfig, file, [f"data={data}", f"out={place}", "tracking.uri=null", *overrides])
    run_folder.create(resolved)
    manifest = read_manifest(data)
    run_folder.remember(place, manifest=manifest.hash)
    save_file(run_folder.model_for(resolved, manifest).state_dict(), place / BEST)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("generate")


@pytest.fixture(scope="module")
def music(place):
    """Provide a run, and its sequences by key."""
    _, sequences = write_rolls(place / "rolls", train=(6,), val=(2,), test=(4,))
    return untrained(place / "music", "vsdn_vae", place / "rolls", "evaluate.samples=3"), sequences


@pytest.fixture(scope="module")
def speech(place):
    _, sequences = write_speech(place / "sounds", counts=(3000, 2000))
    run = untrained(place / "speech", "vsdn_vae", place / "sounds", MODEL.format("vsdn_sde", 0.0125))
    return run, sequences


@pytest.fixture(scope="module")
def motion(place):
    _, sequences = write_walks(place / "walks")
    return untrained(place / "motion", "ode2vae", place / "walks"), sequences


@pytest.fixture(scope="module")
def pictures(place):
    _, sequences = write_films(place / "films", count=2)
    return untrained(place / "pictures", "ode2vae", place / "films"), sequences


def made(out, run, *options):
    """Generate outputs of `run`, and return `generated.json`, checked against the folder."""
    assert generate.main([str(run), f"out={out}", *options]) == 0
    record = json.loads((out / "generated.json").read_text())
    assert all((out / entry["file"]).stat().st_size > 0 for entry in record["files"])
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return record


def drawn(record):
    return [entry for entry in record["files"] if entry["draw"] is not None]


def roll(path, rate, frames):
    """Read bool [frames, 128] by pretty_midi; every note must begin and end on a frame."""
    midi = pretty_midi.PrettyMIDI(str(path))
    played = np.zeros((frames, 128), bool)
    for note in [note for instrument in midi.instruments for note in instrument.notes]:
        start, end = note.start * rate, note.end * rate
        assert abs(start - round(start)) < 1e-3 > abs(end - round(end))
        played[round(start) : round(end), note.pitch] = True
        assert round(end) <= frames
    return played


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
    """They are equal to the last bit with observed frames unchanged, at a rate that shares every other frame with the
    data."""
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
    assert np.array_equal(answer.seen, batch.times[0, batch.observed[0]].numpy())


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
    known = np.isin(np.arange(entry["frames"]), 2 * np.flatnonzero(np.isin(truth.times - truth.times[0], answer.seen)))
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
    return Maker(model, observed, spec, 1 / spec.interval, 4, config.evaluate.samples, 32, seed=0)._replace(**changes)


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
def test_music_that_follows_and_music_from_nothing(music, tmp_path, what):
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
        # Every fourth frame is drawn from a model that knows little more than how often each pitch sounds.
        share = np.mean([played[::4].mean() for played in rolls])
        assert share == pytest.approx(0.1, abs=0.04)
    again = made(tmp_path / "b", run, *options)
    assert again["files"] == record["files"]
    for entry in record["files"]:
        assert (tmp_path / "a" / entry["file"]).read_bytes() == (tmp_path / "b" / entry["file"]).read_bytes()
    other = made(tmp_path / "c", run, *options, "seed=1")
    assert (roll(tmp_path / "c" / drawn(other)[0]["file"], 5, T) != rolls[0]).any()


@pytest.mark.parametrize("what", ["interpolation", "continuation", "prior"])
def test_speech_has_its_rate_and_length(speech, tmp_path, what):
    run, sequences = speech
    record = made(tmp_path / "out", run, f"what={what}", *([] if what == "prior" else ["sequences=1"]))
    for entry in record["files"]:
        samples, rate = soundfile.read(tmp_path / "out" / entry["file"], dtype="int16")
        assert (rate, len(samples), entry["seconds"]) == (16000, 3000, 3000 / 16000)
        if what == "continuation":
            pcm = np.rint(32768 * sequences[entry["sequence"]].values.reshape(-1))
            assert np.array_equal(samples[:1500], pcm[:1500])
            assert entry["seconds_given"] == 1500 / 16000
    assert len(record["files"]) == {"interpolation": 2, "continuation": 4, "prior": 3}[what]


def amc_frames(path, bones):
    """Read an .amc line by line, independently of the project's reader: [frames, numbers]."""
    lines = path.read_text(encoding="ascii").splitlines()
    assert lines[:2] == [":FULLY-SPECIFIED", ":DEGREES"]
    moves = {"root": 6} | {
        name: len(dof.split())
        for name, dof in re.findall(r"\n\s*name (\w+)\n(?:(?!\s*end).*\n)*?\s*dof ([rxyz ]+)\n", bones)
    }
    frames = []
    for line in lines[2:]:
        head, *numbers = line.split()
        if not numbers:
            assert int(head) == len(frames) + 1
            frames.append({})
        else:
            assert head not in frames[-1]
            frames[-1][head] = [float(number) for number in numbers]
    assert all({name: len(row) for name, row in frame.items()} == moves for frame in frames)
    return np.array([[x for row in frame.values() for x in row] for frame in frames])


def placed(path, bones):
    """Return the joints [frames, bones, 3] by another reader's kinematics, which leaves out the last frame."""
    skeleton = pyacclaim.loadASF(str(bones), verbose=False)
    joints = []
    for pose in pyacclaim.loadAMC(skeleton, str(path)):
        skeleton["bones"]["root"].set_pose(pose)
        joints.append([bone.global_coordinate * skeleton["units"]["length"] for bone in skeleton["bones"].values()])
    return np.array(joints)


@pytest.mark.filterwarnings("ignore:Expected bone_id")
def test_motion_forecast_has_four_times_the_rate(motion, tmp_path):
    run, sequences = motion
    out = tmp_path / "out"
    record = made(out, run, "rate=40", "draws=2")
    assert (record["what"], record["factor"]) == ("continuation", 4)
    assert {len([e for e in record["files"] if e["sequence"] == key]) for key in sequences if "35_3" in key} == {3}
    for entry in record["files"]:
        bones = (out / entry["skeleton"]).read_text()
        values = amc_frames(out / entry["file"], bones)
        skeleton = parse_asf(bones)
        assert np.array_equal(parse_amc((out / entry["file"]).read_text(), skeleton).values, values)
        joints = placed(out / entry["file"], out / entry["skeleton"])
        np.testing.assert_allclose(joints, positions(skeleton, values)[:-1], rtol=0, atol=1e-9)
        truth = sequences[entry["sequence"]]
        T = len(truth.times)
        assert len(values) == entry["frames"] == (T if entry["draw"] is None else 4 * T - 3)
        assert entry["camera_frames_per_second"] == (120 if entry["draw"] is None else 480)
        if entry["draw"] is not None:
            # A step of the root is the way to the next frame of the data; here there are four frames to it.
            channels, about = features(parse_amc((out / entry["file"]).read_text(), skeleton), skeleton, HONEST)
            channels[:, :3] *= 4
            assert about["start"] == pytest.approx(truth.about["start"], rel=1e-8)
            given = channels[:12:4] - truth.about["mean"]
            np.testing.assert_allclose(given, truth.values[:3], rtol=0, atol=1e-5)
            with Image.open(out / f"{Path(entry['file']).stem}.gif") as film:
                assert (film.n_frames, film.info["duration"]) == (-(-len(values) // 12), 50)


HONEST = MocapConfig(protocol="honest", frames=1000)


def test_prior_motion_starts_like_a_trial(motion, tmp_path):
    run, sequences = motion
    record = made(tmp_path / "out", run, "what=prior", "draws=2")
    walks = [
        amc_frames(tmp_path / "out" / e["file"], (tmp_path / "out" / e["skeleton"]).read_text())
        for e in record["files"]
    ]
    assert [walk.shape for walk in walks] == [(20, 62), (20, 62)]
    assert (walks[0] != walks[1]).any()
    starts = [s.about["start"] for key, s in sequences.items() if len(s.times) == 20]
    assert any(walks[0][0, :3] == pytest.approx(start, rel=1e-6) for start in starts)


@pytest.mark.parametrize(("what", "rate"), [("continuation", 10), ("continuation", 40), ("prior", 80)])
def test_films_last_as_long_as_they_should(pictures, tmp_path, what, rate):
    record = made(tmp_path / "out", pictures[0], f"what={what}", f"rate={rate}", "draws=2")
    for entry in record["files"]:
        frames, pace = (7, 10) if entry["draw"] is None else (int(0.6 * rate + 1e-9) + 1, rate)
        assert (entry["frames"], entry["rate"]) == (frames, pace)
        with Image.open(tmp_path / "out" / entry["file"]) as film:
            assert film.size == (224, 224)
            total = 0
            for number in range(film.n_frames):
                film.seek(number)
                total += film.info["duration"]
                assert film.info["duration"] >= 20
        # The last of the pictures that are left may stand for one frame; it is shown for 20 ms all the same.
        assert total == pytest.approx(1000 * frames / pace, abs=5 if pace <= 50 else 15)


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
        ("music", "draws=2", "draws plays no part in what=interpolation of vsdn_vae; leave it out"),
        ("music", "what=prior sequences=2", "sequences plays no part in what=prior"),
        ("music", "what=continuation seconds_given=60", "leave no frame to continue with"),
        ("music", "keys=[test-9]", "keys=test-9: the split has no such sequence; it has test0-03, "),
        ("music", "keys=[a] sequences=2", "sequences has no effect with keys=; leave one out"),
        ("music", "source=a.mid split=test", "split has no effect with source=; leave one out"),
        ("music", "source=a.mid", "source=a.mid: no such file"),
        ("pictures", "source=a.gif", "source=a.gif: data set 'bouncing_balls' does not read a file of its own"),
        ("music", "seconds=9", "seconds plays no part in what=interpolation"),
        ("music", "what=continuation seconds=100000", "seconds=100000: must be from 0.4 to "),
        ("music", "split=tset", "split=tset: input should be 'train', 'val' or 'test'"),
        ("speech", "rate=640", "rate=640: a frame of speech is 100 samples that follow on those before it"),
        ("motion", "what=interpolation", "ode2vae forecasts from first frames; take continuation or prior"),
        ("motion", "seconds_given=1", "seconds_given plays no part in what=continuation of ode2vae"),
        ("motion", "ratio=0.5", "ratio plays no part"),
        ("motion", "decision=0.5", "decision=0.5: these data are not binary; leave it out"),
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
        with pytest.raises(DriftworkError, match=f"what={what}: bi_gru_ode .* it only interpolates"):
            generate.main([str(run), f"out={tmp_path / 'out'}", f"what={what}"])
    assert len(drawn(made(tmp_path / "out", run, "sequences=1", "rate=10"))) == 1


def test_existing_folder_is_refused(music, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DriftworkError, match="is there already; give a new folder"):
        generate.main([str(music[0]), f"out={tmp_path / 'out'}"])
    assert not list((tmp_path / "out").iterdir())


def test_arrays_without_skeleton_are_refused(tmp_path):
    write_walks(tmp_path / "arrays", skeleton=False)
    run = untrained(tmp_path / "run", "ode2vae", tmp_path / "arrays")
    with pytest.raises(DriftworkError, match=r"trials of a \.mat file have no skeleton"):
        generate.main([str(run), f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


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
