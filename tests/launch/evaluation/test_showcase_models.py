"""Figure 3, several models on one sequence, against the interpolation of each."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file

from driftwork.config_base import load
from launch.evaluation import showcase_models
from launch.evaluation.showcase_rolls import longest, reconstruct
from launch.evaluation.showcase_speech import answers, typical
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.weights import BEST
from models.decisions import completed
from pipeline.readers.piano_roll import write_midi
from tests.datasets import write_films, write_rolls, write_speech
from tests.places import ROOT

VAE = "tiny_vsdn_vae.yaml"
GRU = "model={name: gru_ode, latent: 4, hidden: 8, width: 16, depth: 1, max_step: 0.00625}"


def saved(folder, data, *overrides, yaml=VAE):
    """Return a run folder with initial weights."""
    arguments = [f"data={data}", f"out={folder}", "tracking.uri=null", "evaluate.samples=3", *overrides]
    config = load(RunConfig, ROOT / "tests/launch" / yaml, arguments)
    run_folder.create(config)
    manifest = run_folder.manifest_of(config)
    model = run_folder.model_for(config, manifest).eval()
    save_file(model.state_dict(), folder / BEST)
    return config, manifest, model


def first_batch(config, manifest):
    return next(loaders.evaluation(config, config.data, manifest, "test", alone())["25"].epoch(0))


def test_each_model_has_sound_and_drawing(tmp_path):
    write_speech(tmp_path / "data")
    config, manifest, vae = saved(tmp_path / "vae", tmp_path / "data", "model.max_step=0.00625")
    *_, gru = saved(tmp_path / "gru", tmp_path / "data", GRU)
    files = showcase_models.write(tmp_path / "out", [tmp_path / "vae", tmp_path / "gru"], "test")
    names = {"interpolation.png", "interpolation.pdf", "truth.wav", "vsdn_vae.wav", "gru_ode.wav"}
    assert {file.name for file in files} == names == {file.name for file in (tmp_path / "out").iterdir()}
    batch = typical(first_batch(config, manifest))
    for name, model in (("vsdn_vae", vae), ("gru_ode", gru)):
        heard, _ = soundfile.read(tmp_path / f"out/{name}.wav", dtype="float64")
        np.testing.assert_allclose(heard, answers(model, batch, 16000).filled, rtol=0, atol=0.5 / 32768 + 1e-7)
    with Image.open(tmp_path / "out/interpolation.png") as picture:
        assert picture.width > 1000


def test_each_model_has_its_piece(tmp_path):
    write_rolls(tmp_path / "data")
    runs = {"vsdn_vae": saved(tmp_path / "vae", tmp_path / "data")}
    runs["gru_ode"] = saved(tmp_path / "gru", tmp_path / "data", GRU.replace("0.00625", "0.1"))
    showcase_models.write(tmp_path / "out", [tmp_path / "vae", tmp_path / "gru"], "test")
    config, manifest, _ = runs["vsdn_vae"]
    batch = longest(first_batch(config, manifest))
    for name, (*_, model) in runs.items():
        probabilities = reconstruct(model, batch, 3)
        with torch.inference_mode():
            notes = completed(probabilities, batch.observed, "expected_score")[0].numpy()
        write_midi(tmp_path / "expected.mid", notes, 1 / manifest.spec.interval)
        assert (tmp_path / f"out/{name}.mid").read_bytes() == (tmp_path / "expected.mid").read_bytes()


@pytest.mark.parametrize("yaml", [VAE, "tiny_ode2vae.yaml"])
def test_pictures_and_forecasts_have_no_such_figure(tmp_path, yaml):
    write_films(tmp_path / "data")
    saved(tmp_path / "run", tmp_path / "data", yaml=yaml)
    assert showcase_models.write(tmp_path / "out", [tmp_path / "run"], "test") == []
    assert not (tmp_path / "out").exists()
