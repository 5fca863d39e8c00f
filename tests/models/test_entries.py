"""Values and gaps around each time where each channel is observed at different times, against masks of frames."""

import pytest
import torch

from launch.scoring.baselines import nearest, straight
from models.batch import Batch, Between, last_observed, next_observed, time_since, time_until

B, T, D = 4, 13, 3
READERS = [
    last_observed, lambda x: next_observed(x, own=True), lambda x: next_observed(x, own=False), straight, nearest,
    lambda x: time_since(x, 0.5).expand_as(x.values), lambda x: time_until(x, 0.5, own=True).expand_as(x.values),
    lambda x: time_until(x, 0.5, own=False).expand_as(x.values), lambda x: Between.of(x, own=False).line,
]  # fmt: skip


def batch():
    g = torch.Generator().manual_seed(2)
    times = torch.rand(B, T, generator=g, dtype=torch.float64).cumsum(1)
    present = torch.rand(B, T, D, generator=g) < 0.8
    rates = torch.tensor([0.0, 0.4, 0.8])  # channel 0 is never observed
    observed = present & (torch.rand(B, T, D, generator=g) < rates)
    values = torch.where(present, torch.randn(B, T, D, generator=g), 0)
    return Batch(times - times[:, :1], values, present, observed, torch.ones(B), torch.arange(B), tuple("abcd"))


def of_channel(x, d):
    """Return channel d as a separate data set, with masks of frames."""
    return x._replace(values=x.values[..., d : d + 1], present=x.present[..., d], observed=x.observed[..., d])


@pytest.mark.parametrize("read", READERS)
def test_each_channel_has_its_own_neighbours(read):
    x = batch()
    assert x.entries
    for d in range(D):
        torch.testing.assert_close(read(x)[..., d : d + 1], read(of_channel(x, d)), rtol=0, atol=0)


@pytest.mark.parametrize("read", READERS)
def test_entries_observed_together_are_frames(read):
    x = of_channel(batch(), 2)._replace(values=batch().values)
    together = x._replace(present=x.entries_present, observed=x.entries_observed)
    assert together.entries
    torch.testing.assert_close(read(together), read(x), rtol=0, atol=0)
    assert torch.equal(together.frames_observed, x.observed)
    assert torch.equal(together.frames_present, x.present)
