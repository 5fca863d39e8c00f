import torch

from models.solvers import timegrid

CLOCK = torch.tensor([[0.0, 0.3, 1.0, 0.0], [0.05, 0.1, 0.9, 1.7]], dtype=torch.float64)
VALID = torch.tensor([[True, True, True, False], [True] * 4])
HORIZON = torch.tensor([1.2, 1.7], dtype=torch.float64)


def test_grid_contains_every_event_and_horizon():
    """No step is longer than the maximum."""
    grid = timegrid.build(CLOCK, VALID, HORIZON, 0.25)
    for b in range(2):
        for k in range(int(VALID[b].sum())):
            assert grid.end[b, grid.stop[b, k]] == CLOCK[b, k]  # exactly: no accumulated time
            assert grid.event[b, grid.stop[b, k]] == k
        assert (grid.event[b] < 4).sum() == VALID[b].sum()
        assert grid.end[b, -1] == HORIZON[b]
        torch.testing.assert_close(grid.dt[b].cumsum(0), grid.end[b], rtol=0, atol=1e-12)
    assert grid.dt.max() <= 0.25 * (1 + 1e-3)


def test_later_event_leaves_earlier_grid_points():
    grid = timegrid.build(CLOCK, VALID, HORIZON, 0.25)
    moved = timegrid.build(CLOCK + torch.tensor([[0, 0, 0.13, 0], [0, 0, 0.2, 0]]), VALID, HORIZON, 0.25)
    for b in range(2):
        common = int(grid.stop[b, 1]) + 3  # two whole steps into the interval whose end has moved
        assert torch.equal(grid.end[b, :common], moved.end[b, :common])


def test_decimal_seconds_give_exact_step_counts():
    times = torch.arange(1, 51, dtype=torch.float64)[None] * 0.1
    grid = timegrid.build(times, torch.ones(1, 50, dtype=torch.bool), times[:, -1], 0.1)
    assert grid.dt.shape == (1, 50)


def test_time_between_points_has_its_fraction():
    grid = timegrid.build(CLOCK, VALID, HORIZON, 0.25)
    asked = torch.tensor([[0.0, 0.1, 0.3, 1.1], [0.0, 0.05, 0.6, 1.7]], dtype=torch.float64)
    step, fraction = timegrid.locate(grid, asked)
    start = grid.end.gather(1, step) - grid.dt.gather(1, step)
    torch.testing.assert_close(start + fraction * grid.dt.gather(1, step), asked, rtol=0, atol=1e-12)
    assert fraction[0, 2] == 1  # an event is the end of its step, the state before it takes effect
    assert step[0, 2] == grid.stop[0, 1]


def test_refined_grid_contains_the_coarse_one():
    clock = torch.tensor([[0.0, 0.3, 1.0], [0.2, 0.0, 0.0]], dtype=torch.float64)
    grid = timegrid.build(clock, torch.tensor([[1, 1, 1], [1, 0, 0]]).bool(), torch.tensor([1.4, 1.4]).double(), 0.4)
    fine = timegrid.refine(grid, 3)
    assert torch.equal(fine.end[:, 2::3], grid.end)
    torch.testing.assert_close(fine.dt.view(2, -1, 3).sum(-1), grid.dt, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(fine.end[:, 1:] - fine.end[:, :-1], fine.dt[:, 1:], rtol=1e-12, atol=1e-12)
    assert torch.equal(fine.event.gather(1, fine.stop)[0], torch.arange(3))
    assert torch.equal((fine.event < 3).sum(1), torch.tensor([3, 1]))
    step, fraction = timegrid.locate(fine, clock)
    assert torch.equal(step[0, 1:], fine.stop[0, 1:])  # event 0 ends the first of three steps of no length
    assert torch.equal(fraction[0], torch.ones(3).double())
