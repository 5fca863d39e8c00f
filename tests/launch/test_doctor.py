"""Each finding is provoked for real, in an environment of its own."""

import http.server
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from launch import doctor, doctor_machine, doctor_packages, doctor_ray, doctor_store, tracking
from models.errors import DriftworkError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of one's own, and nothing of the caller's environment that a check reads."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS",
                 "CUDA_VISIBLE_DEVICES", "CXX"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def level_of(finding):
    assert bool(finding.cure) == (finding.level != "ok")
    assert "\n" not in str(finding)
    return finding.level


def test_a_python_and_packages_of_other_versions_are_named(monkeypatch):
    assert level_of(doctor_packages.python()) == "ok"
    assert level_of(doctor_packages.python((3, 13, 0))) == "error"
    assert level_of(doctor_packages.python((3, 10, 9))) == "error"
    assert [level_of(finding) for finding in doctor_packages.packages()] == ["ok"]
    true = doctor_packages.metadata.version
    monkeypatch.setattr(
        doctor_packages.metadata, "version", lambda name: "2.10.0+cpu" if name == "torch" else true(name)
    )
    *bad, rest = doctor_packages.packages()
    assert [str(finding) for finding in bad] == [
        "error    packages     torch 2.10.0+cpu, driftwork is made for >=2.11,<2.14; "
        "pip install -c constraints.txt 'torch>=2.11,<2.14'"
    ]
    assert level_of(rest) == "ok"


def test_it_runs_where_heavy_packages_are_missing_and_says_so():
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
sys.exit(doctor.main(["--json", "uri=null"]))
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = json.loads(answer.stdout)
    missing = [one for one in found if one["check"] == "packages" and one["level"] == "warning"]
    assert {one["said"].split()[0] for one in missing} == set(gone)
    assert "pip install -e '.[prepare]'" in next(one["cure"] for one in missing if one["said"].startswith("ray"))
    assert answer.stderr == ""


def test_it_imports_nothing_heavy_and_a_glance_is_quick(tmp_path):
    code = """
import sys, time
from launch import doctor
from pathlib import Path
began = time.process_time()
doctor.glance_before_training(1, "sqlite:///runs/none.db", Path("runs/x"))
doctor.glance_before_preparing(Path("out"))
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


def test_python_of_another_environment_is_named(home, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert level_of(doctor_packages.entry_point()) == "ok"
    program(home / "bin", "python")
    monkeypatch.setenv("PATH", f"{home}/bin:{Path(sys.executable).parent}")
    assert f"`python` is {home}/bin/python" in doctor_packages.entry_point().said
    monkeypatch.setenv("PATH", str(home / "empty"))
    assert "has no `python`" in doctor_packages.entry_point().said
    assert level_of(doctor_packages.entry_point()) == "warning"


def test_compiler_ninja_and_numactl_are_looked_for_in_path(home, monkeypatch):
    checks = (doctor_machine.compiler, doctor_machine.ninja, doctor_machine.numactl)
    monkeypatch.setenv("PATH", str(home / "bin"))
    assert [level_of(check()) for check in checks] == ["warning"] * 3
    for name in ("g++", "ninja", "numactl"):
        program(home / "bin", name)
    assert [level_of(check()) for check in checks] == ["ok"] * 3
    monkeypatch.setenv("CXX", "absent++")
    assert doctor_machine.compiler().said == str(home / "bin/g++")


@pytest.mark.parametrize("place", ["py311_cpu/shm", "shm"])
def test_a_lock_that_a_killed_build_left_is_an_error(home, monkeypatch, place):
    root = home / ".cache/torch_extensions" if "/" in place else home / "extensions"
    if "/" not in place:
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(root))
    assert [level_of(finding) for finding in doctor_machine.build_locks()] == ["ok"]
    lock = root / place / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert [level_of(finding) for finding in doctor_machine.build_locks()] == ["warning"]
    os.utime(lock, (time.time() - 3600,) * 2)
    (finding,) = doctor_machine.build_locks()
    assert (level_of(finding), finding.cure) == ("error", f"rm {lock}")
    builder = subprocess.Popen(["sleep", "60"], cwd=lock.parent)
    try:
        (finding,) = doctor_machine.build_locks()
        assert (finding.level, finding.said) == ("ok", "shm is being built")
    finally:
        builder.kill()
        builder.wait()


@pytest.mark.slow
def test_a_gpu_that_torch_cannot_use_is_an_error(home, monkeypatch):
    assert level_of(doctor_machine.accelerator(home)) == "ok"
    (home / "nvidia0").touch()
    (home / "nvidiactl").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "nvidia0 hidden by CUDA_VISIBLE_DEVICES=" in doctor_machine.accelerator(home).said
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    import torch

    wanted = "ok" if torch.cuda.is_available() else "error"
    assert level_of(doctor_machine.accelerator(home)) == wanted


def test_threads_that_compete_are_counted(home, monkeypatch):
    quota = home / "cpu.max"
    quota.write_text("max 100000\n")
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert level_of(doctor_machine.threads(1, quota)) == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert doctor_machine.threads(1, quota).cure == f"OMP_NUM_THREADS={cores}"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert level_of(doctor_machine.threads(cores, quota)) == "ok"
    assert doctor_machine.threads(cores + 1, quota).cure == f"ranks={cores} at most"
    quota.write_text("100000 100000\n")  # a container of one core on a larger machine
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert level_of(doctor_machine.threads(1, quota)) == ("ok" if cores == 1 else "warning")


def test_a_host_that_does_not_find_itself_is_an_error(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    finding = doctor_machine.hostname()
    assert level_of(finding) == "error"
    assert "127.0.0.1 no-such-host.invalid" in finding.cure


def test_small_disks_and_shared_memory_are_named(home, monkeypatch):
    true = doctor_machine.shutil.disk_usage(home)
    for free, level in ((10**8, "error"), (5 * 10**9, "warning"), (10**11, "ok")):
        monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda path, free=free: true._replace(free=free))
        (finding,) = doctor_machine.disk({"runs": home / "not/there/yet", "the same disk": home})
        assert level_of(finding) == level
        assert level_of(doctor_machine.shared_memory(home)) == ("warning" if free < 10**9 else "ok")
    assert level_of(doctor_machine.shared_memory(home / "absent")) == "warning"


def test_the_token_must_be_there_and_ones_own(home, monkeypatch):
    assert level_of(doctor_ray.token()) == "warning"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert level_of(doctor_ray.token()) == "error"
    token = home / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    for mode, level in ((0o644, "error"), (0o640, "error"), (0o600, "ok"), (0o400, "ok")):
        token.chmod(mode)
        assert level_of(doctor_ray.token()) == level
    token.chmod(0o644)
    assert doctor_ray.token().cure == f"chmod 600 {token}"
    assert "secret" not in str(doctor_ray.token())
    assert stat.S_IMODE(token.stat().st_mode) == 0o644  # it looks, and changes nothing
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "elsewhere"))
    assert "elsewhere is absent" in doctor_ray.token().said


@pytest.mark.parametrize(("mode", "level"), [("", "warning"), ("token", "ok"), ("disabled", "error")])
def test_a_cluster_without_login_is_named(home, monkeypatch, mode, level):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert level_of(doctor_ray.auth_mode()) == level


@pytest.mark.parametrize(
    ("address", "family", "level"),
    [("127.0.0.1", socket.AF_INET, "ok"), ("0.0.0.0", socket.AF_INET, "error"), ("::", socket.AF_INET6, "error")],
)
def test_a_dashboard_that_every_machine_reaches_is_an_error(address, family, level):
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert (address, port) in set(doctor_ray.listening())
        (finding,) = doctor_ray.open_ports({port: "Ray's dashboard"})
        assert level_of(finding) == level
        assert str(port) in finding.said
    assert "none of" in next(doctor_ray.open_ports({port: "Ray's dashboard"})).said


def test_what_a_job_would_upload_is_what_git_would_keep(home, monkeypatch):
    """The sum over the files that git itself, told of both files of patterns, does not ignore."""
    work = home / "work"
    for name in ("a.py", "runs/big.bin", "sub/runs/kept.bin", "data/x.tar", "data/README.md", "sub/deep/x.log", "x.tmp",
                 ".venv/lib/y", "sub/__pycache__/z.pyc", "keep.tmp.py", "odd/a.b.c"):  # fmt: skip
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(bytes(len(name)))
    patterns = "# a comment\n\n/runs/\n.venv/\n__pycache__/\n/data/*\n!/data/README.md\n*.tmp\n**/deep/*.log\n"
    (work / ".gitignore").write_text(patterns)
    assert level_of(doctor_ray.upload(work)) == "warning"  # no .rayignore
    (work / ".rayignore").write_text("odd\n")
    subprocess.run(["git", "init", "-q", "."], cwd=work, check=True)
    listing = ["git", "ls-files", "-o", "--exclude-from=.gitignore", "--exclude-from=.rayignore", "-z"]
    kept = subprocess.run(listing, cwd=work, check=True, capture_output=True, text=True).stdout.split("\0")
    (work / ".rayignore").write_text("odd\n.git/\n")
    assert {path for path, _ in doctor_ray._packed(work)} == {path for path in kept if path}
    assert level_of(doctor_ray.upload(work)) == "ok"
    with (work / "large.bin").open("wb") as handle:
        handle.truncate(300 * 2**20)
        assert level_of(doctor_ray.upload(work)) == "warning"
        handle.truncate(600 * 2**20)
    finding = doctor_ray.upload(work)
    assert level_of(finding) == "error"
    assert "large.bin, 600 MiB" in finding.cure


def test_this_repository_fits():
    assert level_of(doctor_ray.upload(ROOT)) == "ok"


@pytest.fixture
def store(tmp_path):
    """What a check reads of a store that the MLflow of this environment has made."""
    file = tmp_path / "store.db"
    revisions = dict(doctor_store._revisions())
    (newest,) = revisions.keys() - set(revisions.values())
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES (?)", (newest,))
    database.close()
    return file


@pytest.mark.slow
def test_the_schema_is_the_one_that_mlflow_makes(store, tmp_path):
    tracking.prepare_store(f"sqlite:///{tmp_path}/mlflow.db", "x")
    found = [doctor_store.tracking(f"sqlite:///{file}") for file in (store, tmp_path / "mlflow.db")]
    assert [level_of(finding) for finding in found] == ["ok", "ok"]
    assert found[0].said.split()[-1] == found[1].said.split()[-1]


def test_a_store_is_new_or_fits_the_mlflow_that_is_here(home, store):
    assert level_of(doctor_store.tracking(None)) == "ok"
    assert "made by the first run" in doctor_store.tracking(f"sqlite:///{home}/a/b/mlflow.db").said
    assert not (home / "a").exists()
    before = store.read_bytes()
    finding = doctor_store.tracking(f"sqlite:///{store}")
    assert level_of(finding) == "ok"
    assert store.read_bytes() == before
    assert finding.said.split()[-1] in dict(doctor_store._revisions())


@pytest.mark.parametrize(("version", "said"), [("0a8213491aaa", "older"), ("ffffffffffff", "newer")])
def test_a_store_of_another_mlflow_is_an_error(home, store, version, said):
    file = home / "other.db"
    file.write_bytes(store.read_bytes())
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    database.close()
    finding = doctor_store.tracking(f"sqlite:///{file}")
    assert level_of(finding) == "error"
    assert f"of a{'n' if said == 'older' else ''} {said} MLflow" in finding.said


def test_a_locked_store_is_named_in_seconds(home, store):
    holder = sqlite3.connect(store)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        began = time.monotonic()
        assert "has been locked" in doctor_store.tracking(f"sqlite:///{store}").said
        assert time.monotonic() - began < 10
    finally:
        holder.close()
    assert level_of(doctor_store.tracking(f"sqlite:///{store}")) == "ok"


@pytest.mark.parametrize(
    ("content", "said"), [(b"no database at all" * 99, "not a database"), (None, "no MLflow store")]
)
def test_a_file_that_is_no_store_is_an_error(home, content, said):
    file = home / "x.db"
    if content is None:
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE other (x)")
        database.close()
    else:
        file.write_bytes(content)
    finding = doctor_store.tracking(f"sqlite:///{file}")
    assert level_of(finding) == "error"
    assert said in finding.said


def test_a_store_that_may_not_be_written_is_an_error(store):
    assert level_of(doctor_store.tracking("sqlite:////proc/none/mlflow.db")) == "error"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder, "mlflow.db")
        file.write_bytes(store.read_bytes())
        file.chmod(0o444)
        os.seteuid(65534 if os.geteuid() == 0 else os.geteuid())  # root may write whatever the mode says
        try:
            finding = doctor_store.tracking(f"sqlite:///{file}")
        finally:
            os.seteuid(os.getuid())
    assert level_of(finding) == "error"
    assert finding.said == f"{file} may not be written"


def test_a_server_answers_or_does_not(monkeypatch, free_port):
    monkeypatch.setenv("no_proxy", "*")

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments): ...

    uri = f"http://127.0.0.1:{free_port}"
    finding = doctor_store.tracking(uri)
    assert level_of(finding) == "error"
    assert "does not answer" in finding.said
    with http.server.HTTPServer(("127.0.0.1", free_port), Health) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        assert level_of(doctor_store.tracking(uri)) == "ok"
        assert "answers 404" in doctor_store.tracking(f"{uri}/other").said
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert level_of(doctor_store.tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")) == "error"
        assert time.monotonic() - began < 10


def test_the_command_ends_in_1_when_it_found_an_error(home, monkeypatch, capsys):
    arguments = ["uri=null", f"out={home}"]
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
    assert {"check", "level", "said", "cure"} == set(found[0])
    with pytest.raises(DriftworkError, match="did you mean 'ranks'"):
        doctor.main(["rank=2"])


def test_a_glance_says_what_is_wrong_and_nothing_else(home, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    doctor.glance_before_training(1, None, home / "runs")
    doctor.glance_before_preparing(home / "data")
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
    doctor.glance_before_training(1, None, home / "runs")
    assert f"driftwork doctor: error    build lock   {lock}" in capsys.readouterr().err
    doctor.glance_before_preparing(home / "data")
    assert "driftwork doctor: error    ray token" in capsys.readouterr().err
