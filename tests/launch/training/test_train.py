"""`driftwork train` and `evaluate` as a user calls them, on two ranks."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from launch import cli
from tests import hostile, rounding
from tests.datasets import write_rolls
from tests.places import ROOT, tiny

WIDE = ["train.batch_size=9000", "evaluate.batch_size=9000"]
TINY = str(tiny("vsdn_vae"))


def driftwork(cwd, *arguments, timeout=300, **variables):
    """Run the console script in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store):
    """Provide a working directory with prepared data and a run of four epochs, which was trained without a compiler,
    numactl or any other program, with the lock of a killed build, and among files with names of modules."""
    folder = tmp_path_factory.mktemp("train")
    write_rolls(folder / "rolls")
    empty_store(folder / "runs/mlflow.db")
    hostile.plant(folder)
    lock = folder / "extensions/py311_cpu/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    bare = {"PATH": str(folder / "no-programs"), "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    done = driftwork(folder, "train", TINY, "data=rolls", "out=runs/whole", **bare)
    assert done.returncode == 0, done.stderr
    (folder / "errors.txt").write_text(done.stderr)
    return folder, done.stdout


@pytest.mark.slow
def test_stale_build_lock_is_reported_without_waiting(place):
    """The lock is one that a killed build left."""
    folder, _ = place
    lock = folder / "extensions/py311_cpu/deepspeed_shm_comm/lock"
    said = f"{lock} was left by a process that has ended: loading deepspeed_shm_comm hangs; rm {lock}"
    assert f"driftwork doctor: error    build lock   {said}" in (folder / "errors.txt").read_text().splitlines()


@pytest.fixture
def here(place, monkeypatch, capsys):
    """Run the console script in the folder of `place` and in this process, which has loaded torch already. Returns exit
    code, stdout and stderr."""
    monkeypatch.chdir(place[0])

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["driftwork", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    return call


@pytest.mark.slow
def test_run_folder_contains_all_outputs(place):
    folder, said = place
    run = folder / "runs/whole"
    assert {"best.safetensors", "checkpoints", "config.yaml", "run.json"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "latest", "step-0000012", "step-0000016",
    }  # fmt: skip
    assert "kl" in said
    assert "epoch   4 ends" in said
    assert "evaluate runs/whole" in said


@pytest.mark.slow
def test_resumed_weights_equal_the_uninterrupted(place):
    folder, _ = place
    half = driftwork(folder, "train", TINY, "data=rolls", "out=runs/half", "train.max_epochs=2")
    assert half.returncode == 0, half.stderr
    rest = driftwork(folder, "train", "resume=runs/half", "train.max_epochs=4")
    assert rest.returncode == 0, rest.stderr
    assert "from step 8" in rest.stdout
    whole, resumed = (torch.load(next((folder / f"runs/{name}/checkpoints/step-0000016/state").glob("mp_rank*")),
                                 weights_only=True)["module"] for name in ("whole", "half"))  # fmt: skip
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    best = [load_file(folder / f"runs/{name}/best.safetensors") for name in ("whole", "half")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(place):
    """All processes are killed (kill -9) at a checkpoint inside an epoch; the reference is an uninterrupted run."""
    folder, _ = place
    arguments = ["train", TINY, "data=rolls", "train.batch_size=2", "train.save_every=7", "train.validate_every=1000"]
    arguments += ["tracking.uri=null"]
    command = [sys.executable, "-P", "-m", "launch.cli", *arguments, "out=runs/killed", "train.max_epochs=5000"]
    started = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    latest = folder / "runs/killed/checkpoints/latest"
    deadline = time.monotonic() + 600
    while not latest.exists() or int(latest.read_text().removeprefix("step-")) < 14:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in [*psutil.Process(started.pid).children(recursive=True), psutil.Process(started.pid)]:
        process.kill()
    started.wait()
    step = int(latest.read_text().removeprefix("step-"))
    epochs = step // 15 + 2
    assert step % 15 != 0  # inside an epoch
    rest = driftwork(folder, "train", "resume=runs/killed", f"train.max_epochs={epochs}")
    assert rest.returncode == 0, rest.stderr
    assert f"from step {step}" in rest.stdout
    whole = driftwork(folder, *arguments, "out=runs/unkilled", f"train.max_epochs={epochs}")
    assert whole.returncode == 0, whole.stderr
    best = [load_file(folder / f"runs/{name}/best.safetensors") for name in ("killed", "unkilled")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_save_and_end_with_command(place, number):
    folder, _ = place
    out = f"runs/ended-{number}"
    endless = ["train.max_epochs=50000", "train.patience=50000", "tracking.uri=null"]
    command = [sys.executable, "-P", "-m", "launch.cli", "train", TINY, "data=rolls", f"out={out}", *endless]
    started = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 600
    while not (folder / out / "checkpoints/latest").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ranks = psutil.Process(started.pid).children(recursive=True)
    assert len(ranks) >= 2
    started.send_signal(number)
    assert started.wait(60) == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive
    step = json.loads((folder / out / "run.json").read_text())["interrupted"]
    assert (folder / out / "checkpoints/latest").read_text() == f"step-{step:07d}"


@pytest.mark.slow
def test_run_is_in_the_tracker(place):
    from mlflow.tracking import MlflowClient

    folder, _ = place
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    run = client.get_run(json.loads((folder / "runs/whole/run.json").read_text())["run_id"])
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "rolls"
    assert run.data.params["model.latent"] == "4"
    assert {
        "val/density_25_nll_nats_per_frame",
        "val/density_50_kl_nats_per_frame",
        "train/kl_nats_per_frame",
    } <= set(run.data.metrics)
    assert len(client.get_metric_history(run.info.run_id, "val/density_25_nll_nats_per_frame")) == 4
    assert "weights" in {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_each_sequence_is_scored_once(place, here, tmp_path):
    folder, _ = place
    code, one, _ = here("evaluate", "runs/whole", "split=test", "--json")
    assert code == 0
    two = driftwork(tmp_path, "evaluate", folder / "runs/whole", "split=test", "ranks=2", "--json")  # from elsewhere
    assert two.returncode == 0, two.stderr
    assert not list(tmp_path.iterdir())
    tables = [json.loads(said) for said in (one, two.stdout)]
    assert set(tables[0]) == {"model", "persistence", "nearest"}
    assert tables[0]["persistence"] == tables[1]["persistence"]  # to the last bit
    for who, tasks in tables[0].items():
        for task, rates in tasks.items():
            for rate, metrics in rates.items():
                for metric, found in metrics.items():
                    other = tables[1][who][task][rate][metric]
                    assert (found["n"], found["groups"]) == (other["n"], other["groups"])
                    bound = rounding.SINGLE * abs(other["value"])  # of each sequence, and so of mean and deviation
                    assert found["value"] == pytest.approx(other["value"], abs=bound), (who, task, rate, metric)
                    assert found["stderr"] == pytest.approx(other["stderr"], abs=bound)
    density = tables[0]["model"]["density"]["25"]["nll_nats_per_frame"]
    assert (density["n"], density["groups"]) == (7, 4)
    assert {path.name for path in (folder / "runs/whole/outputs").iterdir()} == {
        "interpolation.png", "interpolation.pdf", "reliability.png", "reliability.pdf", "vsdn_vae.mid", "truth.mid",
        "copied.mid",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in (folder / "runs/whole").rglob("*") if path.is_file()}
    other = json.loads(here("evaluate", "runs/whole", "ratios=[0.2, 0.5]", "samples=3", "--json")[1])
    assert set(other["model"]["interpolation"]) == {"20", "50"}
    assert all(path.read_bytes() == content for path, content in before.items())
    assert {path.name for path in (folder / "runs/whole").rglob("*") if path.is_file() and path not in before} == {
        "evaluation-test-at-20-50-samples-3.json", "evaluation-test-at-20-50-samples-3-sequences.json",
        "evaluation-test-at-20-50-samples-3-calibration.json",
    }  # fmt: skip
    assert other["persistence"]["prediction"]["50"] == tables[0]["persistence"]["prediction"]["50"]
    assert "nearest" in here("compare", "runs/whole", "out=table.md")[1]
    assert "| vsdn_vae |" in (folder / "table.md").read_text()
    shown = here("evaluate", "runs/whole", "split=val")[1]
    assert "interpolation" in shown
    assert "persistence" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", TINY, "data=nowhere"], "nowhere: no manifest.json"),
        (["train", TINY, "data=rolls", "out=runs/whole"], "out=runs/whole contains a run already"),
        (["train", TINY, "data=rolls", "ranks=0"], "ranks=0: input should be greater than or equal to 1"),
        (
            ["train", TINY, "data=rolls", "observe.train.ratios=[1.5]"],
            "observe.train.ratios=1.5 (item 1): input should be less than or equal to 1",
        ),
        (["train", TINY, "data=rolls", "out=/proc/run"], "out=/proc/run: cannot be written"),
        (["train", "configs/none.yaml"], "configs/none.yaml: no such config file"),
        (["train", "resume=runs/none"], "runs/none: no run folder"),
        (["train", "resume=runs/whole", "model.hidden=9"], "resume=runs/whole: model cannot change in a run"),
        (["train", "resume=runs/whole", "out=x"], "resume=runs/whole: out cannot change in a run; remove it"),
        (["train", "resume=runs/whole", "data=other"], "is not the data set that runs/whole was trained on"),
        (["train", TINY, "data=rolls", "ranks=9", "train.batch_size=8"], "batch_size must be at least ranks=9"),
        (["train", TINY, "data=rolls", "ranks=9000", *WIDE], "ranks=9000: this machine has"),
        (["evaluate", "runs/whole", "ranks=100000"], "ranks=100000: this machine has"),
        (["evaluate", "runs/none"], "runs/none: no run folder"),
        (["evaluate", "runs/whole", "split=tset"], "split=tset: input should be 'train', 'val' or 'test'"),
        (["evaluate", "runs/whole", "data=other"], "is not the data set that runs/whole was trained on"),
        (["evaluate", "runs/whole", "ratios=[0.3]"], "evaluate: ratio 0.3 is not 1/n"),
        (["evaluate", "runs/whole", "ratios=[]"], "ratios=[]: tuple should have at least 1 item"),
        (["evaluate", "runs/whole", "samples=0"], "samples=0: input should be greater than or equal to 1"),
        (
            ["evaluate", "runs/whole", "particles=8"],
            "particles=8 has no effect on vsdn_vae, which has no filter; remove",
        ),
        (["compare", "runs/whole", "runs/none"], "runs/none: no run folder"),
        (["train", TINY, "data=damaged"], "train-000001.tar"),
        (["train", TINY, "data=rolls", "tracking.uri=http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer: "),
        (["trian"], "no command 'trian'; choose one of demo, doctor, fetch, prepare"),
    ],
)
def test_mistake_is_one_line_without_files(place, here, arguments, said):
    folder, _ = place
    if not (folder / "damaged").exists():
        write_rolls(folder / "other", seed=1)
        write_rolls(folder / "damaged", seed=2)
        shard = folder / "damaged/train-000001.tar"
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    before = sorted(folder.rglob("*"))
    code, out, err = here(*arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err + out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_separate_process_prints_the_line_too(place):
    for arguments in (["train", TINY, "data=nowhere"], ["evaluate", "runs/whole", "samples=0"]):
        done = driftwork(place[0], *arguments, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"driftwork {arguments[0]}: ")
        assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_working_folder_files_are_not_executed(place):
    """All tests of this file, with their ranks, run in a folder with such files."""
    assert hostile.executed(place[0]) == []


@pytest.mark.process
@pytest.mark.parametrize("module", ["cli", "train", "doctor", "sweep", "tracker.ui"])
def test_module_form_ignores_the_working_folder(tmp_path, module):
    """The form is `python -m launch.x`. A `launch.py` there cannot be avoided: Python executes it instead of our
    package."""
    hostile.plant(tmp_path, without=["launch"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"launch.{module}", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: driftwork ")
    assert hostile.executed(tmp_path) == []
