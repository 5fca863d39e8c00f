"""The moving average of the weights, on a module without an engine; test_resume.py tests it in whole runs."""

import torch

from launch.training.average import WeightAverage


def drifting(steps, decay):
    """Return a weight that is 0, 1, 2, ... at its updates, and the closed form of the average after each."""
    module = torch.nn.Linear(1, 1, bias=False).double()
    module.weight.data.zero_()
    average, expected, found = WeightAverage(module, decay), 0.0, []
    for n in range(1, steps + 1):
        module.weight.data.fill_(n)
        average.update()
        keep = min(decay, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * n
        found.append((float(average.mean[0]), expected))
    return module, average, found


def test_average_follows_its_recursion():
    _, _, found = drifting(50, 0.8)
    for mean, expected in found:
        assert abs(mean - expected) < 1e-12 * 50


def test_average_lags_by_its_time_constant():
    """For w_n = n the average tends to n - k / (1 - k)."""
    _, average, _ = drifting(400, 0.8)
    assert abs(float(average.mean[0]) - (400 - 0.8 / 0.2)) < 1e-9


def test_weights_are_restored_bit_for_bit():
    module, average, _ = drifting(5, 0.8)
    before = module.weight.detach().clone()
    with average.in_place():
        assert torch.equal(module.weight, average.mean[0])
    assert torch.equal(module.weight, before)


def test_restored_average_continues_equally():
    _, whole, _ = drifting(9, 0.8)
    module, part, _ = drifting(6, 0.8)
    state = {"updates": part.updates, "mean": [x.clone() for x in part.state()["mean"]]}
    again = WeightAverage(module, 0.8)
    again.load(state)
    for n in (7, 8, 9):
        module.weight.data.fill_(n)
        again.update()
    assert torch.equal(again.mean[0], whole.mean[0])
    assert again.updates == 9
