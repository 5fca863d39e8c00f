"""VSDN-SDE against closed forms of its path, and its invariances."""

import itertools

import pytest
import torch

from models import vsdn_sde
from models.batch import Batch
from models.gru_ode import Events
from models.parts.noise import keyed_normal
from models.vsdn import without_held_out
from tests.models import problems
from tests.models.conftest import CONFIGS, make_batch, small
from tests.models.linear_gaussian import R, make_model
from tests.models.problems import LINEAR, normal


def repeat(batch, n):
    """Return n copies of a batch of one sequence, each with its own noise."""
    copies = [x.expand(n, *x.shape[1:]).contiguous() for x in batch[:5]]
    return Batch(*copies, torch.arange(n) + 1000, batch.keys * n)


def test_held_out_sequences_train_every_second_frame():
    """Every second frame of a held-out sequence is a target that no network reads. Other sequences keep their ELBO, and
    all keep their KL."""
    model, batch = make_model(channels=5, held_out_fraction=0.3), make_batch(B=1)
    rows = 400
    batch = Batch(
        *(x.expand(rows, *x.shape[1:]).contiguous() for x in batch[:5]), torch.arange(rows), batch.keys * rows
    )
    kept = without_held_out(batch, model.config.held_out_fraction).observed
    part = (kept != batch.observed).any(1)
    assert float(part.double().mean()) == pytest.approx(0.3, abs=0.07)
    observed = batch.observed[0].nonzero()[:, 0]
    halves = {tuple(row[observed].tolist()) for row in kept[part]}
    even = tuple(n % 2 == 0 for n in range(len(observed)))
    assert halves == {even, tuple(not x for x in even)}

    with torch.no_grad():
        loss = model(batch, 0.7).loss
        model.config, config = model.config.model_copy(update={"held_out_fraction": 0.0}), model.config
        assert torch.equal(loss[~part], model(batch, 0.7).loss[~part])
        model.config = config
        events = Events.of(batch)
        latent = model._latent(batch._replace(observed=kept), model.posterior, 1)
        h, past = events.take(latent.h), events.take(latent.past)
        each = model.decoder.log_prob(torch.cat([events.take(latent.x[0]), h], -1), past, events.values)
        held_out = ~kept.gather(1, events.frame)
        mean = torch.where(held_out, each, 0.0).sum(1) / held_out.sum(1)
        expected = 0.7 * latent.kl[0] - len(observed) * mean
        torch.testing.assert_close(loss[part], expected[part], rtol=1e-12, atol=1e-12)


def test_model_kl_matches_two_ou_processes():
    """The KL is that of the whole model, observations included; its networks are linear and read no recurrent state."""
    rates, levels, x0, T, P = (1.2, 0.5), (-0.4, 1.0), 1.5, 2.0, 4000
    model = make_model(latent=1, width=1, bound=LINEAR, max_step=0.02, hidden=2)
    weights = problems.linear_networks(rates, levels)
    drifts = model.drifts
    with torch.no_grad():
        for read in (drifts.read_past, drifts.read_all):
            read.weight.zero_()
            read.bias.copy_(problems.linear_pre(1, 1, 1)[0, 0, 0])
        drifts.state.copy_(weights.A)
        drifts.prior.copy_(weights.V[0])
        drifts.prior_bias.copy_(weights.c[0, 0])
        drifts.posterior.copy_(weights.V[1, :1])
        drifts.posterior_bias.copy_(weights.c[1, 0, :1])
        model.x0.fill_(x0)
        times = torch.tensor([[0.0, 0.37, 0.9, 1.41, T]], dtype=torch.float64)
        observed = torch.ones(1, 5, dtype=torch.bool)
        batch = Batch(times, normal(1, 5, 3), observed, observed, torch.ones(1), torch.arange(1), ("a",))
        kl = model.density(repeat(batch, P), 1)[0].kl
    exact = problems.ou_path_kl(T, x0, R, *zip(rates[::-1], levels[::-1], strict=True))
    error = 4 * float(kl.std()) / P**0.5
    assert error < 0.05 * exact
    assert float(kl.mean()) == pytest.approx(exact, abs=error + 0.02 * exact)  # the step's bias


def test_path_within_step_is_brownian_bridge():
    """With network outputs 0, X at a fraction theta of a step has variance (1 - theta dt)^2 v + theta dt R^2."""
    P, dt = 20_000, 0.5
    model = make_model(max_step=dt, hidden=2)
    times = (torch.arange(11, dtype=torch.float64) * 0.1)[None]
    observed = torch.zeros(1, 11, dtype=torch.bool)
    observed[0, 7] = True  # a step is shortened to end there
    batch = Batch(times, normal(1, 11, 3), observed | True, observed, torch.ones(1), torch.arange(1), ("a",))
    with torch.no_grad():
        for parameter in (model.drifts.prior, model.drifts.prior_bias):
            parameter.zero_()
        model.x0.fill_(1.0)
        x = model._latent(repeat(batch, P), (0,), 1).x[0]
    mean, v = 1.0, 0.0
    for step in (range(6), range(5, 8), range(7, 11)):
        start = times[0, step[0]]
        for t in step:
            passed = float(times[0, t] - start)
            m, variance = (1 - passed) * mean, (1 - passed) ** 2 * v + passed * R**2
            found = x[:, t].flatten()
            assert float(found.var()) == pytest.approx(variance, rel=4 / P**0.5, abs=1e-12)
            assert float(found.mean()) == pytest.approx(m, abs=4 * variance**0.5 / (2 * P) ** 0.5 + 1e-12)
        mean, v = m, variance


def test_score_error_is_proportional_to_step(monkeypatch):
    """All grids share the same Brownian paths, so that only the error of the step remains."""
    T, B, finest = 9, 400, 64
    fine = keyed_normal(torch.arange(B), (T - 1) * finest, 2)
    observed = torch.ones(1, T, dtype=torch.bool)
    observed[0, 0] = False  # no step of no length, so that all grids are regular
    times = (torch.arange(T, dtype=torch.float64) * 0.4)[None]
    batch = repeat(Batch(times, normal(1, T, 3), observed | True, observed, torch.ones(1), torch.arange(1), ("a",)), B)
    scores = []
    for steps in (4, 8, 16, 32):
        increments = fine.view(B, (T - 1) * steps, -1, 2).sum(2) / (finest / steps) ** 0.5
        # The grid has one more step, of no length, for the backward pass.
        padded = torch.nn.functional.pad(increments, (0, 0, 0, 1))
        monkeypatch.setattr(vsdn_sde, "antithetic_normal", lambda seed, n, *_, x=padded, **__: x[None, :, :n])
        model = make_model(max_step=0.4 / steps, depth=2)
        with torch.no_grad():
            model.drifts.posterior.mul_(2.0)
            terms = model.density(batch, 1)[0]
        scores.append(float((terms.log_likelihood - terms.kl).mean()))
    changes = [a - b for a, b in itertools.pairwise(scores)]
    assert all(1.5 < a / b < 2.7 for a, b in itertools.pairwise(changes)), scores


@pytest.mark.parametrize("name", ["vsdn_sde", "vsdn_sde_res"])
def test_torchsde_gives_equal_loss_and_gradients(name):
    """The sequences of the batch have different grids."""
    batch, found = make_batch(irregular=True), []
    for solver in ("direct", "torchsde"):
        model = small(name)
        model.config = CONFIGS[name].model_copy(update={"solver": solver})
        loss = model(batch, 0.7).loss
        loss.sum().backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("held_out_fraction", [0.0, 0.6])
def test_training_loss_does_not_depend_on_batch(irregular, held_out_fraction):
    model = make_model("bernoulli", channels=5, held_out_fraction=held_out_fraction, samples=2)
    batch = make_batch(irregular=irregular)
    with torch.no_grad():
        together = model(batch, 0.7).loss
        for b in range(3):
            alone = batch.rows(slice(b, b + 1)).first(int(batch.present[b].sum()))
            torch.testing.assert_close(model(alone, 0.7).loss[0], together[b], rtol=0, atol=1e-12)


@pytest.mark.parametrize("irregular", [False, True])
def test_prior_drift_does_not_read_the_future(irregular):
    """N1's inputs, in the ELBO and in prediction, are equal to the last bit when Y_m changes for all m >= n."""
    model, batch = small("vsdn_sde").eval(), make_batch(irregular=irregular)
    given = []
    model.drifts.read_past.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    events = Events.of(batch)
    with torch.no_grad():
        grid = model.gru_ode(batch, events).rows(0)
        for score in (lambda b: model.density(b, 1), lambda b: model.predict(b, 1).mean):
            given.clear()
            score(batch)
            for k in range(events.frame.shape[1]):
                values = batch.values.clone()
                values[torch.arange(values.shape[1]) >= events.frame[:, k, None]] -= 1
                score(batch._replace(values=values))
                for b in events.valid[:, k].nonzero()[:, 0]:
                    until = int(grid.stop[b, k]) + 1
                    assert torch.equal(given[-1][:until, b], given[0][:until, b])
                    assert until == len(given[0]) or not torch.equal(given[-1][until, b], given[0][until, b])


def test_prediction_uses_the_prior_alone():
    """Neither N2 nor the backward state has an influence."""
    model, batch = small("vsdn_sde").eval(), make_batch()
    with torch.no_grad():
        predicted, interpolated = model.predict(batch, 2).mean, model.interpolate(batch, 2).mean
        for parameter in (*model.drifts.read_all.parameters(), model.drifts.posterior, model.drifts.posterior_bias):
            parameter.add_(0.5)
        assert torch.equal(model.predict(batch, 2).mean, predicted)
        assert not torch.equal(model.interpolate(batch, 2).mean, interpolated)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_step": 2.0}, "overshoot"), ({"diffusion": (0.5, 0.1)}, "range"), ({"diffusion": (0.0, 1.0)}, "range")],
)
def test_unstable_settings_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        make_model(**options)


def test_substeps_refine_the_path_alone():
    """With network outputs 0, substeps equal shorter steps; the recurrent state keeps its grid."""
    batch = Batch(
        (torch.arange(9, dtype=torch.float64) * 0.4)[None], normal(1, 9, 3), torch.ones(1, 9, dtype=torch.bool),
        (torch.arange(9) % 3 == 2)[None], torch.ones(1), torch.arange(1), ("a",),
    )  # fmt: skip
    short, divided = make_model(max_step=0.1), make_model(max_step=0.4, substeps=4)
    divided.load_state_dict(short.state_dict())
    with torch.no_grad():
        for model in (short, divided):
            model.x0.fill_(2.0)
            for parameter in (model.drifts.prior, model.drifts.prior_bias):
                parameter.zero_()
    one, other = (model._latent(batch, (0,), 3).x for model in (short, divided))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    steps = [len(model.gru_ode(batch, Events.of(batch)).before) for model in (short, divided)]
    assert steps[0] > 3 * steps[1]
