"""Generated speech, motion and pictures against independent readers."""

from pathlib import Path

import numpy as np
import pyacclaim
import pytest
import soundfile
from PIL import Image

from driftwork.errors import DriftworkError
from launch import generate
from pipeline.readers.mocap import features
from pipeline.readers.skeleton import parse_amc, parse_asf, positions
from tests.datasets import write_walks
from tests.launch.generation.generated import HONEST, amc_frames, made, untrained


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


def placed(path, bones):
    """Return the joints [frames, bones, 3] by another reader's kinematics, without the last frame."""
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


def test_arrays_without_skeleton_are_refused(tmp_path):
    write_walks(tmp_path / "arrays", skeleton=False)
    run = untrained(tmp_path / "run", "ode2vae", tmp_path / "arrays")
    with pytest.raises(DriftworkError, match=r"trials of a \.mat file have no skeleton"):
        generate.main([str(run), f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
