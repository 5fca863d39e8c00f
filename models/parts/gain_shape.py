"""Frames of a waveform as a gain and a shape, a decomposition used in speech coding (Sabin and Gray, 1984).

Loudness spans four orders of magnitude and hardly predicts the form of the next wave. A network that reads a frame
divided by its root mean square, and the logarithm of this number, treats quiet and loud speech alike. A decoder that
outputs both can combine the form of one frame with the loudness of another.
"""

import torch
from torch import Tensor

from models.parts.likelihoods import Gaussian, Marginal, Standardize
from models.parts.networks import Normal, full_precision

_SILENCE = 0.03
"""Noise floor of a gain, in units of the marginal's scale: gain = sqrt(mean square + floor^2)."""


class GainShape(Standardize):
    """The map y [..., D] -> [..., D + 1]: (y - mean) / gain and log(gain / scale)."""

    def __init__(self, marginal: Marginal) -> None:
        super().__init__(marginal)
        self.width += 1

    def forward(self, y: Tensor) -> Tensor:
        standard = super().forward(y)
        gain = (standard.square().mean(-1, keepdim=True) + _SILENCE**2).sqrt()
        return torch.cat([standard / gain, gain.log()], -1)


class GainShapeGaussian(Gaussian):
    """A Gaussian whose parameters are the logarithm of a gain, then each channel's mean and log standard deviation in
    units of that gain."""

    def __init__(self, marginal: Marginal) -> None:
        super().__init__(marginal)
        self.width += 1

    def normal(self, parameters: Tensor) -> Normal:
        parameters = full_precision(parameters)
        log_gain = 4.0 * torch.tanh(parameters[..., :1] / 4.0)  # in [-4, 4], smoothly, as a standard deviation is held
        shape = Normal.of(parameters[..., 1:])
        return Normal(shape.mean * log_gain.exp(), shape.log_std + log_gain)


def reader(marginal: Marginal, gain_shape: bool) -> Standardize:
    """Return the module that scales frames for a network. Its `width` is the number of outputs per frame."""
    return GainShape(marginal) if gain_shape else Standardize(marginal)
