"""What holds for every registered model, on regular and on irregular times."""

import torch

from models.base import last_observed
from models.batch import Batch
from tests.models.conftest import make_batch


def gradients(model, batch):
    model.zero_grad(set_to_none=True)
    objective = model(batch, 0.7)
    objective.loss.sum().backward()
    return objective, {name: p.grad for name, p in model.named_parameters()}


def test_every_parameter_gets_a_gradient(model, batch):
    for name, gradient in gradients(model, batch)[1].items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


def test_frames_that_are_not_observed_change_neither_loss_nor_gradient(model, batch):
    objective, before = gradients(model, batch)
    noise = torch.where(batch.observed[..., None], 0.0, torch.randn_like(batch.values))
    changed, after = gradients(model, batch._replace(values=batch.values + noise))
    assert torch.equal(objective.loss, changed.loss)
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_no_leak_to_the_last_bit(model, batch):
    """What predicts Y_n has seen observations before t_n only: for every n, change all Y_m with m >= n."""
    model.eval()
    with torch.no_grad():
        predicted = model.predict(batch, 2)
        for n in range(batch.values.shape[1]):
            values = batch.values.clone()
            values[:, n:] = 1 - values[:, n:]
            changed = model.predict(batch._replace(values=values), 2)
            assert torch.equal(changed[:, : n + 1], predicted[:, : n + 1])
        seen = batch.observed[0].nonzero()[0, 0]
        values = batch.values.clone()
        values[0, seen] = 1 - values[0, seen]
        assert not torch.equal(model.predict(batch._replace(values=values), 2)[0, seen + 1 :], predicted[0, seen + 1 :])


def test_the_prior_in_the_bound_has_not_seen_its_frame_either(model, batch):
    """The density of the first observed frames is untouched by what comes later, but for the posterior's KL: for a
    model without one the terms of the first frames are the same to the last bit."""
    if not hasattr(model, "prior_net"):
        return
    model.eval()
    with torch.no_grad():
        from models.gru_ode import Events

        first = model._prior(model.gru_ode(batch, Events.of(batch)).at_events(0)[0])[0][:, 0]
        values = 1 - batch.values
        flipped = batch._replace(values=values)
        again = model._prior(model.gru_ode(flipped, Events.of(flipped)).at_events(0)[0])[0][:, 0]
    assert torch.equal(first, again)


def test_a_score_does_not_depend_on_the_batch_it_sits_in(model, batch):
    model.eval()
    with torch.no_grad():
        terms, weighted = model.density(batch, 3)
        interpolated = model.interpolate(batch, 3)
        for b in range(3):
            n = int(batch.present[b].sum())
            alone = Batch(
                *(x[b : b + 1, :n] if x.ndim > 1 else x[b : b + 1] for x in batch[:-1]), batch.keys[b : b + 1]
            )
            own, own_weighted = model.density(alone, 3)
            torch.testing.assert_close([x[0] for x in own], [x[b] for x in terms], rtol=0, atol=1e-12)
            torch.testing.assert_close(own_weighted[0], weighted[b], rtol=0, atol=1e-12)
            torch.testing.assert_close(model.interpolate(alone, 3)[0], interpolated[b, :n], rtol=0, atol=1e-12)


def test_the_bound_tightens_with_the_number_of_samples(model):
    batch = make_batch(B=1, T=17)
    many = Batch(*(x.expand(400, *x.shape[1:]).contiguous() for x in batch[:-2]), torch.arange(400), batch.keys * 400)
    model.eval()
    with torch.no_grad():
        bounds = [model.density(many, k)[1] for k in (1, 4, 16)]
        terms = model.density(many, 1)[0]
    if hasattr(model, "posterior_net"):
        assert bounds[0].mean() < bounds[1].mean() < bounds[2].mean()
    else:
        assert torch.equal(bounds[0], bounds[2])
    # With one sample it is the bound itself, up to the Monte Carlo error of the KL.
    error = float((bounds[0] - (terms.log_likelihood - terms.kl)).mean())
    assert abs(error) <= 4 * float(bounds[0].std()) / 400**0.5


def test_interpolation_uses_the_future_where_the_model_has_a_posterior(model, batch):
    model.eval()
    values = batch.values.clone()
    last = batch.observed[0].nonzero()[-1, 0]
    values[0, last] = 1 - values[0, last]
    with torch.no_grad():
        moved = model.interpolate(batch._replace(values=values), 2) - model.interpolate(batch, 2)
    assert (moved[0, :2].abs().max() > 0) == hasattr(model, "posterior_net")


def test_last_observed_is_strictly_before():
    batch = make_batch()
    last = last_observed(batch)
    for b in range(3):
        held = torch.zeros(5, dtype=torch.float64)
        for t in range(17):
            assert torch.equal(last[b, t], held)
            if batch.observed[b, t]:
                held = batch.values[b, t]
