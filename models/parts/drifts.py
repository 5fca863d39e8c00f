"""The networks N1 and N2 of VSDN-SDE's drifts and diffusion, stacked for `sde_loop`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.networks import full_precision
from models.solvers.sde_loop import Weights


class Drifts(nn.Module):
    def __init__(self, past: int, future: int, latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.read_past, self.read_all = nn.Linear(past, width), nn.Linear(past + future, width)
        self.state = nn.Parameter(torch.empty(2, width, latent))
        self.hidden = nn.Parameter(torch.empty(depth - 1, 2, width, width)) if depth > 1 else None
        self.hidden_bias = nn.Parameter(torch.empty(depth - 1, 2, 1, width)) if depth > 1 else None
        self.prior, self.prior_bias = (
            nn.Parameter(torch.empty(2 * latent, width)),
            nn.Parameter(torch.empty(2 * latent)),
        )
        self.posterior, self.posterior_bias = (
            nn.Parameter(torch.empty(latent, width)),
            nn.Parameter(torch.empty(latent)),
        )
        for name, parameter in self.named_parameters(recurse=False):  # as torch.nn.Linear does
            bound = (latent if name == "state" else width) ** -0.5
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, past: Tensor, future: Tensor | None) -> tuple[Tensor, Weights]:
        """Return the part of the first layer that does not depend on X, [M, G, B, W], and the weights applied to X.

        Without `future` both are those of N1 alone."""
        G, latent = (1 if future is None else 2), len(self.posterior)
        shares = [self.read_past(past)]
        if future is not None:
            shares.append(self.read_all(torch.cat([past, future], -1)))
        V = torch.stack([self.prior, F.pad(self.posterior, (0, 0, 0, latent))])
        c = torch.stack([self.prior_bias, F.pad(self.posterior_bias, (0, latent))])[:, None]
        hidden, bias = (() if x is None else x[:, :G].unbind() for x in (self.hidden, self.hidden_bias))
        return full_precision(torch.stack(shares, 1)), Weights(self.state[:G], hidden, bias, V[:G], c[:G])
