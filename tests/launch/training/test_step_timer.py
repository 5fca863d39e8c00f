"""Seconds of phases by a simulated clock, traces of steps, and the error when the memory runs out."""

import gzip
import json
import time

import pytest
import torch

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.training.profile import StepProfile, shortage_explained
from launch.training.step_timer import StepTimer
from tests.places import tiny


@pytest.fixture
def turn(monkeypatch):
    """Provide a clock that a test advances."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passing(seconds):
        now[0] += seconds

    return passing


def test_inner_phase_interrupts_the_outer(turn):
    clock = StepTimer(torch.device("cpu"))
    reduce = clock.timed("communication", turn)
    for _ in range(2):
        turn(100)
        with clock("forward"):
            turn(1)
        with clock("backward"):
            turn(2)
            reduce(4)
            turn(8)
    assert clock.seconds() == {"forward": 2, "backward": 20, "communication": 8}
    assert clock.seconds() == {}


def test_exception_ends_the_phase(turn):
    clock = StepTimer(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError):
        clock.timed("forward", lambda: turn(1) or 1 / 0)()
    turn(10)
    with clock("backward"):
        turn(2)
    assert clock.seconds() == {"forward": 1, "backward": 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_time_is_that_of_the_stream():
    device = torch.device("cuda")
    clock, x = StepTimer(device), torch.randn(4096, 4096, device=device)
    for _ in range(3):
        with clock("forward"):
            for _ in range(20):
                x = torch.nn.functional.normalize(x @ x)
    torch.cuda.synchronize()
    began = time.perf_counter()
    with clock("again"):
        for _ in range(60):
            x = torch.nn.functional.normalize(x @ x)
    launched = time.perf_counter() - began
    torch.cuda.synchronize()
    waited = time.perf_counter() - began
    seconds = clock.seconds()
    assert launched < waited / 2  # the measurement does not wait
    assert abs(seconds["again"] - waited) < 0.1 * waited


def names(file):
    return [event.get("name") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]]


@pytest.mark.parametrize(("steps", "first", "last", "count"), [(range(2, 4), 0, 6, 2), (range(2, 9), 5, 7, 2)])
def test_trace_has_the_requested_steps(tmp_path, steps, first, last, count):
    """A run that resumes inside the range records the rest of it, and a run that ends inside it records the steps until
    then."""
    done = []
    profile = StepProfile(steps, tmp_path / "profile", done.append)
    for step in range(first, last):
        profile.at(step)
        torch.ones(3).cumsum(0)
    profile.close(last)
    (file,) = done
    assert file.name == f"steps-{max(first, 2)}-{min(last, steps.stop)}.json.gz"
    assert names(file).count("aten::cumsum") == count


def test_no_trace_by_default(tmp_path):
    profile = StepProfile(range(0), tmp_path / "profile", pytest.fail)
    for step in range(3):
        profile.at(step)
    profile.close(3)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("wrong", ["3", "4:4", "5:2", "a:b", "-1:3", "1:2:3"])
def test_wrong_range_is_refused(wrong):
    with pytest.raises(DriftworkError, match="must be START:STOP"):
        load(RunConfig, tiny("vsdn_vae"), ["data=x", f"train.profile={wrong}"])


@pytest.mark.parametrize("snapshot", [True, False])
def test_shortage_of_memory_names_the_cure(tmp_path, monkeypatch, snapshot):
    """The snapshot itself may fail for lack of memory."""

    def dump(file):
        if not snapshot:
            raise RuntimeError("out of memory")
        (tmp_path / file).write_bytes(b"snapshot")

    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    config = load(RunConfig, tiny("vsdn_vae"), ["data=x", "train.accumulate=2"])
    with pytest.raises(DriftworkError) as told, shortage_explained(config, tmp_path, alone(), lambda: 7):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")
    file = tmp_path / "memory-rank-0.pickle"
    assert str(told.value) == (
        "rank 0 ran out of GPU memory in step 7: CUDA out of memory. Tried to allocate 2 GiB; give train.accumulate=4 "
        "(now 2), which halves the memory that a step keeps, or start a new run with a smaller train.batch_size (now 8)"
        + (f"; what was allocated: {file}" if snapshot else "")
    )
    assert file.exists() == snapshot
