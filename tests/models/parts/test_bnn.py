import pytest
import torch
from torch.distributions import Normal, kl_divergence

from models.parts.bnn import BayesianMlp


def bnn(variance, **options):
    torch.manual_seed(3)
    module = BayesianMlp(4, 7, 2, variance, **{"init_std": 0.1, "prior_std": 0.7, **options}).double()
    with torch.no_grad():
        module.mean.normal_()
        if module.log_std is not None:
            module.log_std.normal_(-2, 0.5)
    return module


@pytest.mark.parametrize("variance", ["per_weight", "shared"])
def test_weight_kl_matches_torch_distributions(variance):
    module = bnn(variance)
    q = Normal(module.mean, module.log_std.exp().expand_as(module.mean))
    expected = kl_divergence(q, Normal(torch.zeros_like(module.mean), 0.7)).sum()
    torch.testing.assert_close(module.kl(), expected, rtol=1e-13, atol=0)


def test_point_estimate_has_no_kl():
    module = bnn("none")
    assert float(module.kl()) == 0
    drawn = module.draw(torch.arange(5), 0)
    assert all(torch.equal(x, y) for x, y in zip(drawn, module.mean_weights(), strict=True))
    assert drawn.W1.shape == (1, 7, 4)


@pytest.mark.parametrize("variance", ["per_weight", "shared"])
def test_draws_have_the_moments_of_q(variance):
    module = bnn(variance)
    n = 20_000
    drawn = torch.cat([x.flatten(1) for x in module.draw(torch.arange(n) * 977 + 5, 1)], 1)
    std = module.log_std.exp().expand_as(module.mean)
    z = (drawn - module.mean) / std
    assert float(z.mean(0).abs().max()) < 4.5 / n**0.5
    assert float((z.var(0) - 1).abs().max()) < 4.5 * (2 / n) ** 0.5
    neighbours = (z[:, 1:] * z[:, :-1]).mean(0)
    assert float(neighbours.abs().max()) < 4.5 / n**0.5


def test_draw_depends_on_seed_and_stream_alone():
    module = bnn("per_weight")
    together = module.draw(torch.tensor([11, 12, 13]), 1)
    alone = module.draw(torch.tensor([12]), 1)
    assert all(torch.equal(x[1:2], y) for x, y in zip(together, alone, strict=True))
    assert not torch.equal(module.draw(torch.tensor([12]), 3).W1, alone.W1)
    assert not torch.equal(together.W1[0], together.W1[1])


def test_draw_is_differentiable_in_its_moments():
    module = bnn("per_weight")
    seed = torch.tensor([5])
    sum(w.sum() for w in module.draw(seed, 0)).backward()
    assert torch.equal(module.mean.grad, torch.ones_like(module.mean))
    noise = torch.cat([x.flatten() for x in module.draw(seed, 0)]).detach() - module.mean.detach()
    torch.testing.assert_close(module.log_std.grad, noise)
