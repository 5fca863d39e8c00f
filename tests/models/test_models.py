"""Properties of every registered model, on regular and irregular times."""

import itertools

import pytest
import torch
from torch import nn

from driftwork.errors import DriftworkError
from driftwork.registry import Named
from models import registry
from models.base import Smoother
from models.batch import Batch, last_observed, time_since
from models.gru_ode import Events
from models.parts.likelihoods import Marginal
from tests.models.conftest import make_batch, small
from tests.models.gradients import assert_all_reached, assert_same_training, with_noise_where_unobserved


def test_every_parameter_gets_a_gradient(model, batch):
    assert_all_reached(model, batch)


def test_unobserved_frames_change_nothing(model, batch):
    assert_same_training(model, batch, with_noise_where_unobserved(batch))


def test_no_leak_to_the_last_bit(dynamics, batch):
    """Changing all Y_m with m >= n leaves the prediction of Y_n the same, for every n."""
    model = dynamics.eval()
    with torch.no_grad():
        predicted = model.predict(batch, 2).mean
        for n in range(batch.values.shape[1]):
            values = batch.values.clone()
            values[:, n:] = 1 - values[:, n:]
            changed = model.predict(batch._replace(values=values), 2).mean
            assert torch.equal(changed[:, : n + 1], predicted[:, : n + 1])
        seen = batch.observed[0].nonzero()[0, 0]
        values = batch.values.clone()
        values[0, seen] = 1 - values[0, seen]
        assert not torch.equal(
            model.predict(batch._replace(values=values), 2).mean[0, seen + 1 :], predicted[0, seen + 1 :]
        )


def test_prediction_ignores_later_observation_times(dynamics, batch):
    """Observing other frames from the n-th on leaves the predictions up to it the same. VSDN-SDE then draws its path in
    other steps, so for that model the decoder's other inputs are compared."""
    model = dynamics.eval()
    answer = model.decoder.past if hasattr(model, "drifts") else lambda batch: model.predict(batch, 2).mean
    with torch.no_grad():
        before = answer(batch)
        for n in (3, 8):
            observed = batch.observed.clone()
            observed[:, n:] = batch.present[:, n:] & ~observed[:, n:]
            after = answer(batch._replace(observed=observed))
            torch.testing.assert_close(after[:, : n + 1], before[:, : n + 1], rtol=0, atol=1e-12)
            assert (after[:, n + 1 :] - before[:, n + 1 :]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["vsdn_vae_res", "vsdn_sde_res", "ode_rnn", "bi_gru_ode"])
def test_decoder_reads_the_age_of_the_last_frame(name):
    """The logits of a decoder that reads nothing else rise by log(1 + the seconds since that frame)."""
    model, batch = small(name), make_batch(irregular=True)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        model.decoder.linear.weight[:, -1] = 1.0
        since = time_since(batch, 1.0)
        expected = torch.sigmoid(since + torch.logit(torch.tensor(0.3))).expand_as(batch.values)
        answers = [model.interpolate(batch, 2)] + ([] if name == "bi_gru_ode" else [model.predict(batch, 2)])
    for answer in answers:
        torch.testing.assert_close(answer.mean, expected, rtol=0, atol=1e-6)


def past_reader(model):
    """Return a module that reads h->- of every event, and the index in its input at which h->- begins."""
    if hasattr(model, "drifts"):
        return model.decoder, model.config.latent
    return (model.prior_net if hasattr(model, "prior_net") else model.features), 0


@pytest.mark.parametrize("score", [lambda m, b: m(b, 1.0), lambda m, b: m.density(b, 2)], ids=["training", "density"])
def test_elbo_networks_do_not_read_their_target(dynamics, batch, score):
    """The inputs of the networks that read h->- in the ELBO are equal to the last bit when Y_m, m >= n, changes."""
    model = dynamics
    reads, first = past_reader(model)
    read = []
    handle = reads.register_forward_hook(lambda module, inputs, output: read.append(inputs[0][..., first:]))
    model.eval()
    events = Events.of(batch)
    with torch.no_grad():
        score(model, batch)
        for k in range(events.frame.shape[1]):
            values = batch.values.clone()
            later = torch.arange(values.shape[1]) >= events.frame[:, k, None]
            values[later] = 1 - values[later]
            score(model, batch._replace(values=values))
            rows = events.valid[:, k]
            assert torch.equal(read[-1][rows, : k + 1], read[0][rows, : k + 1])
            if k + 1 < int(events.valid[0].sum()):
                assert not torch.equal(read[-1][0, k + 1], read[0][0, k + 1])  # but the next one has observed it
    handle.remove()


def test_smoother_does_not_read_its_target(batch):
    """When any Y_n changes, the distribution behind its pseudo-likelihood and its interpolation stays the same to the
    last bit, and that of other frames changes."""
    model, events, given = small("bi_gru_ode").eval(), Events.of(batch), []
    model.decoder.register_forward_hook(lambda module, inputs, output: given.append(output))
    row = torch.arange(3)
    with torch.no_grad():
        model.pseudo_likelihood(batch)
        assert model.interpolate(batch, 1).mean.isfinite().all()
        at_events = given[1][row[:, None], events.frame]
        torch.testing.assert_close(given[0][events.valid], at_events[events.valid], rtol=0, atol=1e-12)
        for k in range(events.frame.shape[1]):
            values, frame, real = batch.values.clone(), events.frame[:, k], events.valid[:, k]
            values[row, frame] = 1 - values[row, frame]
            changed = batch._replace(values=values)
            model.pseudo_likelihood(changed)
            assert model.interpolate(changed, 1).mean.isfinite().all()
            explaining, interpolating = given[-2:]
            assert torch.equal(explaining[real, k], given[0][real, k])
            assert torch.equal(interpolating[row, frame][real], given[1][row, frame][real])
            moved = (explaining != given[0]).any(2)[0] & events.valid[0]
            assert not real[0] or moved.sum() == events.valid[0].sum() - 1


@pytest.mark.parametrize("name", ["gru_ode", "ode_rnn"])
def test_exact_density_sums_to_one(name):
    """The sum is over all 2^D values of the last observed frame, given the frames before it."""
    model = small(name)
    batch = make_batch(B=1)
    last = int(batch.observed[0].nonzero()[-1, 0])
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)), dtype=torch.float64)
    values = batch.values.expand(32, -1, -1).clone()
    values[:, last] = every
    times, present, observed = (x.expand(32, -1).contiguous() for x in (batch.times, batch.present, batch.observed))
    many = Batch(times, values, present, observed, torch.ones(32), torch.arange(32), batch.keys * 32)
    without = many._replace(observed=many.observed & (torch.arange(17) != last))
    with torch.no_grad():
        conditional = model.density(many, 1)[0].log_likelihood - model.density(without, 1)[0].log_likelihood
    torch.testing.assert_close(conditional.exp().sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-6, atol=0)


def test_scores_do_not_depend_on_the_batch(model, batch):
    def scores(batch):
        if isinstance(model, Smoother):
            return list(model.pseudo_likelihood(batch))
        terms, weighted = model.density(batch, 3)
        return [*terms, weighted]

    model.eval()
    with torch.no_grad():
        together, interpolated = scores(batch), model.interpolate(batch, 3).mean
        for b in range(3):
            n = int(batch.present[b].sum())
            alone = batch.rows(slice(b, b + 1)).first(n)
            torch.testing.assert_close([x[0] for x in scores(alone)], [x[b] for x in together], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(model.interpolate(alone, 3).mean[0], interpolated[b, :n], rtol=0, atol=1e-12)


def has_posterior(model):
    return hasattr(model, "posterior_net") or hasattr(model, "drifts")


def test_iwae_bound_tightens_with_samples(dynamics):
    model = dynamics
    batch = make_batch(B=1, T=17)
    many = Batch(*(x.expand(400, *x.shape[1:]).contiguous() for x in batch[:5]), torch.arange(400), batch.keys * 400)
    model.eval()
    with torch.no_grad():
        bounds = [model.density(many, k)[1] for k in (1, 4, 16)]
        terms = model.density(many, 1)[0]
    if has_posterior(model):
        assert bounds[0].mean() < bounds[1].mean() < bounds[2].mean()
    else:
        assert torch.equal(bounds[0], bounds[2])
    # With one sample it is the ELBO itself, up to the Monte Carlo error of the KL.
    error = float((bounds[0] - (terms.log_likelihood - terms.kl)).mean())
    assert abs(error) <= 4 * float(bounds[0].std()) / 400**0.5


def test_only_posteriors_and_smoothers_read_the_future(model, batch):
    model.eval()
    values = batch.values.clone()
    last = batch.observed[0].nonzero()[-1, 0]
    values[0, last] = 1 - values[0, last]
    with torch.no_grad():
        moved = model.interpolate(batch._replace(values=values), 2).mean - model.interpolate(batch, 2).mean
    assert (moved[0, :2].abs().max() > 0) == (model.gru_ode.passes == 2)


def test_last_observed_frame_is_strictly_earlier():
    batch = make_batch()
    last = last_observed(batch)
    for b in range(3):
        held = torch.zeros(5, dtype=torch.float64)
        for t in range(17):
            assert torch.equal(last[b, t], held)
            if batch.observed[b, t]:
                held = batch.values[b, t]


class Scalar(nn.Module):
    def __init__(self, *_):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(()))


def test_parameter_without_dimension_is_named(monkeypatch):
    """Without this check DeepSpeed would end each rank with a traceback about the view of a tensor."""
    monkeypatch.setattr(registry.MODELS, "make", Scalar)
    with pytest.raises(DriftworkError, match=r"model\.name=mine: parameter rate has no dimension"):
        registry.build_model(Named(name="mine"), "gaussian", Marginal(torch.zeros(2), 1.0))
