"""The command and the quick checks: imports, messages and exit codes."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from launch import doctor
from launch.checks import glance
from tests.places import ROOT


@pytest.mark.process
def test_doctor_runs_without_heavy_packages():
    gone = ["ray", "deepspeed", "mlflow", "torch"]
    code = f"""
import sys, json
from importlib import metadata
true = metadata.version
def version(name):
    if name in {gone}: raise metadata.PackageNotFoundError(name)
    return true(name)
metadata.version = version
for name in {gone}: sys.modules[name] = None
from launch import doctor
from launch.checks import glance
sys.exit(doctor.main(["--json", "tracking.uri=null"]))
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = json.loads(answer.stdout)
    missing = [one for one in found if one["check"] == "packages" and one["level"] == "warning"]
    assert {one["message"].split()[0] for one in missing} == set(gone)
    assert "pip install -e '.[prepare]'" in next(one["cure"] for one in missing if one["message"].startswith("ray"))
    assert answer.stderr == ""


@pytest.mark.process
def test_doctor_imports_nothing_heavy(tmp_path):
    code = """
import sys, time
from launch import doctor
from launch.checks import glance
from pathlib import Path
began = time.process_time()
glance.before_training(1, "sqlite:///runs/none.db", Path("runs/x"))
glance.before_preparing(Path("out"))
print(time.process_time() - began)
print([name for name in ("ray", "torch", "deepspeed", "mlflow", "webdataset", "numpy") if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    seconds, loaded = answer.stdout.splitlines()
    assert loaded == "[]"
    assert float(seconds) < 0.3


def test_doctor_exits_1_on_errors(home, monkeypatch, capsys):
    arguments = ["tracking.uri=null", f"out={home}"]
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("secret")
    (home / ".ray/auth_token").chmod(0o644)
    assert doctor.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warning", "error") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("error")] == ["ray"]
    (home / ".ray/auth_token").chmod(0o600)
    assert doctor.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"check", "level", "message", "cure"} == set(found[0])
    with pytest.raises(DriftworkError, match="did you mean 'ranks'"):
        doctor.main(["rank=2"])


def test_glance_prints_only_problems(home, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    glance.before_training(1, None, home / "runs")
    glance.before_preparing(home / "data")
    quiet = capsys.readouterr().err
    assert "build lock" not in quiet
    assert "token" not in quiet
    lock = home / ".cache/torch_extensions/py311_cpu/shm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("secret")
    (home / ".ray/auth_token").chmod(0o644)
    glance.before_training(1, None, home / "runs")
    assert f"driftwork doctor: error    build lock   {lock}" in capsys.readouterr().err
    glance.before_preparing(home / "data")
    assert "driftwork doctor: error    ray token" in capsys.readouterr().err


@pytest.mark.process
def test_reader_may_end_before_the_output():
    command = f"{shlex.quote(sys.executable)} -m launch.cli doctor tracking.uri=null | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_earlier_name_of_the_store_still_works(capsys):
    config = parse(doctor.DoctorConfig, ["uri=sqlite:///x/y.db"])
    assert config.tracking.uri == "sqlite:///x/y.db"
    assert "uri is now called tracking.uri" in capsys.readouterr().err
