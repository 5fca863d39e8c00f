"""The fraction of the loss in which the latent is drawn from the prior."""

import pytest
import torch

from models.batch import last_observed
from models.gru_ode import Events
from models.parts.noise import keyed_normal
from tests.models.conftest import CONFIGS, make_batch, small
from tests.models.linear_gaussian import STEP, LinearGaussian, R

SHARE = 0.3


def pair(name):
    """Return two models with equal weights, without and with the prior term."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, name, CONFIGS[name].model_copy(update={"prior_fraction": 0.0}))
        without = small(name)
        patch.setitem(CONFIGS, name, CONFIGS[name].model_copy(update={"prior_fraction": SHARE}))
        return without, small(name)


def prior_term(name, batch):
    """Return the prior term [B]: the loss is (1 - share) times the loss without it, plus share times this term."""
    without, shared = pair(name)
    assert torch.equal(without(batch, 0.7).terms.kl, shared(batch, 0.7).terms.kl)
    return (shared(batch, 0.7).loss - (1 - SHARE) * without(batch, 0.7).loss) / SHARE, shared


def test_vae_prior_term_matches_its_formula(batch):
    """X_n = mu0 + sigma0 epsilon, with the limits of `Normal.of` written out, is decoded with h->- and the last
    frame."""
    term, model = prior_term("vsdn_vae", batch)
    events = Events.of(batch)
    h = model.gru_ode(batch, events).at_events(0)[0]
    mean, raw = model.prior_net(h).chunk(2, -1)
    x = mean + (4 * torch.tanh(raw / 4) - 2).exp() * keyed_normal(batch.seed, h.shape[1], 3)
    last = events.take((last_observed(batch) - 0.3) / 0.45)
    logits = model.decoder.linear(torch.cat([x, h, last], -1)) + torch.logit(torch.tensor(0.3))
    likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(events.values).sum(-1)
    torch.testing.assert_close(term, -(likelihood * events.valid).sum(1), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("name", ["vsdn_vae", "vsdn_sde", "vsdn_sde_res"])
def test_prior_term_trains_no_posterior(name):
    """The posterior's gradient is 1 - share times that of the loss without the term; the decoder's is not."""
    batch, found = make_batch(), []
    for model in pair(name):
        model(batch, 0.7).loss.sum().backward()
        posterior = model.posterior_net if name == "vsdn_vae" else model.drifts.read_all
        found.append([p.grad for module in (posterior, model.decoder) for p in module.parameters()])
    *of_posterior, _, _ = zip(*found, strict=True)
    for without, shared in of_posterior:
        torch.testing.assert_close(shared, (1 - SHARE) * without, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found[1][-1], (1 - SHARE) * found[0][-1])


@pytest.mark.parametrize("name", ["vsdn_sde", "vsdn_sde_res"])
def test_sde_prior_term_is_constant_likelihood(name):
    """With a decoder that does not read X, the term is minus the log-likelihood of the ELBO."""
    batch = make_batch()
    without, shared = pair(name)
    for model in (without, shared):
        with torch.no_grad():
            model.decoder.linear.weight[:, :3] = 0
    term = (shared(batch, 0.7).loss - (1 - SHARE) * without(batch, 0.7).loss) / SHARE
    torch.testing.assert_close(term, -shared(batch, 0.7).terms.log_likelihood, rtol=1e-9, atol=1e-9)


def test_sde_prior_term_matches_closed_form():
    """The closed form is E log N(y; C x + d, s^2) over x_n of dX = -X dt + R dW in Euler steps from x_0."""
    problem, n = LinearGaussian(), 2000
    model, batch = problem.model, problem.draws(n)
    losses = []
    with torch.no_grad():
        for share in (0.0, SHARE):
            model.config = model.config.model_copy(update={"prior_fraction": share})
            losses.append(model(batch, 1.0).loss)
    term = ((losses[1] - (1 - SHARE) * losses[0]) / SHARE).view(-1, n)
    steps = 5 * torch.arange(8, dtype=torch.float64)[:, None]
    mean = (1 - STEP) ** steps * problem.x0 @ problem.C.T + problem.d
    variance = (
        R**2 * STEP * (1 - (1 - STEP) ** (2 * steps)) / (1 - (1 - STEP) ** 2)
    )  # variance of each component of x_n
    spread = variance * problem.C.square().sum(1)
    frames = torch.distributions.Normal(mean, problem.std).log_prob(problem.batch.values) - spread / 2 / problem.std**2
    expected = -(frames.sum(-1) * problem.batch.observed).sum(1)
    assert ((term.mean(1) - expected).abs() < 4 * term.std(1) / n**0.5).all()
