"""`driftwork sweep` as a user calls it: killed, called again, with failing trials."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from driftwork.command import run
from driftwork.errors import DriftworkError
from launch import sweep
from launch.runs import run_folder
from launch.sweeps import grid as grids
from launch.sweeps import trial as trial_process
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_rolls
from tests.launch.sweeps.sweeping import ENDLESS, command, driftwork, record, tracked, until
from tests.places import ROOT, tiny


def test_dry_run_lists_trials_and_steps(place, capsys, tmp_path):
    grid = place("grid: {train.beta: [2, 3], model.latent: [2, 4]}")
    before = sorted(tmp_path.rglob("*"))
    assert sweep.main([grid, "--dry-run", "train.max_epochs=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "some: 4 trials in runs/some, at most 48 steps left"  # 29 sequences in eights, 3 epochs
    assert [line.split() for line in lines[1:]] == [
        [str(n), f"beta={beta},", f"latent={latent}", "12", "steps"]
        for n, (beta, latent) in enumerate(((2, 2), (2, 4), (3, 2), (3, 4)), 1)
    ]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.network
@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("runs: [{model.latent: 1}, {train.beta: 0}, {model.hiden: 4}]", (), "trial 3 (hiden=4)"),
        ("grid: {train.beta: []}", (), "there is nothing to run"),
        ("grid: {train.beta: [0, 0.0]}", (), "trial 2 (beta=0.0): the same run as trial 1"),
        ("grid: {data: [rolls, nowhere]}", (), "trial data=nowhere: nowhere: no manifest.json"),
        ("grid: {data: [damaged]}", (), "val-000003.tar"),
        ("grid: {ranks: [1, 9000]}", ("train.batch_size=9000", "evaluate.batch_size=9000"),
         "trial ranks=9000: ranks=9000: this machine has"),
        ("grid: {train.seed: [0]}", ("tracking.uri=http://127.0.0.1:9",), "http://127.0.0.1:9 does not answer: "),
        ("grid: {model.substeps: [1]}", (f"base={ROOT}/configs/train/vsdn_sde_timit.yaml", "ranks=1"),
         "is a whole time_unit in one step, which makes the latent a chain of independent draws"),
        ("grid: {train.seed: [0]}", ("address=auto",), "address=auto has no effect without at_once=N"),
        ("grid: {train.seed: [0]}", ("out=/proc/out",), "out=/proc/out: cannot be written"),
        ("grid: {train.seed: [0]}", ("out=locked",), "out=locked: another sweep is at work there"),
        ("grid: {train.seed: [0]}", ("out=other",), "other/seed=0: holds a run with train.beta=0.5, and the grid"),
    ],
)  # fmt: skip
def test_sweep_mistake_is_found_before_start(place, tmp_path, capsys, monkeypatch, text, arguments, said):
    monkeypatch.setattr(trial_process, "run", lambda *_: pytest.fail("a trial was started"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    damaged = tmp_path / "damaged/val-000003.tar"
    write_rolls(tmp_path / "damaged", seed=2)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (tmp_path / "locked").mkdir()
    grid = place(text)
    if "out=other" in arguments:
        (trial,) = grids.read([grid, "train.beta=0.5", "out=other"]).trials
        run_folder.create(trial.config)
    with FileLock(tmp_path / "locked/sweep.lock"):
        assert run("sweep", sweep.main, [grid, *arguments]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "runs/some/seed=0").exists()


def test_trial_with_null_time_unit_continues(place, capsys):
    """The grid has null, and the config of a started trial the number."""
    null = {"model.time_unit": None, "model.max_step": None, "model.substeps": 3}
    arguments = [place("grid: {train.seed: [0, 1]}", **null), f"base={tiny('vsdn_sde')}"]
    trial = grids.read(arguments).trials[0]
    run_folder.create(trial.config.for_data(read_manifest(Path("rolls")).spec))
    run_folder.remember(trial.folder, trained=True, evaluated=["test"])
    assert sweep.main([*arguments, "--dry-run"]) == 0
    assert [line.endswith("done") for line in capsys.readouterr().out.splitlines()[1:]] == [True, False]
    assert run("sweep", sweep.main, [*arguments, "--dry-run", "model.time_unit=3"]) == 2
    assert "holds a run with model.time_unit=0.2, and the grid sets 3.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("going\nTraceback ...\n[rank1]: RuntimeError: shapes differ\n", 1, "RuntimeError: shapes differ"),
        ("torch.cuda.OutOfMemoryError: CUDA\nConnectionError: peer\n", 1, "torch.cuda.OutOfMemoryError: CUDA"),
        ("ValueError: x\ndriftwork train: 20 steps in a row were not finite\n", 2, "20 steps in a row were not finite"),
        ("driftwork doctor: warning  x\n[rank0]: RuntimeError: shapes differ\n", 1, "RuntimeError: shapes differ"),
        (
            "driftwork train: the job died with exit code 1; restart 1 of 2 from the last checkpoint\n"
            "driftwork train: 20 steps in a row were not finite\n",
            2,
            "20 steps in a row were not finite",
        ),
        ("step 1\n", 3, "exit code 3"),
        ("step 1\n", -9, "killed by signal 9"),
    ],
)
def test_failed_trial_reports_its_first_error(text, code, said):
    assert trial_process._reason(text, code) == said


def test_only_parallel_trials_need_ray(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    grid = place("grid: {train.seed: [0]}")
    assert run("sweep", sweep.main, [grid, "--dry-run"]) == 0
    assert run("sweep", sweep.main, [grid, "--dry-run", "at_once=2"]) == 2
    assert "at_once=2: Ray is not installed; run pip install" in capsys.readouterr().err


def test_single_rank_trials_share_devices():
    """Trials hold a device per rank; those of one rank share if there are too few devices."""
    assert sweep._held(ranks=1, devices=8, largest=4, at_once=4) == 1.0
    assert sweep._held(ranks=1, devices=2, largest=2, at_once=4) == 0.5
    assert sweep._held(ranks=2, devices=2, largest=2, at_once=4) == 2.0
    with pytest.raises(DriftworkError, match="ranks=3: the largest machine of this cluster has 2 devices"):
        sweep._held(ranks=3, devices=4, largest=2, at_once=1)


@pytest.mark.parametrize(("gpus", "ranks", "at_once"), [(0, [1], 1), (4, [1], 4), (4, [1, 2], 2), (2, [4], 1)])
def test_trials_use_all_gpus(place, monkeypatch, gpus, ranks, at_once):
    monkeypatch.setattr("launch.job.launcher.gpus", lambda: gpus)
    grid = place(f"grid: {{ranks: {ranks}, train.seed: [0]}}")
    assert [sweep._number_at_once(grids.read([grid, *more])) for more in ([], ["at_once=3"])] == [at_once, 3]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep._number_at_once(grids.read([grid])) == 1


@pytest.mark.parametrize(
    ("at_once", "ranks", "asked", "threads"), [(1, 1, None, 8), (2, 2, None, 2), (4, 4, None, 1), (2, 1, "3", 3)]
)
def test_threads_do_not_exceed_cores(place, monkeypatch, at_once, ranks, asked, threads):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    grid = grids.read([place("grid: {train.seed: [0]}"), f"ranks={ranks}"])
    assert sweep._arguments(grid, grid.trials[0], at_once)[2] == threads


@pytest.mark.slow
@pytest.mark.usefixtures("uri")
def test_killed_sweep_continues_each_trial_once(place, capsys):
    """Only the sweep is killed (kill -9), in its second trial; the third call finds nothing to do."""
    grid = place("grid: {train.beta: [0.1], model.latent: [2, 4, 8]}", **{"train.max_epochs": 3})
    words, environment = command(grid)
    second = Path("runs/some/beta=0.1,latent=4")
    started = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: (second / "checkpoints/latest").exists(), started)
    below = psutil.Process(started.pid).children(recursive=True)
    assert below
    started.kill()
    started.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    first, begun = record("runs/some/beta=0.1,latent=2"), record(second)
    assert first["evaluated"] == ["test"]
    assert "trained" not in begun
    _, children = tracked()
    params = {child.info.run_id: child.data.params for child in children}
    assert len(params) == 2
    again = driftwork(grid)
    assert again.returncode == 0, again.stderr
    assert "done" in again.stdout.splitlines()[1]
    assert "2/2 beta=0.1, latent=8: done" in again.stdout
    assert record(second)["run_id"] == begun["run_id"]
    assert first == record("runs/some/beta=0.1,latent=2")
    parent, children = tracked()
    assert Counter(child.info.run_name for child in children) == {
        f"beta=0.1, latent={latent}": 1 for latent in (2, 4, 8)
    }
    assert {one.info.status for one in (parent, *children)} == {"FINISHED"}
    assert all("test/density_25_nll_nats_per_frame" in child.data.metrics for child in children)
    now = {child.info.run_id: child.data.params for child in children}
    assert {run_id: now[run_id] for run_id in params} == params
    assert not [key for child in children for key in child.data.tags if key.startswith("param_drift")]
    tags = {child.info.run_name: child.data.tags for child in children}["beta=0.1, latent=4"]
    assert (tags["driftwork.grid"], tags["driftwork.grid.train.beta"], tags["driftwork.grid.model.latent"]) == (
        "some", "0.1", "4",
    )  # fmt: skip
    assert sweep.main([grid]) == 0
    assert "at most 0 steps left" in capsys.readouterr().out
    assert len(tracked()[1]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("uri")
def test_signal_ends_and_marks_trials(place, number):
    grid = place("grid: {train.seed: [0, 1]}", **ENDLESS)
    words, environment = command(grid)
    started = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    until(lambda: Path("runs/some/seed=0/checkpoints/latest").exists(), started)
    below = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(number)
    assert started.wait(90) == 128 + number
    assert not [process for process in below if process.is_running()]
    parent, children = tracked()
    assert [child.info.run_name for child in children] == ["seed=0"]
    assert {parent.info.status, children[0].info.status} == {"KILLED"}
    saved = record("runs/some/seed=0")["interrupted"]
    assert Path("runs/some/seed=0/checkpoints/latest").read_text() == f"step-{saved:07d}"


@pytest.mark.slow
@pytest.mark.usefixtures("uri")
def test_failed_trial_stops_no_other(place):
    grid = place("runs: [{optim.lr: 1.0e+30, optim.clip_norm: 0}, {train.seed: 1}]", **{"train.max_epochs": 10})
    done = driftwork(grid)
    assert done.returncode == 1, done.stderr
    failed = next(line for line in done.stdout.splitlines() if line.startswith("1/2"))
    assert "were not finite" in failed or "validation score" in failed
    assert "2/2 seed=1: done" in done.stdout
    parent, children = tracked()
    assert {child.info.run_name: child.info.status for child in children} == {
        "lr=1e+30, clip_norm=0": "FAILED", "seed=1": "FINISHED",
    }  # fmt: skip
    assert parent.info.status == "FAILED"
