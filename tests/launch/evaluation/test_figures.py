"""Figures against their data, by counting pixels of their colours."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb

from launch.figures import bands
from launch.figures import rolls as figures
from tests.places import ROOT


@pytest.fixture
def roll():
    """Return twenty seconds of a scale at 5 frames per second."""
    truth = np.zeros((100, 128), dtype=bool)
    for frame in range(100):
        truth[frame, 60 + frame // 10] = True
    return truth


def draw(path, truth, probabilities, notes=None, title="a scale"):
    observed = np.arange(len(truth)) % 4 == 0
    guess = figures.Guess("model", probabilities, probabilities > 0.5 if notes is None else notes)
    figures.interpolation(path, truth=truth, observed=observed, rows=[guess], rate=5, title=title)
    return path


def pixels(path, colour):
    return int((np.abs(image.imread(path)[..., :3] - np.array(to_rgb(colour))) < 0.02).all(axis=-1).sum())


def test_hits_and_errors_have_their_colours(tmp_path, roll):
    colours = (figures.HIT, figures.FALSE, figures.MISSED)
    perfect = draw(tmp_path / "perfect.png", roll, roll.astype(float))
    hit, false, missed = (pixels(perfect, colour) for colour in colours)
    assert false == pytest.approx(missed, rel=0.1)  # only their patch in the legend differs
    assert hit > 5 * false
    shifted = np.zeros((100, 128))
    shifted[:50] = roll[:50]
    shifted[50:, 62] = 0.9  # false notes within the same range of pitches
    worse = draw(tmp_path / "worse.png", roll, shifted)
    assert pixels(worse, figures.FALSE) > 5 * false
    assert pixels(worse, figures.MISSED) > 5 * missed
    assert pixels(worse, figures.HIT) < 0.7 * hit


def test_undecided_note_counts_as_missed(tmp_path, roll):
    """The probability of such a note does not matter."""
    silent = draw(tmp_path / "silent.png", roll, 0.9 * roll, notes=np.zeros_like(roll))
    bold = draw(tmp_path / "bold.png", roll, 0.2 * roll, notes=roll)
    assert pixels(silent, figures.MISSED) > 5 * pixels(bold, figures.MISSED)


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_equal_numbers_give_equal_bytes(tmp_path, roll, suffix):
    first = draw(tmp_path / f"first.{suffix}", roll, 1 - roll / 2, notes=roll).read_bytes()
    assert draw(tmp_path / f"second.{suffix}", roll, 1 - roll / 2, notes=roll).read_bytes() == first
    assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[suffix])
    assert draw(tmp_path / f"third.{suffix}", roll, 0.9 - roll / 2, notes=roll).read_bytes() != first


def test_silence_and_extreme_pitches_are_drawn(tmp_path):
    silent = np.zeros((10, 128), dtype=bool)
    draw(tmp_path / "silent.png", silent, silent.astype(float))
    ends = silent.copy()
    ends[:, [0, 1, 2, 125, 126, 127]] = True
    assert pixels(draw(tmp_path / "ends.png", ends, ends.astype(float)), figures.HIT) > 5000


def panel(channel="pulse"):
    times = np.arange(4) * 3600.0
    values = np.array([1, 2, np.nan, 1], np.float32)
    return bands.Panel("a series", channel, times, values, times, times - 1, times + 1)


@pytest.mark.parametrize("ending", bands.FORMATS)
def test_ending_chooses_the_format_of_bands(tmp_path, ending):
    bands.write(tmp_path / f"f{ending}", [[panel()]], "a table")
    begin = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[ending]
    assert (tmp_path / f"f{ending}").read_bytes().startswith(begin)
    assert [path.name for path in tmp_path.iterdir()] == [f"f{ending}"]


def test_failed_drawing_keeps_the_earlier_file(tmp_path, monkeypatch):
    def fail(figure, file, **settings):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    (tmp_path / "f.png").write_bytes(b"earlier")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        bands.write(tmp_path / "f.png", [[panel()]], "a table")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f.png", b"earlier")]


def test_name_with_dollar_signs_is_drawn_as_it_is(tmp_path):
    name = "rate $_per_$"
    bands.write(tmp_path / "f.svg", [[panel(name)]], f"a table of {name}")
    comments = (tmp_path / "f.svg").read_text()  # matplotlib notes each text beside its outlines
    assert f"<!-- a series: {name} -->" in comments
    assert f"<!-- a table of {name} -->" in comments


@pytest.mark.process
def test_matplotlib_state_is_unchanged(tmp_path):
    script = """
import sys, numpy as np, matplotlib
from pathlib import Path
before = matplotlib.rcParams.copy()
from launch.figures import rolls as figures
roll = np.zeros((10, 128), dtype=bool)
figures.interpolation(Path(sys.argv[1]), truth=roll, observed=roll[:, 0], rows=[], rate=5, title="")
print("matplotlib.pyplot" in sys.modules, matplotlib.rcParams.copy() == before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False True\n", "")
