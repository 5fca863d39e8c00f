"""ODE2VAE and its first-order baseline: the ELBO against exact evidence, invariances, and settings."""

import math
from itertools import product

import pytest
import torch
from torch.distributions import MultivariateNormal

from models import ode2vae
from models.batch import Batch
from models.ode2vae import Ode2Vae, Ode2VaeConfig
from models.parts.encoders import ConvDecoder, ConvEncoder, Encoder
from models.parts.likelihoods import Marginal
from models.solvers.ode import SolverConfig
from tests.models.gradients import assert_all_reached, assert_same_training, gradients, with_noise_where_unobserved

B, T, D = 3, 9, 5
SMALL = {"latent": 2, "encoder_width": 6, "decoder_width": 6, "field_width": 6, "init_std": 0.1}
VARIANTS = {
    "ode2vae": {"variance": "per_weight"},
    "ode2vae-kl": {"gamma": 0.5, "activation": "elu"},
    "published": {"objective": "published", "noise": "frame", "gamma": 1.0},
    "neural_ode": {"name": "neural_ode", "variance": "none"},
    "torchdiffeq": {"solver": SolverConfig(backend="torchdiffeq", method="midpoint")},
}


def make(dim=D, likelihood="gaussian", sequences=20, **options):
    torch.manual_seed(1)
    config = Ode2VaeConfig(**{"name": "ode2vae", **SMALL, **options})
    return Ode2Vae(config, likelihood, Marginal(torch.full((dim,), 0.25), 0.5, sequences)).double()


def make_batch(dim=D, missing=True):
    g = torch.Generator().manual_seed(0)
    times = torch.rand(B, T, generator=g, dtype=torch.float64).mul(0.2).add(0.05).cumsum(1)
    times = times - times[:, :1]
    lengths = torch.tensor([T, T - 2, T - 4])
    present = torch.arange(T) < lengths[:, None]
    times = torch.minimum(times, times.gather(1, lengths[:, None] - 1))
    observed = present & (torch.rand(B, T, generator=g) < 0.7) if missing else present.clone()
    values = torch.rand(B, T, dim, generator=g, dtype=torch.float64) * present[..., None]
    return Batch(times, values, present, observed, torch.ones(B), torch.arange(B) * 7919 + 11, ("a", "b", "c"))


@pytest.fixture(params=VARIANTS)
def model(request):
    return make(**VARIANTS[request.param])


def test_every_parameter_gets_a_gradient(model):
    assert_all_reached(model, make_batch())


def test_unobserved_frames_change_nothing(model):
    batch = make_batch()
    assert_same_training(model, batch, with_noise_where_unobserved(batch))


def test_gradient_matches_finite_differences(model):
    batch = make_batch()
    g = torch.Generator().manual_seed(2)
    _, gradient = gradients(model, batch)
    direction = {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in model.named_parameters()}
    expected, eps = sum((gradient[n] * direction[n]).sum() for n in direction), 1e-6
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for n, p in model.named_parameters():
                p.add_(direction[n], alpha=sign * eps)
            losses.append(model(batch, 0.7).loss.sum())
    torch.testing.assert_close((losses[0] - losses[1]) / (2 * eps), expected, rtol=1e-6, atol=1e-6)


def test_loss_does_not_depend_on_batch(model):
    batch = make_batch()
    with torch.no_grad():
        together, forecast = model(batch, 1.0).loss, model.forecast(batch, 3)
        for b in range(B):
            n = int(batch.present[b].sum())
            alone = batch.rows(slice(b, b + 1)).first(n)
            torch.testing.assert_close(model(alone, 1.0).loss[0], together[b], rtol=0, atol=1e-11)
            mine = model.forecast(alone, 3)
            for of_one, of_all in ((mine.mean, forecast.mean), (mine.path, forecast.path)):
                torch.testing.assert_close(of_one[0], of_all[b, :n], rtol=0, atol=1e-12)


def test_draws_are_equal_singly_and_together(model, monkeypatch):
    batch = make_batch()
    with torch.no_grad():
        together = model.draws(batch, range(2, 7))
        for n in range(2, 7):
            for alone, all_of_them in zip(model.draws(batch, range(n, n + 1)), together, strict=True):
                torch.testing.assert_close(alone[0], all_of_them[n - 2], rtol=0, atol=1e-12)
        assert (together[0].diff(dim=0).abs().amax((1, 2, 3)) > 1e-3).all()
        frames = model.draws(batch, range(7))[1]
        for at_once in (10**9, 3 * batch.values.numel(), 1):
            monkeypatch.setattr(ode2vae, "_VALUES_AT_ONCE", at_once)
            torch.testing.assert_close(model.forecast(batch, 7).mean, frames.mean(0), rtol=0, atol=1e-12)


def test_forecast_reads_the_first_frames_alone(model):
    batch = make_batch(missing=False)
    values = batch.values.clone()
    values[:, 3:] = torch.randn_like(values[:, 3:])
    with torch.no_grad():
        before, after = model.forecast(batch, 2), model.forecast(batch._replace(values=values), 2)
        values[:, 2] += 1
        moved = model.forecast(batch._replace(values=values), 2)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.path, after.path)
    assert not torch.equal(before.mean, moved.mean)


def test_first_frames_cut_the_batch(model):
    batch = make_batch(missing=False)
    with torch.no_grad():
        whole, cut = model.forecast(batch, 2), model.forecast(batch.first(5), 2)
    torch.testing.assert_close(cut.mean, whole.mean[:, :5], rtol=0, atol=1e-12)


def test_sequences_may_be_shorter_than_the_encoder_reads(model):
    """Two frames have the loss of three of which the last is absent; the encoders read three."""
    batch = make_batch(missing=False).first(3)
    absent = torch.arange(3) < 2
    batch = batch._replace(
        times=batch.times.clone().index_copy(1, torch.tensor([2]), batch.times[:, 1:2]),
        values=batch.values * absent[:, None], present=batch.present & absent, observed=batch.observed & absent,
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(model(batch.first(2), 1.0).loss, model(batch, 1.0).loss, rtol=0, atol=1e-12)
        assert model.forecast(batch.first(2), 2).mean.shape == (B, 2, D)


OSCILLATOR, FRAMES, NOISE = 2 * math.pi, 8, 0.25


def oscillator(encoder_mean, encoder_std, path_weight=0.0):
    """Return a model of s'' = -omega^2 s with one frame per eighth of a turn, x = (s, 2 s) + noise, whose encoder has
    constant outputs. ELU units far in their linear part make every network affine."""
    config = {"latent": 1, "activation": "elu", "encoder_width": 1, "decoder_width": 2, "field_width": 2}
    model = make(
        2, **config, variance="none", noise=NOISE, path_weight=path_weight, solver=SolverConfig(max_step=0.002)
    )
    with torch.no_grad():
        eye, far = torch.eye(2), 50.0
        field = [eye.flatten(), torch.full((2,), far), eye.flatten(), torch.zeros(2)]
        slope = torch.tensor([-(OSCILLATOR**2), 0.0], dtype=torch.float64)
        model.weights.mean.copy_(torch.cat([*field, slope, -far * slope.sum()[None]]))
        layers = model.decoder
        for layer, weight, bias in [(layers[0], [[1.0], [0.0]], [far, far]), (layers[2], eye, [0.0, 0.0])]:
            layer.weight.copy_(torch.as_tensor(weight))
            layer.bias.copy_(torch.as_tensor(bias))
        out = torch.tensor([[1.0, 0.0], [2.0, 0.0]]) / 0.5
        layers[4].weight.copy_(out)
        layers[4].bias.copy_(-far * out.sum(1) - 0.25 / 0.5)
        raw = 4 * torch.atanh((encoder_std.log() + 2) / 4)
        for i, head in enumerate((model.encoder.position[-1], model.encoder.velocity[-1])):
            head.weight.zero_()
            head.bias.copy_(torch.stack([encoder_mean[i], raw[i]]))
    return model


def exact(x):
    """Return log evidence, and mean and covariance of z_0, given frames [T, 2] of the oscillator."""
    t = torch.arange(FRAMES, dtype=torch.float64) / FRAMES
    read = torch.stack([torch.cos(OSCILLATOR * t), torch.sin(OSCILLATOR * t) / OSCILLATOR], 1)
    C = torch.cat([read, 2 * read])
    y = torch.cat([x[:, 0], x[:, 1]])
    evidence = MultivariateNormal(torch.zeros_like(y), C @ C.mT + NOISE**2 * torch.eye(len(y))).log_prob(y)
    covariance = torch.linalg.inv(torch.eye(2) + C.mT @ C / NOISE**2)
    return evidence, covariance @ C.mT @ y / NOISE**2, covariance


def oscillator_batch(x, copies):
    times = (torch.arange(FRAMES, dtype=torch.float64) / FRAMES).expand(copies, FRAMES).contiguous()
    observed = torch.ones(copies, FRAMES, dtype=torch.bool)
    return Batch(
        times, x.expand(copies, -1, -1), observed, observed, torch.ones(copies), torch.arange(copies), ("x",) * copies
    )


def test_elbo_is_evidence_at_exact_posterior():
    """A full turn makes the exact posterior diagonal, so that the encoder can express it."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(FRAMES, 2, generator=g, dtype=torch.float64)
    evidence, mean, covariance = exact(x)
    assert abs(covariance[0, 1]) < 1e-12
    std, n = covariance.diagonal().sqrt(), 400
    batch = oscillator_batch(x, n)
    with torch.no_grad():
        at_best = oscillator(mean, std)
        terms, weighted = at_best.density(batch, 1)
        # log p(x, z) - log q(z | x) is the same for every draw, up to the solver's error.
        torch.testing.assert_close(weighted, evidence.expand(n), rtol=0, atol=1e-5)
        bound = terms.log_likelihood - terms.kl
        assert abs(bound.mean() - evidence) < 4 * bound.std() / n**0.5
        torch.testing.assert_close(-at_best(batch, 1.0).loss, bound, rtol=0, atol=1e-9)
        for shift, factor in product((0.0, 0.2), (0.5, 1.0, 2.0)):
            off = oscillator(mean + shift, factor * std)
            terms, weighted = off.density(batch, 1)
            bound = (terms.log_likelihood - terms.kl).mean()
            gap = MultivariateNormal(mean + shift, torch.diag((factor * std) ** 2))
            kl = torch.distributions.kl_divergence(gap, MultivariateNormal(mean, covariance))
            error = 4 * (terms.log_likelihood - terms.kl).std() / n**0.5
            assert abs(evidence - bound - kl) < error + 1e-6
        penalised = oscillator(mean, std, path_weight=1.0)
        assert (-penalised(batch, 1.0).loss).mean() < evidence


def test_log_q_of_z0_includes_the_entropy():
    """At frame 0 the density is the encoder's; the published objective lacks the sum of its log standard deviations."""
    model, batch = make(variance="none"), make_batch()
    with torch.no_grad():
        posterior = model._posterior(batch)
        path = model._draw_path(posterior, model.grids(batch), batch.seed, 0)
        q = torch.distributions.Normal(posterior.mean, posterior.log_std.exp())
        torch.testing.assert_close(path.log_q[:, 0], q.log_prob(path.z[:, 0]).sum(-1), rtol=1e-12, atol=0)
        assert float(posterior.log_std.sum(-1).abs().min()) > 0.1


def test_published_objective_differs_as_documented():
    ours, theirs = (make(objective=name, gamma=0.0, sequences=20) for name in ("correct", "published"))
    batch = make_batch()
    with torch.no_grad():
        posterior = ours._posterior(batch)
        path = ours._draw_path(posterior, ours.grids(batch), batch.seed, 0)
        z0, n = path.z[:, 0], batch.observed[:, 1:].sum(1)
        entropy = posterior.log_std.sum(-1)
        standard = torch.distributions.Normal(torch.zeros_like(z0), 1.0)
        one_draw = path.log_q[:, 0] + entropy - standard.log_prob(z0).sum(-1)
        kl_w = ours.weights.kl()
        expected = (
            one_draw - posterior.kl(posterior._replace(mean=0 * z0, log_std=0 * z0))
            + n * entropy + kl_w * (2 / ours.weights.count - 1 / 20)
        )  # fmt: skip
        torch.testing.assert_close(theirs(batch, 1.0).loss - ours(batch, 1.0).loss, expected, rtol=0, atol=1e-9)


def test_weight_kl_is_shared_among_sequences():
    batch = make_batch()
    one, many = (make(sequences=n)(batch, 1.0).terms.kl.detach() for n in (1, 100))
    torch.testing.assert_close(one - many, make().weights.kl().detach().expand(B) * 0.99)


def test_solvers_give_equal_loss():
    batch = make_batch()
    options = [{}, {"backend": "torchdiffeq"}, {"backend": "torchdiffeq", "trace": "autograd"}]
    found = (gradients(make(solver=SolverConfig(**o)), batch) for o in options)
    results = [(objective.loss, gradient) for objective, gradient in found]
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", [28, 32])
def test_convolutions_handle_published_image_sizes(side):
    model = make(side * side, "bernoulli", networks="conv", gamma=1.0, encoder_width=2, decoder_width=2)
    model = model.float()
    batch = make_batch(side * side)
    batch = batch._replace(values=batch.values.float())
    for name, gradient in gradients(model, batch)[1].items():
        assert gradient.abs().max() > 0, name
    assert model.forecast(batch, 1).path.shape == (B, T, side * side)
    assert ConvEncoder(3, side, 3, 2, 4).head.in_features == 16 * 4 + 3
    assert ConvDecoder(side, 2, 2)(torch.zeros(6, 2)).shape == (6, side * side)


@pytest.mark.parametrize("side", [8, 12])
def test_convolutions_may_have_nothing_to_decode(side):
    model, batch = make(side * side, "bernoulli", networks="conv", decoder_width=2), make_batch(side * side)
    batch = batch._replace(observed=torch.zeros_like(batch.observed))
    objective = model(batch, 1.0)
    assert torch.equal(objective.terms.log_likelihood, torch.zeros(B, dtype=torch.float64))
    assert objective.loss.isfinite().all()


@pytest.mark.parametrize("dim", [16, 50, 900])
def test_unsuitable_images_are_refused(dim):
    with pytest.raises(ValueError, match="side of 8 or more that is divisible by 4"):
        make(dim, networks="conv")


def test_encoder_fills_missing_frames_with_nearest():
    torch.manual_seed(0)
    encoder = Encoder(Marginal(torch.zeros(D), 1.0), 3, 2, "dense", 6, "tanh").double()
    window = torch.randn(1, 3, D, dtype=torch.float64)
    observed = torch.tensor([[True, False, True]])
    filled = window.clone()
    filled[:, 1] = window[:, 0]
    assert torch.equal(encoder(window, observed).mean, encoder(filled, observed).mean)
    assert not torch.equal(encoder(window, observed).mean, encoder(window, torch.ones_like(observed)).mean)
    assert encoder(window, torch.zeros_like(observed)).mean.isfinite().all()
