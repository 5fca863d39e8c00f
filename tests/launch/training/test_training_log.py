"""Records of a run's steps."""

import json
from functools import partial

import torch

from benchmarks import ranks
from launch.runs.distributed import alone
from launch.training import rank
from launch.training.engine import Step
from launch.training.progress import Progress
from launch.training.training_log import TrainingLog, Work
from models.base import Objective, Terms
from models.batch import Batch
from models.solvers.gpu import first_use


class Kept:
    def __init__(self):
        self.records, self.sent = [], {}

    def metrics(self, values, step, at_ms=None):
        self.records.append(values)

    def tags(self, tags):
        self.sent |= tags


class Clock:
    def seconds(self):
        return {"backward": 1.5, "forward": 0.5}


def record(evaluations, latent=True, work=None):
    """Log ten steps of two sequences, each with this number of evaluations by the solver."""
    x, time = torch.tensor([-6.0, -2.0]), torch.zeros(2, 4)
    batch = Batch(time, time[..., None], time > -1, time > -1, torch.ones(2) / 2, torch.arange(2), ("a", "b"))
    kept, progress = Kept(), Progress()
    log = TrainingLog(kept, alone(), Clock(), latent=latent, work=work)
    for progress.step in range(1, 11):
        objective = Objective(-x, Terms(x, torch.ones(2), torch.full((2,), 4)), evaluations(progress.step))
        log.step(progress, batch, Step(objective, True, 3.0), 1.0, 0.1, data_seconds=0.1, step_seconds=0.3)
    (found,) = kept.records
    return found


def test_record_is_the_mean_over_steps(capsys):
    found = record(lambda step: 10 * step)
    assert found["train/nll_nats_per_frame"] == (6 + 2 + 2) / 8
    assert found["train/kl_nats_per_frame"] == 2 / 8
    assert found["train/grad_norm"] == 3.0
    assert found["train/learning_rate"] == 0.1
    assert found["train/solver_evaluations_per_step"] == 55.0
    assert abs(found["time/sequences_per_second"] - 5.0) < 1e-9
    assert [found[f"time/{phase}_s"] for phase in ("forward", "backward", "communication")] == [0.05, 0.15, 0.0]
    assert abs(found["time/data_s"] - 0.1) < 1e-9
    assert abs(found["time/step_s"] - 0.4) < 1e-9
    line = capsys.readouterr().out
    assert "data 100  forward 50  backward 150  communication 0  update 0 ms/step" in line
    assert "step     10" in line
    assert abs(found["time/frames_per_second"] - 20.0) < 1e-9
    assert "  5 seq/s  20 frames/s  " in line
    assert ranks.LINE.findall(line) == [("5", "100", "50", "150", "0", "0")]
    assert 0.05 < found["memory/peak_gib"] < 64


def test_share_of_the_matrix_rate(capsys):
    """20 frames per second of 3e9 operations each are 30 % of 2e11."""
    found = record(lambda step: None, work=Work(3e9, 2e11))
    assert abs(found["time/matrix_rate_percent"] - 30.0) < 1e-6
    assert "30.0 % of the matrix rate" in capsys.readouterr().out
    assert "time/matrix_rate_percent" not in record(lambda step: None)


def test_record_of_an_earlier_version_is_restored():
    """A record of an earlier version has no number of frames."""
    kept = Kept()
    log = TrainingLog(kept, alone(), Clock(), latent=True)
    state = log.state()
    log.restore([{**state, "sums": [1.0, 2.0, 3.0, 4.0]}])
    assert log.state() == {**state, "sums": [1.0, 2.0, 3.0, 4.0, 0.0]}


def test_model_without_solver_logs_no_evaluations():
    assert "train/solver_evaluations_per_step" not in record(lambda step: None)


def test_interrupted_record_is_equal_bit_for_bit():
    x, time = torch.tensor([-6.1, -2.3]), torch.zeros(2, 4)
    batch = Batch(time, time[..., None], time > -1, time > -1, torch.ones(2) / 2, torch.arange(2), ("a", "b"))
    found = []
    for interrupted in (False, True):
        kept, progress = Kept(), Progress()
        log = TrainingLog(kept, alone(), Clock(), latent=True)
        for progress.step in range(1, 11):
            objective = Objective(-x, Terms(x * progress.step / 7, torch.ones(2), torch.full((2,), 4)))
            log.step(progress, batch, Step(objective, progress.step != 3, 3.1), 1.0, 1e-3, 0.1, 0.3)
            if interrupted and progress.step == 6:
                states = json.loads(json.dumps([log.state()]))
                log = TrainingLog(kept, alone(), Clock(), latent=True)
                log.restore(states)
        found += kept.records
    assert found[0] == found[1]
    assert found[0]["train/skipped_steps"] == 1


def test_model_without_latent_has_no_kl(capsys):
    assert not {name for name in record(lambda step: None, latent=False) if "kl" in name or "reconstruction" in name}
    said = capsys.readouterr().out
    assert "kl" not in said
    assert "beta" not in said


def test_turned_off_form_is_logged_and_tagged(monkeypatch, capsys):
    monkeypatch.setattr(first_use, "_found", {})
    monkeypatch.setattr(first_use, "_report", None)
    kept = Kept()
    log = TrainingLog(kept, alone(), Clock(), latent=True)
    first_use.report_to(partial(rank._turned_off, log, kept))

    def does_not_compile(inputs):
        raise RuntimeError("no kernel image is available")

    assert not first_use.trusted("fused flow", 0, does_not_compile, does_not_compile, [])
    problem = "RuntimeError: no kernel image is available"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"fused flow is turned off, and a slower form is used: {problem}")
    assert kept.sent == {"driftwork.turned_off.fused_flow": problem}
