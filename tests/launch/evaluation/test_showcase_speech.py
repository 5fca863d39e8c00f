"""Files of speech against the data, the model and independent readers."""

import numpy as np
import pytest
import soundfile
import torch

from driftwork.config_base import load
from launch.evaluation import showcase
from launch.evaluation.showcase_speech import DRAWS, answers, typical
from launch.figures.speech import HOP, WINDOW, decibels, loudest
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from tests.datasets import write_speech
from tests.places import tiny

TINY = tiny("vsdn_vae")
GRU_ODE = "model={name: gru_ode, latent: 4, hidden: 8, width: 16, depth: 1}"
FILES = {"interpolation.png", "interpolation.pdf", "truth.wav", "observed.wav", "interpolation.wav"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech") / "data"
    return folder, *write_speech(folder)


def run_on(data, *overrides):
    folder, manifest, _ = data
    config = load(RunConfig, TINY, [f"data={folder}", "model.max_step=0.00625", *overrides])
    return config, manifest, run_folder.model_for(config, manifest).eval()


def first_batch(config, manifest):
    return next(loaders.evaluation(config, config.data, manifest, "test", alone())["25"].epoch(0))


def test_sound_files_match_data_and_interpolation(data, tmp_path):
    config, manifest, model = run_on(data)
    written = showcase.write(tmp_path, config, manifest, "test", model)
    assert {file.name for file in written} == FILES == {file.name for file in tmp_path.iterdir()}
    heard = {name: soundfile.read(tmp_path / f"{name}.wav", dtype="int16") for name in ("truth", "observed")}
    assert {rate for _, rate in heard.values()} == {16000}
    truth, observed = (samples for samples, _ in heard.values())
    batch = typical(first_batch(config, manifest))
    assert np.array_equal(truth, np.rint(32768 * data[2][batch.keys[0]].values.reshape(-1)))
    shown = np.arange(16000) // 100 % 4 == 0
    assert np.array_equal(observed, np.where(shown, truth, 0))
    filled, _ = soundfile.read(tmp_path / "interpolation.wav", dtype="float64")
    assert np.array_equal(filled[shown], truth[shown] / 32768)
    with torch.inference_mode():
        mean = model.interpolate(batch, 100).mean[0].numpy().reshape(-1)
    mine = answers(model, batch, 16000)
    error = mine.interpolated.std(0) / np.sqrt(DRAWS) + 1 / 32768
    assert (np.abs(filled - mean)[~shown] < 6 * error[~shown]).all()
    assert np.abs(filled)[~shown].max() > 1 / 32768


def test_only_latent_models_have_different_draws(data):
    config, manifest, model = run_on(data)
    speech = answers(model, typical(first_batch(config, manifest)), 16000)
    assert speech.interpolated.shape == (DRAWS, 16000)
    assert np.unique(speech.interpolated, axis=0).shape == (DRAWS, 16000)
    config, manifest, model = run_on(data, GRU_ODE)
    batch = typical(first_batch(config, manifest))
    speech = answers(model, batch, 16000)
    with torch.inference_mode():
        interpolated, predicted = (
            ask(batch, 1).mean[0].numpy().reshape(-1) for ask in (model.interpolate, model.predict)
        )
    assert speech.interpolated.shape == (1, 16000)
    np.testing.assert_allclose(speech.interpolated[0], interpolated, rtol=0, atol=1e-6)
    np.testing.assert_allclose(speech.predicted, predicted, rtol=0, atol=1e-6)


def test_smoother_has_its_sound_files(data, tmp_path):
    config, manifest, model = run_on(data, GRU_ODE.replace("gru_ode", "bi_gru_ode"))
    assert answers(model, typical(first_batch(config, manifest)), 16000).predicted is None
    assert {file.name for file in showcase.write(tmp_path, config, manifest, "test", model)} == FILES


@pytest.mark.slow
def test_model_without_latent_repeats_its_bytes(data, tmp_path):
    """All files are written, although the draws do not differ."""
    config, manifest, model = run_on(data, GRU_ODE)
    for place in ("a", "b"):
        showcase.write(tmp_path / place, config, manifest, "test", model)
    assert {file.name for file in (tmp_path / "a").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_drawn_speech_is_a_typical_second(data):
    """The second is complete, and neither silence nor noise."""
    config, manifest, _ = run_on(data)
    batch = first_batch(config, manifest)
    assert batch.keys == ("test-0", "test-1", "test-2", "test-3")  # 1 is short; 0 is the most silent, 3 the loudest
    shown = typical(batch)
    assert shown.keys == ("test-2",)
    assert torch.equal(shown.values[0], batch.values[2])


def test_spectrogram_places_tone_and_click():
    time = np.arange(16000) / 16000
    assert (decibels(np.sin(2 * np.pi * 1000 * time), 16000)[:, 2:-2].argmax(0) == 1000 * WINDOW / 16000).all()
    click = np.zeros(16000)
    click[100 * HOP] = 1.0
    level = decibels(click, 16000)
    assert level.shape == (WINDOW // 2 + 1, 16000 // HOP + 1)
    assert level.sum(0).argmax() == 100


def test_close_up_is_the_loudest_part():
    samples = np.full(1000, 0.1, np.float32)
    samples[600:650] = -0.5
    assert loudest(samples, 50) == slice(600, 650)
    assert loudest(samples, 1000) == slice(0, 1000)
