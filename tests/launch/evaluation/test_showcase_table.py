"""The figure of a table's series: observed and held-out values."""

import numpy as np
import pytest
from PIL import Image

from driftwork.config_base import load
from launch.evaluation import showcase, showcase_table
from launch.figures import bands
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from tests.datasets import write_table
from tests.launch.scoring.standin import FrameByFrame
from tests.places import tiny


@pytest.mark.parametrize("observe", ["{pattern: entries, ratios: [0.5]}", "{pattern: prefix, fraction: 0.5}"])
def test_series_have_their_observed_and_held_out_values(tmp_path, monkeypatch, observe):
    manifest, written = write_table(tmp_path / "table", D=4, T=9, count=5, binary=("c2",))
    config = load(RunConfig, tiny("vsdn_vae"), [f"data={tmp_path / 'table'}", f"observe.evaluate={observe}"])
    drawn = []
    own = bands.drawn
    monkeypatch.setattr(bands, "drawn", lambda rows, title: drawn.append((rows, title)) or own(rows, title))
    (tmp_path / "out").mkdir()
    files = showcase.write(tmp_path / "out", config, manifest, "test", FrameByFrame().eval())
    assert [file.name for file in files] == ["series.png", "series.pdf"]
    assert np.asarray(Image.open(files[0]).convert("L")).std() > 0
    ((rows, title),) = drawn
    assert len(rows) == showcase_table.SERIES
    assert ("forecast" if "prefix" in observe else "interpolation") in title
    (stream,) = loaders.evaluation(config, config.data, manifest, "test", alone()).values()
    batch = next(stream.epoch(0))
    for b, panels in enumerate(rows):
        sequence = written[batch.keys[b]]
        for d, panel in enumerate(panels):
            shown = batch.observed[b, : len(sequence.times), d].numpy()
            held_out = sequence.mask[:, d] & ~shown
            assert np.array_equal(np.isfinite(panel.observed), shown)
            assert np.array_equal(np.isfinite(panel.held_out), held_out)
            assert np.array_equal(panel.held_out[held_out], sequence.values[held_out, d])
            assert (panel.low <= panel.high).all()


def test_models_of_one_series_are_drawn_side_by_side(tmp_path, monkeypatch):
    manifest, _ = write_table(tmp_path / "table", D=4, T=9, count=5, binary=("c2",))
    observe = "observe.evaluate={pattern: entries, ratios: [0.5]}"
    config = load(RunConfig, tiny("vsdn_vae"), [f"data={tmp_path / 'table'}", observe])
    drawn = []
    own = bands.drawn
    monkeypatch.setattr(bands, "drawn", lambda rows, title: drawn.append(rows) or own(rows, title))
    models = {name: FrameByFrame().eval() for name in ("one", "other")}
    files = showcase_table.compare(tmp_path, config, manifest, "test", models)
    assert [file.name for file in files] == ["series.png", "series.pdf"]
    assert [[panel.series for panel in row] for row in drawn[0]] == [["one"] * 4, ["other"] * 4]
    assert np.array_equal(drawn[0][0][1].observed, drawn[0][1][1].observed, equal_nan=True)
