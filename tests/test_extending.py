"""The files and commands of docs/extending.md in an empty folder, as a newcomer would use them."""

import json
import os
import re
import subprocess
import sys

import pytest

from driftwork.config_base import load
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from pipeline.shards.manifest import read_manifest
from tests.places import ROOT

PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\w+\.(?:py|yaml))\n(.*?)```", PAGE, re.DOTALL))


def driftwork(folder, *arguments, expect=0):
    """Run a command as the console script does, with the folder (as ".") in PYTHONPATH, and return its output."""
    return _python(folder, "-P", "-m", "launch.cli", *arguments, path=f"{ROOT}{os.pathsep}.", expect=expect)


def _python(folder, *arguments, path, expect=0):
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Provide the folder after the commands of the page, with a short training and no tracker."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    _python(folder, "record.py", path="")
    (folder / "recordings/broken.txt").write_text("1.0 ?\n")
    driftwork(folder, "prepare", "my_prepare.yaml", "source=recordings", "out=swings", "workers=1")
    driftwork(folder, "verify", "swings")
    driftwork(folder, "train", "my_train.yaml", "out=runs/echo", "tracking.uri=null", "train.max_epochs=5")
    driftwork(folder, "evaluate", "runs/echo", "split=test")
    return folder


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.process
class TestWholePath:
    def test_page_contains_all_its_files(self, place):
        assert sorted(FILES) == sorted(
            [f"my_{name}.py" for name in ("data", "model", "likelihood", "metric", "figure")]
            + ["my_prepare.yaml", "my_gru_ode.yaml", "my_train.yaml", "record.py"]
        )

    def test_bad_file_is_quarantined(self, place):
        lines = (place / "swings/quarantine.jsonl").read_text().splitlines()
        assert [json.loads(line)["file"] for line in lines] == ["broken.txt"]

    def test_shipped_model_fits_the_data_set(self, place):
        """The model takes a step in this process; the training loop is the same for all models."""
        config = load(RunConfig, place / "my_gru_ode.yaml", [f"data={place / 'swings'}"])
        manifest = read_manifest(place / "swings")
        model = run_folder.model_for(config, manifest)
        loss = model(next(loaders.training(config, manifest, alone()).epoch(0)), 1.0).loss
        assert bool(loss.isfinite().all())

    def test_own_model_is_scored_beside_the_baselines(self, place):
        scored = json.loads((place / "runs/echo/evaluation-test.json").read_text())
        assert set(scored) == {"model", "persistence", "linear"}
        assert set(scored["model"]) == {"density", "prediction", "interpolation"}
        for who in scored.values():
            found = who["interpolation"]["25"]
            assert 0 < found["mae"]["value"] < found["rmse"]["value"]  # Jensen
        assert "crps" not in scored["model"]["prediction"]["25"]  # a Laplace mixture has no closed form here

    def test_own_figure_is_in_the_run_folder(self, place):
        assert (place / "runs/echo/outputs/curves.png").read_bytes().startswith(b"\x89PNG")

    def test_run_resumes_with_its_plugins(self, place):
        said = driftwork(place, "train", "resume=runs/echo", "train.max_epochs=6")
        assert "trained" in said

    def test_served_model_contains_its_code(self, place):
        driftwork(place, "export", "runs/echo")
        code = place / "runs/echo/model/code"
        assert (code / "my_model.py").read_text() == FILES["my_model.py"]
        assert not (code / "my_figure.py").exists()
        ask = (
            "import served_model, pandas; m = served_model._load_pyfunc('runs/echo/model/data/driftwork');"
            "row = {'times': [0.0, 1.0], 'values': [[0.1, 0.2], [0.3, 0.1]], 'ask': [0.5, 2.0]};"
            "print(len(m.predict(pandas.DataFrame([row]))[0]['values']))"
        )
        assert _python(place, "-P", "-c", ask, path=str(code)).splitlines()[-1] == "2"

    def test_likelihood_without_deviation_is_not_predicted(self, place):
        said = driftwork(place, "predict", "runs/echo", "out=predictions.npz", expect=2)
        assert "the model's likelihood has no method frame" in said
        assert not (place / "predictions.npz").exists()

    def test_missing_plugin_error_has_a_cure(self, place):
        said = _python(place, "-P", "-m", "launch.cli", "evaluate", "runs/echo", path=str(ROOT), expect=2)
        assert said.splitlines() == [
            "driftwork evaluate: plugins: there is no module my_model; put its folder into PYTHONPATH, as in "
            "`PYTHONPATH=FOLDER driftwork ...`, or install its package"
        ]
