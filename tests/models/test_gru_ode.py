import itertools
import math

import torch
from torchdiffeq import odeint

from models.gru_ode import Events, GruOde
from models.parts.likelihoods import Marginal
from tests.models.conftest import D, make_batch

MARGINAL = Marginal(torch.zeros(D), 1.0)
ROUNDING = 51 * 30 * torch.finfo(torch.float64).eps
"""Bound on the rounding error of a state within [-1, 1] after 17 intervals of up to three steps, with 30 roundings per
step and update; the flow hardly amplifies the difference of two states."""


def gru_ode(passes=1, max_step=0.2, time_unit=1.0):
    torch.manual_seed(0)
    return GruOde(MARGINAL, 6, passes, max_step, time_unit).double()


def fine_state(net, batch, b, until):
    """Return the state just before time `until` of sequence b, by torchdiffeq's dopri5 and torch's own GRU cell."""
    cell = torch.nn.GRUCell(D, 6).double()
    H = 6
    cell.weight_ih.data, cell.bias_ih.data = net.project[1].weight.data, net.project[1].bias.data
    cell.weight_hh.data, cell.bias_hh.data = net.update.data[0], net.update_bias.data[0, 0]

    def flow(t, h):
        z, r = torch.sigmoid(h @ net.flow_gates[0].T + net.flow_gates_bias[0, 0]).split(H)
        g = torch.tanh((r * h) @ net.flow_candidate[0].T + net.flow_candidate_bias[0, 0])
        return (1 - z) * (g - h)

    h, now = torch.zeros(H, dtype=torch.float64), 0.0
    for n in range(batch.times.shape[1]):
        t = float(batch.times[b, n])
        if (batch.observed[b, n] and t < until) or math.isclose(t, until):
            if t > now:
                h = odeint(flow, h, torch.tensor([now, t], dtype=torch.float64), rtol=1e-10, atol=1e-12)[-1]
            if t < until:
                h = cell(batch.values[b, n][None], h[None])[0]
            now = t
    return h


def test_flow_and_update_have_order_one():
    batch = make_batch(irregular=True)
    until = float(batch.times[0, -1])
    errors = []
    with torch.no_grad():
        for max_step in (0.2, 0.1, 0.05, 0.025):
            net = gru_ode(max_step=max_step)
            state = net(batch, Events.of(batch)).at(0, batch, after=False)[0, -1]
            errors.append(float((state - fine_state(net, batch, 0, until)).abs().max()))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert errors[-1] < 2e-3
    assert all(0.8 < order < 1.2 for order in orders), (errors, orders)


def test_time_unit_only_rescales_time():
    batch = make_batch()
    slow = batch._replace(times=batch.times * 10)
    a = gru_ode(max_step=0.2)(batch, Events.of(batch)).before
    b = gru_ode(max_step=2.0, time_unit=10.0)(slow, Events.of(slow)).before
    torch.testing.assert_close(a, b, rtol=0, atol=ROUNDING)


def test_backward_pass_mirrors_forward_pass():
    batch = make_batch(B=1, irregular=True)
    net = gru_ode(passes=2)
    mirrored = batch._replace(
        times=(batch.times[:, -1:] - batch.times).flip(1), values=batch.values.flip(1), observed=batch.observed.flip(1)
    )
    for parameter in (net.flow_gates, net.flow_candidate, net.update, net.update_bias):
        parameter.data[0] = parameter.data[1]  # equal weights in both directions
    for parameter in (net.flow_gates_bias, net.flow_candidate_bias):
        parameter.data[0] = parameter.data[1]
    net.project[1].weight.data[:18], net.project[1].bias.data[:18] = (
        net.project[1].weight.data[18:], net.project[1].bias.data[18:],
    )  # fmt: skip
    backward = net(batch, Events.of(batch)).at(1, batch, after=True)
    forward = net(mirrored, Events.of(mirrored)).at(0, mirrored, after=True)
    torch.testing.assert_close(backward, forward.flip(1), rtol=0, atol=ROUNDING)


def test_state_does_not_depend_on_batch():
    batch = make_batch(irregular=True)
    net = gru_ode(passes=2)
    together = net(batch, Events.of(batch))
    for b in range(3):
        n = int(batch.present[b].sum())
        alone = batch.rows(slice(b, b + 1)).first(n)
        states = net(alone, Events.of(alone))
        for direction in (0, 1):
            torch.testing.assert_close(
                states.at(direction, alone, after=True)[0], together.at(direction, batch, after=True)[b, :n],
                rtol=0, atol=ROUNDING,
            )  # fmt: skip


def test_requested_times_change_no_state():
    batch = make_batch()
    net = gru_ode(passes=2)
    trajectory = net(batch, Events.of(batch))
    events = Events.of(batch)
    for direction in (0, 1):
        before, after = trajectory.at_events(direction)
        for state, flag in ((before, False), (after, True)):
            everywhere = trajectory.at(direction, batch, after=flag)
            picked = everywhere.gather(1, events.frame[..., None].expand(-1, -1, 6))
            assert torch.equal(picked[events.valid], state[events.valid])
