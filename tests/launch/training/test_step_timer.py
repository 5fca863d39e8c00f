"""Seconds of phases, by a simulated clock."""

import time

import pytest
import torch

from launch.training.step_timer import StepTimer


@pytest.fixture
def turn(monkeypatch):
    """A clock that a test advances."""
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
