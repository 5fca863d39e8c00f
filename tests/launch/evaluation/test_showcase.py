"""Outputs of an evaluation against its table, the data, and independent readers of the files."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from driftwork.config_base import load
from launch.evaluation import showcase
from launch.evaluation.showcase_forecast import squared_errors
from launch.evaluation.showcase_motion import DRAWS, principal_plane
from launch.figures import style
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring import results
from launch.scoring.collect import collect
from launch.scoring.draws import Draws
from launch.scoring.scores import Scoring
from pipeline.readers.mocap import MocapConfig, features
from pipeline.readers.skeleton import parse_amc, parse_asf
from tests.datasets import write_films, write_rolls, write_walks
from tests.places import tiny

CPU = torch.device("cpu")
ERROR = {"forecast-error.png", "forecast-error.pdf"}


def run_on(folder, write, *overrides, **shape):
    """Return (config, manifest, model) of an untrained model on a data set."""
    manifest, _ = write(folder, **shape)
    config = load(RunConfig, tiny("ode2vae"), [f"data={folder}", *overrides])
    return config, manifest, run_folder.model_for(config, manifest).eval()


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    """Provide a run on walks with its outputs."""
    place = tmp_path_factory.mktemp("motion")
    run = run_on(place / "walks", write_walks)
    showcase.write(place / "outputs", run[0], run[1], "test", run[2])
    return run, place / "outputs"


def first_forecast(config, manifest, model, split="test"):
    """Return the first trial of the split, and the mean of its draws."""
    stream = loaders.evaluation(config, config.data, manifest, split, alone())["100"]
    trial = stream.dataset.read(0)
    with torch.inference_mode():
        mean = model.forecast(next(stream.epoch(0)), config.evaluate.samples).mean[0]
    return trial, mean[: len(trial.times)].numpy()


def test_each_kind_of_data_has_its_files(tmp_path, motion, capsys):
    def written(name, write, **shape):
        config, manifest, model = run_on(tmp_path / name, write, **shape)
        files = showcase.write(tmp_path / f"{name}-outputs", config, manifest, "test", model)
        assert {file.name for file in files} == {file.name for file in (tmp_path / f"{name}-outputs").iterdir()}
        return {file.name for file in files}

    latent = {"latent.png", "latent.pdf"}
    walks = {"skeleton.gif", "skeleton.asf", "truth.amc", "forecast.amc"}
    assert {file.name for file in motion[1].iterdir()} == ERROR | latent | walks
    assert written("films", write_films) == ERROR | {"strips.png", "strips.pdf"}
    assert written("rolls", write_rolls) == ERROR
    capsys.readouterr()
    assert written("arrays", write_walks, skeleton=False) == ERROR | latent
    assert "has no skeleton (.mat)" in capsys.readouterr().err


def test_written_amc_reads_back_as_forecast(motion):
    run, outputs = motion
    trial, forecast = first_forecast(*run)
    skeleton = parse_asf((outputs / "skeleton.asf").read_text())
    for name, expected in (("forecast", forecast), ("truth", trial.values)):
        read = parse_amc((outputs / f"{name}.amc").read_text(), skeleton)
        assert read.first == 1
        again, about = features(read, skeleton, MocapConfig(protocol="honest", frames=len(trial.times)))
        assert about["start"] == pytest.approx(trial.about["start"], rel=1e-8)
        assert about["rest"] == pytest.approx(trial.about["rest"], rel=1e-8)
        again -= trial.about["mean"]
        # Nine digits of positions up to 1000; the last step of the root leads beyond the trial and is not included.
        np.testing.assert_allclose(again[:-1], expected[:-1], rtol=0, atol=2e-6)
        np.testing.assert_allclose(again[-1, 3:], expected[-1, 3:], rtol=0, atol=2e-6)


def test_animation_shows_truth_beside_forecast(motion):
    run, outputs = motion
    trial, _ = first_forecast(*run)
    with Image.open(outputs / "skeleton.gif") as film:
        assert film.n_frames == -(-len(trial.times) // 3)
        assert film.info["loop"] == 0
        pictures = []
        for frame in range(film.n_frames):
            film.seek(frame)
            assert film.info["duration"] == 50
            pictures.append(np.asarray(film.convert("RGB")))
    assert (outputs / "skeleton.gif").stat().st_size < 50_000 * len(pictures)
    blue = np.rint(255 * np.array(to_rgb(style.BLUE)))
    for picture in pictures:
        ours = (picture == blue).all(-1)
        half = picture.shape[1] // 2
        assert np.ptp(np.flatnonzero(ours.any(0))) > half / 5  # visible, for any size of the skeleton
        assert ours[:, :half].sum() == 0
        assert (picture[:5] == 255).all()  # paper stays white
    assert (pictures[0] != pictures[-1]).any()


def test_equal_runs_give_equal_bytes(motion, tmp_path):
    (config, manifest, model), outputs = motion
    for file in showcase.write(tmp_path, config, manifest, "test", model):
        assert file.read_bytes() == (outputs / file.name).read_bytes(), file.name


def test_drawn_error_matches_the_table(tmp_path):
    config, manifest, model = run_on(tmp_path / "films", write_films)
    stream = loaders.evaluation(config, config.data, manifest, "test", alone())["100"]
    errors = squared_errors(model, model.given, stream.epoch(0), Draws.of(config.evaluate), manifest.spec.length)
    scoring = Scoring.of(config, manifest, config.evaluate.samples)
    ours = results.estimates(collect(scoring.model, model, stream.epoch(0), "100", CPU).scores)["forecast"]
    copied = results.estimates(collect(scoring.persistence, model, stream.epoch(0), "100", CPU).scores)["forecast"]
    draws, path, persistence = errors.values()
    assert np.isnan(draws).any()
    for horizon in (3, 4):
        table = ours[str(horizon)]
        assert np.nanmean(draws[:, :horizon]) == pytest.approx(table["mse"].value, rel=1e-6)
        assert np.nanmean(path[:, :horizon]) == pytest.approx(table["mse_of_mean_path"].value, rel=1e-6)
        assert np.nanmean(persistence[:, :horizon]) == pytest.approx(copied[str(horizon)]["mse"].value, rel=1e-6)


def test_latent_paths_are_projected_to_largest_variance():
    rng = np.random.default_rng(0)
    plane = rng.normal(0, 1, (DRAWS, 40, 2)) * [3.0, 1.0]
    across, _ = np.linalg.qr(rng.normal(0, 1, (6, 6)))
    states = (plane @ across[:2] + 5.0).astype(np.float32)
    seen = np.concatenate(principal_plane([states[:10], states[10:]]))
    centred = plane - plane.mean((0, 1))
    np.testing.assert_allclose(np.linalg.norm(seen, axis=2), np.linalg.norm(centred, axis=2), atol=1e-4)
    assert seen[..., 0].std() > 2 * seen[..., 1].std()
