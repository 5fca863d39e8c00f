"""Inputs of networks for frames whose channels are observed separately, as in a table."""

import torch
from torch import Tensor, nn

from models.parts.gain_shape import reader
from models.parts.likelihoods import Marginal, Standardize


class EntryReader(Standardize):
    """A module that standardises the values in (y, observed, gap) [..., 3 D], and sets those not observed to 0.

    The three parts are concatenated, each [..., D]: values, flags of the observed ones (1 or 0), and log(1 + time since
    the last observation of each channel). The last two are unchanged."""

    def __init__(self, marginal: Marginal) -> None:
        super().__init__(marginal)
        self.width *= 3

    def forward(self, x: Tensor) -> Tensor:
        y, observed, gap = x.chunk(3, -1)
        return torch.cat([super().forward(y) * observed, observed, gap], -1)


class LinearByPass(nn.Module):
    """An affine map for each of R passes: [R, N, inputs] -> [R, N, outputs], initialised as torch.nn.Linear."""

    def __init__(self, passes: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(passes, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(passes, 1, outputs))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight.mT)


class Widths:
    """Numbers of inputs that describe the observations around a time.

    Args:
        marginal: moments of the data, with their form if they are a table.
        gain_shape: whether frames are read as a gain and a shape.
    """

    def __init__(self, marginal: Marginal, gain_shape: bool) -> None:
        table, D = marginal.table, len(marginal.mean)
        self.frame = reader(marginal, gain_shape).width if table is None else 2 * D
        """Number of inputs for the last or next observed frame. For a table: channels' values, and which have one."""
        self.gap = 1 if table is None else D
        """Number of inputs for the time since or until that frame; in a table, one per channel."""
        self.static = 0 if table is None else table.static
        """Number of inputs for the static covariates."""

    def past(self, see_last: bool, see_gaps: bool) -> int:
        """Return the number of inputs of a decoder that describe the past, beside the state."""
        return self.frame * see_last + self.gap * see_gaps + self.static
