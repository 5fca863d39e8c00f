"""ELBO and IWAE bound of VSDN-SDE against the exact likelihood of a linear-Gaussian model."""

import pytest
import torch

from tests.models import problems
from tests.models.linear_gaussian import LinearGaussian


@pytest.fixture(scope="module")
def untrained():
    return LinearGaussian()


@pytest.fixture(scope="module")
def trained():
    return LinearGaussian().train_posterior(300)


def test_kalman_oracle_matches_dense_gaussian(untrained):
    torch.testing.assert_close(untrained.exact(), untrained.exact(problems.dense_log_likelihood), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_elbo_is_below_exact_log_likelihood(untrained, trained):
    """With a trained posterior the ELBO is also close to the log-likelihood."""
    exact, per_frame = untrained.exact(), untrained.batch.observed.sum()
    gaps = []
    for problem in (untrained, trained):
        with torch.no_grad():
            terms = problem.model.density(problem.draws(500), 1)[0]
        bound = (terms.log_likelihood - terms.kl).view(-1, 500)
        error = bound.std(1) / 500**0.5
        assert (bound.mean(1) < exact + 4 * error).all()
        gaps.append(float((exact - bound.mean(1)).sum() / per_frame))
    assert gaps[1] < 0.1, gaps  # nats per observation
    assert gaps[1] < 0.1 * gaps[0], gaps


@pytest.mark.slow
@pytest.mark.parametrize("which", ["untrained", "trained"])
def test_iwae_bound_rises_to_exact_log_likelihood(which, request):
    problem = request.getfixturevalue(which)
    bounds = [problem.bounds(K, 64) for K in (1, 8, 64)]
    exact = problem.exact()
    for bound in bounds:
        assert (bound.mean(1) < exact + 4 * bound.std(1) / 8).all()
    means = [float(bound.mean()) for bound in bounds]
    assert means[0] < means[1] < means[2]
    if which == "trained":
        assert float(exact.mean()) - means[2] < 0.05


@pytest.mark.slow
def test_importance_weights_are_unbiased(trained):
    """The expectation of the weights is the likelihood."""
    exact = trained.exact()
    weights = (trained.bounds(1, 2000) - exact[:, None]).exp()
    assert (abs(weights.mean(1) - 1) < 5 * weights.std(1) / 2000**0.5).all()
    assert (weights.std(1) < 3).all()
