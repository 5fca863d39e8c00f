"""Frames of a waveform as a gain and a shape, as speech coders take them apart (Sabin and Gray, 1984).

Loudness runs over four orders of magnitude and says little about the form of the next wave: a network that reads a
frame divided by its own root mean square, and the logarithm of that, sees quiet and loud speech alike. A decoder that
says both can put the form of one frame at the loudness of another.
"""

import torch
from torch import Tensor

from driftwork.errors import DriftworkError
from models.parts.likelihoods import LIKELIHOODS, Gaussian, Likelihood, LikelihoodName, Marginal, Standardize
from models.parts.networks import Normal, full_precision

_SILENCE = 0.03
"""What is added, root of squares, to a gain, in units of the marginal's scale: below it a frame is noise."""


class GainShape(Standardize):
    """y [..., D] -> [..., D + 1]: (y - mean) / gain and log(gain / scale)."""

    def __init__(self, marginal: Marginal) -> None:
        super().__init__(marginal)
        self.width += 1

    def forward(self, y: Tensor) -> Tensor:
        standard = super().forward(y)
        gain = (standard.square().mean(-1, keepdim=True) + _SILENCE**2).sqrt()
        return torch.cat([standard / gain, gain.log()], -1)


class GainShapeGaussian(Gaussian):
    """Parameters are the logarithm of a gain, and mean and log standard deviation a channel in units of it."""

    def __init__(self, marginal: Marginal) -> None:
        super().__init__(marginal)
        self.width += 1

    def normal(self, parameters: Tensor) -> Normal:
        parameters = full_precision(parameters)
        log_gain = 4.0 * torch.tanh(parameters[..., :1] / 4.0)  # in [-4, 4], smoothly, as a standard deviation is held
        shape = Normal.of(parameters[..., 1:])
        return Normal(shape.mean * log_gain.exp(), shape.log_std + log_gain)


def reader(marginal: Marginal, gain_shape: bool) -> Standardize:
    """What brings frames to a network's scale; its `width` says how many numbers it makes of one."""
    return GainShape(marginal) if gain_shape else Standardize(marginal)


def likelihood(name: LikelihoodName, marginal: Marginal, gain_shape: bool) -> Likelihood:
    """Raises `DriftworkError` where frames of zeros and ones are to have a gain."""
    if not gain_shape:
        return LIKELIHOODS[name](marginal)
    if name != "gaussian":
        raise DriftworkError(f"model.gain_shape=true: frames of a {name} likelihood have no gain")
    return GainShapeGaussian(marginal)
