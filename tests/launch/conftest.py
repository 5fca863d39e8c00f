import socket
from contextlib import nullcontext

import pytest

from launch.tracker.mlflow_store import prepare_store
from launch.tracker.tracking import TrackingConfig, open_run


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Provide an empty home folder, without the caller's environment variables that a check reads."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS",
                 "CUDA_VISIBLE_DEVICES", "CXX"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Provide an empty store to copy, since making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    prepare_store(f"sqlite:///{folder}/runs/mlflow.db", "elsewhere")
    return folder / "runs/mlflow.db"


@pytest.fixture(scope="session")
def empty_store(template):
    """Make an empty store at a path, and return its URI."""

    def make(file):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(template.read_bytes())
        return f"sqlite:///{file}"

    return make


@pytest.fixture
def uri(tmp_path, empty_store):
    """Provide the URI of an empty store."""
    return empty_store(tmp_path / "runs/mlflow.db")


@pytest.fixture
def open_(uri, tmp_path):
    """Return `open_run` with defaults for arguments that do not matter in a test."""

    def opened(run_id=None, tags=None, training=False, **config):
        return open_run(
            TrackingConfig(**{"uri": uri, **config}), experiment="lakh", run_name="vsdn_vae", run_folder=tmp_path,
            tags=tags or {}, run_id=run_id, training=training,
        )  # fmt: skip

    return opened


@pytest.fixture(scope="module")
def in_process():
    """Prepare and read tables in this process, without Ray, and draw no figures, which takes seconds."""
    from pipeline.prepare.build import build_shard
    from tests.pipeline.tables.making import InProcess

    def workers(config):
        return nullcontext(lambda job, plans: [build_shard(job, plan) for plan in plans])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.prepare.gather.Guard", InProcess)
        patch.setattr("launch.figures.bands.write", lambda path, rows, title: path.touch())
        patch.setattr("pipeline.prepare.prepare._workers", workers)
        yield


@pytest.fixture(scope="module")
def line(in_process):
    """Let every run on a table have the stand-in as its model."""
    from tests.launch.tables.own import Line

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.runs.run_folder.model_for", lambda config, manifest: Line(manifest.spec.dim))
        patch.setattr("launch.runs.weights.load_best", lambda model, folder, device: None)
        yield
