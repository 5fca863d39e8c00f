"""Runs that are killed, stopped, moved to another world size or short of disk space, against undisturbed runs."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from driftwork.errors import DriftworkError
from launch.runs.weights import BEST
from launch.training import checkpoint, file_list, watchdog
from tests import rounding
from tests.datasets import write_rolls
from tests.places import ROOT

STAGES = (0, 1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Provide the run folders of tests.launch.training.survivor, by name."""
    out = tmp_path_factory.mktemp("resume")
    write_rolls(out / "rolls")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    environment["TORCH_FR_BUFFER_SIZE"] = "100"  # as the launcher sets it
    command = [sys.executable, "-m", "tests.launch.training.survivor", str(out / "rolls"), str(out)]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def said(folder):
    return (folder / "log.txt").read_text()


def metrics(folder, again=False):
    """Return the metrics of each step at the tracker, except times and memory. A point that was sent twice, as a
    checkpoint sends the points that it covers, is the same to the last bit, including the time of day, unless steps
    were taken `again`.
    """
    records = {}
    for line in dict.fromkeys((folder / "metrics.jsonl").read_text().splitlines()):
        record = json.loads(line)
        kept = {key: x for key, x in record.items() if not key.startswith(("time/", "memory/")) and key != "at_ms"}
        step = records.setdefault(kept.pop("step"), {})
        assert again or not step.keys() & kept.keys(), record["step"]
        step.update(kept)
    return records


def weights(folder):
    return load_file(folder / BEST)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_run_killed_three_times_ends_equally(runs, stage):
    whole, killed = runs / f"whole-{stage}", runs / f"killed-{stage}"
    assert "exit code 0" in said(killed)
    for n, cause in enumerate(("rank 0 was lost, last", "rank 1 was lost, last", "SIGKILL"), 1):
        (line,) = [line for line in said(killed).splitlines() if f"restart {n} of 3" in line]
        assert line.startswith("driftwork train: the job died with ")
        assert cause in line
    assert metrics(killed) == metrics(whole)
    assert (killed / BEST).read_bytes() == (whole / BEST).read_bytes()
    assert not list((killed / "checkpoints").glob("*.incomplete"))
    files = [json.loads((run / "checkpoints/step-0000016/files.json").read_text()) for run in (whole, killed)]
    assert files[0].keys() == files[1].keys()
    assert len(list((killed / "checkpoints").glob("step-*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_saved_run_resumes_with_another_world_size(runs, stage):
    """A run that is requested to stop saves first."""
    whole, moved = runs / f"whole-{stage}", runs / f"moved-{stage}"
    assert [line for line in said(moved).splitlines() if line.startswith("exit code")] == [
        "exit code 75", "exit code 75", "exit code 0",
    ]  # fmt: skip
    assert "stop requested: saved at step 6" in said(moved)
    assert "parameters, from step 6" in said(moved)
    assert "parameters, from step 12" in said(moved)
    assert json.loads((moved / "run.json").read_text())["interrupted"] is None
    for name, x in weights(whole).items():
        torch.testing.assert_close(weights(moved)[name], x, rtol=0, atol=rounding.ADAM, msg=name)
    found, expected = metrics(moved), metrics(whole)
    assert found.keys() == expected.keys()
    for step, record in expected.items():
        assert found[step] == pytest.approx(record, rel=rounding.ADAM, abs=rounding.ADAM), step


@pytest.mark.slow
def test_best_score_weighs_the_kl_as_training_does(runs):
    """The score is the mean over both rates of the tracked NLL with beta = 1 and its KL; the best is the lowest so
    far."""
    best, validations = float("inf"), 0
    for record in metrics(runs / "whole-0").values():
        names = [name for name in record if name.startswith("val/") and "_nll_nats" in name]
        if names:
            scores = [record[name] - 0.5 * record[name.replace("_nll_", "_kl_")] for name in names]
            assert len(scores) == 2
            best, validations = min(best, sum(scores) / 2), validations + 1
            assert record["val/best_score"] == pytest.approx(best, rel=1e-12)
    assert validations == 4


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_nonfinite_step_is_reported_with_rank(runs, stage):
    whole = runs / f"whole-{stage}"
    (line,) = (whole / "nonfinite.jsonl").read_text().splitlines()
    report = json.loads(line)
    assert (report["step"], report["rank"], report["where"]) == (13, 1, "loss")
    assert len(report["keys"]) == len(report["loss"]) == len(report["log_likelihood"])
    assert set(report["loss"]) == {"nan"}
    assert "step 13 is skipped: loss of rank 1 not finite, see nonfinite.jsonl" in said(whole)
    progress = json.loads((whole / "checkpoints/step-0000016/training.json").read_text())["progress"]
    assert (progress["step"], progress["skipped"], progress["skipped_in_a_row"]) == (16, 1, 0)
    assert all(x.isfinite().all() for x in weights(whole).values())


@pytest.mark.slow
def test_stopped_rank_is_named_and_ends_job(runs):
    assert "rank 1 is stopped or lost, last seen in step " in said(runs / "hung")
    assert f"exit code {watchdog.HUNG}" in said(runs / "hung")
    assert "no restart left" in said(runs / "hung")
    assert "all_agree" in (runs / "hung/ranks/0.stacks").read_text()
    waiting = r"all_?reduce \d+ of 2 numbers \(not ended\); all: .*/ranks/0\.collectives\.json"
    assert re.search(waiting, said(runs / "hung"))


@pytest.mark.slow
def test_full_disk_keeps_earlier_checkpoints(runs):
    """A disk that is full on one rank is reported in one line."""
    full = runs / "full"
    assert (
        said(full).count("checkpoints/step-0000006.incomplete: cannot be written: File too large (rank 1); free space")
        == 1
    )
    assert "exit code 2" in said(full)
    assert "restart" not in said(full)
    left = [path for path in (full / "checkpoints").iterdir() if path.is_dir()]
    assert {path.name for path in left} == {"step-0000003", "step-0000004"}
    assert not any(map(file_list.damage, left))


@pytest.mark.slow
def test_damaged_checkpoint_falls_back_to_earlier(runs):
    """The damage is reported, and training ends in the same weights."""
    damaged, twin = runs / "damaged", runs / "whole-1"
    assert "step-0000016 is damaged and not used: state/zero_pp_rank_1" in said(damaged)
    assert "parameters, from step 15" in said(damaged)
    assert (damaged / BEST).read_bytes() == (twin / BEST).read_bytes()
    assert metrics(damaged, again=True)[16] == metrics(twin)[16]


def committed(root, step, **about):
    folder = root / f"checkpoints/step-{step:07d}"
    (folder / "state").mkdir(parents=True)
    (folder / "state/weights").write_bytes(bytes(range(step)))
    (folder / "training.json").write_text(json.dumps({"ranks": 2, "zero_stage": 1, **about}))
    names = ("state/weights", "training.json")
    file_list.write(folder, {name: checkpoint.sha256(folder / name) for name in names})
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["state/weights", "training.json", "files.json"])
def test_any_changed_byte_is_found(tmp_path, capsys, name):
    before, last = committed(tmp_path, 3), committed(tmp_path, 6)
    assert checkpoint.ready(tmp_path, 2) == last
    flip(last / name)
    assert checkpoint.ready(tmp_path, 2) == before
    assert "step-0000006 is damaged and not used" in capsys.readouterr().out
    (before / name).unlink()
    with pytest.raises(DriftworkError, match="no checkpoint is intact"):
        checkpoint.ready(tmp_path, 2)


def test_interrupted_save_is_cleaned_up(tmp_path):
    """A run without any finished checkpoint starts from the beginning."""
    assert checkpoint.ready(tmp_path, 2) is None
    (tmp_path / "checkpoints/step-0000009.incomplete/state").mkdir(parents=True)
    assert checkpoint.ready(tmp_path, 2) is None
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_new_world_size_depends_on_stage(tmp_path):
    """Stage 0 needs no conversion, and stage 3 refuses another world size."""
    folder = committed(tmp_path, 3, zero_stage=0)
    assert checkpoint.ready(tmp_path, 1) == folder
    committed(tmp_path, 4, zero_stage=3)
    with pytest.raises(DriftworkError, match="saved by 2 ranks at optim"):
        checkpoint.ready(tmp_path, 1)
