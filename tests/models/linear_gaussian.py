"""A small VSDN-SDE, and a linear-Gaussian one whose likelihood is known exactly."""

import math

import torch

from models.batch import Batch
from models.parts.likelihoods import Marginal
from models.vsdn_sde import VsdnSde, VsdnSdeConfig
from tests.models import problems
from tests.models.problems import normal

LOW, HIGH = 0.2, 1.4
R = 0.5 * (LOW + HIGH)
STEP = 0.04
FRAME = 5 * STEP
NOISE = 2.2
"""The decoder's output that makes the observation noise 1.0, see `Normal.of`."""


def make_model(likelihood="gaussian", channels=3, seed=1, **options):
    torch.manual_seed(seed)
    config = {"latent": 2, "hidden": 8, "width": 16, "depth": 1, "max_step": STEP, "diffusion": (LOW, HIGH), **options}
    marginal = Marginal(torch.zeros(channels), 1.0)
    return VsdnSde(VsdnSdeConfig(name="vsdn_sde", **config), likelihood, marginal).double().eval()


class LinearGaussian:
    """A model whose prior is dX = -X dt + R dW, observed as y = C x + d + noise, and sequences drawn from it.

    The posterior's steps have the variance of the prior's, where the true posterior's would be smaller. The ELBO can
    therefore be tight only to the order of the step; there are several steps per frame.
    """

    def __init__(self):
        self.model = make_model(bound=8.0)
        Z, D = 2, 3
        self.C, self.d = normal(D, Z, seed=5), 0.3 * normal(D, seed=6)
        self.x0 = torch.tensor([0.8, -0.5], dtype=torch.float64)
        self.std = math.exp(4 * math.tanh(NOISE / 4) - 2)
        with torch.no_grad():
            for parameter in (self.model.drifts.prior, self.model.drifts.prior_bias, *self.model.decoder.parameters()):
                parameter.zero_()
            self.model.decoder.linear.weight[:D, :Z] = self.C
            self.model.decoder.linear.bias[:D] = self.d
            self.model.decoder.linear.bias[D:] = NOISE
            self.model.x0.copy_(self.x0)
        self.batch = self.draw(B=4, T=8)

    def draw(self, B, T):
        x, values = self.x0.expand(B, -1), []
        for n in range(T):
            for noise in normal(5 if n > 0 else 0, B, 2, seed=40 + n):
                x = (1 - STEP) * x + STEP**0.5 * R * noise
            values.append(x @ self.C.T + self.d + self.std * normal(B, 3, seed=20 + n))
        times = (torch.arange(T, dtype=torch.float64) * FRAME).expand(B, T).contiguous()
        observed = torch.rand(B, T, generator=torch.Generator().manual_seed(0)) < 0.6
        present = torch.ones(B, T, dtype=torch.bool)
        return Batch(times, torch.stack(values, 1), present, observed, torch.ones(B), torch.arange(B), ("",) * B)

    def exact(self, method=problems.kalman_log_likelihood):
        """Return the log-likelihoods [B] of the model in its own steps."""
        return torch.tensor([method(*problem) for problem in self.problems()]).double()

    def kalman(self):
        """Return the exact mean and variance [B, T, D] of Y at every frame given the observations before it."""
        found = [problems.kalman(*problem) for problem in self.problems()]
        means, covariances = (torch.stack([getattr(f, name)[::5] for f in found]) for name in ("mean", "covariance"))
        variances = torch.einsum("dz,btzy,dy->btd", self.C, covariances, self.C)
        return means @ self.C.T + self.d, variances + self.std**2

    def problems(self):
        """Return the arguments of `problems.kalman` for each sequence, with a row per step of length STEP; every fifth
        row is a frame."""
        B, T, D = self.batch.values.shape
        rows = 5 * (T - 1) + 1
        y, observed = torch.zeros(B, rows, D, dtype=torch.float64), torch.zeros(B, rows, dtype=torch.bool)
        y[:, ::5], observed[:, ::5] = self.batch.values, self.batch.observed
        dt, std = torch.full((rows,), STEP, dtype=torch.float64), torch.full((D,), self.std, dtype=torch.float64)
        dt[0] = 0
        return [(self.x0, dt, R, y, observed, self.C, self.d, std) for y, observed in zip(y, observed, strict=True)]

    def draws(self, n):
        """Return every sequence n times, each copy with its own noise."""
        B = len(self.batch.observed)
        copies = [x.repeat_interleave(n, 0) for x in self.batch[:5]]
        return Batch(*copies, torch.arange(B * n) + 5000, ("",) * (B * n))

    def bounds(self, K, n):
        """Return the IWAE bound with K samples [B, n], nats."""
        with torch.no_grad():
            return self.model.density(self.draws(n), K)[1].view(-1, n)

    def train_posterior(self, steps):
        """Maximise the ELBO over the parameters of the posterior; prior and decoder are fixed."""
        model = self.model
        posterior = [
            *model.drifts.read_all.parameters(),
            model.drifts.posterior,
            model.drifts.posterior_bias,
            model.drifts.state,
        ]
        optimizer = torch.optim.Adam([*posterior, *model.gru_ode.parameters()], lr=1e-2)
        batch = self.draws(4)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (1 - step / steps)
            optimizer.zero_grad()
            model(batch._replace(seed=batch.seed + 10_000 * (step + 1)), 1.0).loss.mean().backward()
            optimizer.step()
        return self
