import socket

import pytest


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of one's own, and nothing of the caller's environment that a check reads."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS",
                 "CUDA_VISIBLE_DEVICES", "CXX"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
