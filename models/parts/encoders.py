"""Encoders and decoders of ODE2VAE: dense networks for motion, convolutional ones for square images."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from driftwork.errors import DriftworkError
from models.parts.likelihoods import Marginal, Standardize
from models.parts.networks import Normal, mlp
from models.solvers.flow import ActivationName

NetworkKind = Literal["dense", "conv"]

_MODULES: dict[ActivationName, type[nn.Module]] = {"tanh": nn.Tanh, "elu": nn.ELU, "relu": nn.ReLU}


class Encoder(nn.Module):
    """The encoder q(s_0 | x_0) q(v_0 | x_0, ..., x_{A-1}), as one Gaussian over z_0 = (s_0, v_0).

    A frame of the window that is not observed is replaced by the nearest observed one, and both networks also read
    which frames are observed. Frames are standardised by the training split's marginal.

    Args:
        frames: A, the number of frames. latent: q, the number of components of s, and of v.
        kind, width, activation: form of both networks, see `network`.
    """

    distances: Tensor

    def __init__(
        self, marginal: Marginal, frames: int, latent: int, kind: NetworkKind, width: int, activation: ActivationName
    ) -> None:
        super().__init__()
        self.frames = frames
        self.register_buffer("distances", _distances(frames), persistent=False)
        self.standardize = Standardize(marginal)
        D = len(marginal.mean)
        self.position = network(1, D, frames, kind, width, 2 * latent, activation)
        self.velocity = network(frames, D, frames, kind, width, 2 * latent, activation)

    def forward(self, window: Tensor, observed: Tensor) -> Normal:
        """Encode the first A frames [..., A, D], of which `observed` [..., A] bool are observed, to [..., 2 q]."""
        x = self.standardize(_fill(window, observed, self.distances))
        flags = observed.to(x.dtype)
        s_mean, s_raw = self.position(_input(x[..., :1, :], flags)).chunk(2, -1)
        v_mean, v_raw = self.velocity(_input(x, flags)).chunk(2, -1)
        return Normal.of(torch.cat([s_mean, v_mean, s_raw, v_raw], -1))


class EntryEncoder(nn.Module):
    """The encoder of a table, q(z_0 | first A frames).

    Both of its networks read all of these frames, their times, which channels are observed in them, and the static
    covariates. A missing value is replaced by the nearest observed value of its channel in the window, or by the
    channel's mean if there is none.

    Args:
        frames: A, the number of frames. latent: q. width, activation: form of both networks, which are dense.
        unit: length of one unit of time, seconds.
    """

    distances: Tensor

    def __init__(
        self, marginal: Marginal, frames: int, latent: int, width: int, activation: ActivationName, unit: float
    ) -> None:
        super().__init__()
        assert marginal.table is not None, "the data are a table"
        self.unit = unit
        self.register_buffer("distances", _distances(frames), persistent=False)
        self.standardize = Standardize(marginal)
        inputs = frames * (2 * len(marginal.mean) + 1) + marginal.table.static
        self.position, self.velocity = (mlp(inputs, width, 2, 2 * latent, _MODULES[activation]) for _ in range(2))

    def forward(self, window: Tensor, observed: Tensor, times: Tensor, static: Tensor) -> Normal:
        """Encode the first A frames [..., A, D] to [..., 2 q].

        `observed` [..., A, D] bool are the observed entries, `times` [..., A] are in seconds, `static` [..., S] are the
        covariates."""
        filled = _fill(window.mT[..., None], observed.mT, self.distances)[..., 0].mT
        x = self.standardize(filled) * observed.any(-2, keepdim=True)
        gaps = ((times - times[..., :1]) / self.unit).log1p().to(x.dtype)
        inputs = torch.cat([x.flatten(-2), observed.to(x.dtype).flatten(-2), gaps, static], -1)
        s_mean, s_raw = self.position(inputs).chunk(2, -1)
        v_mean, v_raw = self.velocity(inputs).chunk(2, -1)
        return Normal.of(torch.cat([s_mean, v_mean, s_raw, v_raw], -1))


def encoder(
    marginal: Marginal, frames: int, latent: int, kind: NetworkKind, width: int, activation: ActivationName, unit: float
) -> Encoder | EntryEncoder:
    """Return the encoder that suits the data. Raises `DriftworkError` for convolutions over the rows of a table."""
    if marginal.table is None:
        return Encoder(marginal, frames, latent, kind, width, activation)
    if kind != "dense":
        raise DriftworkError(f"model.networks={kind}: a row of a table is not a picture; set model.networks=dense")
    return EntryEncoder(marginal, frames, latent, width, activation, unit)


def _distances(frames: int) -> Tensor:
    """Return the distance of each frame from each of A frames, [A, A]. Of two equally near frames the earlier counts as
    nearer."""
    at = torch.arange(frames)
    return 2 * (at[:, None] - at).abs() + (at > at[:, None])


def _fill(window: Tensor, observed: Tensor, distances: Tensor) -> Tensor:
    """Replace each frame that is not observed by the nearest observed one (the earlier of two); 0 if there is none."""
    A = observed.shape[-1]
    distance = distances.expand(*observed.shape, A)  # [..., A, of A]
    nearest = torch.where(observed[..., None, :], distance, 2 * A).argmin(-1)
    filled = window.gather(-2, nearest[..., None].expand_as(window))
    return torch.where(observed.any(-1)[..., None, None], filled, 0.0)


def _input(x: Tensor, flags: Tensor) -> Tensor:
    return torch.cat([x.flatten(-2), flags], -1)


def network(
    frames: int, dim: int, flags: int, kind: NetworkKind, width: int, outputs: int, activation: ActivationName
) -> nn.Module:
    """Build an encoder network [..., frames * dim + flags] -> [..., outputs].

    It has two hidden layers of `width` units, or four convolutions of 1, 2, 4 and 8 times `width` channels that each
    halve a square image."""
    if kind == "dense":
        return mlp(frames * dim + flags, width, 2, outputs, _MODULES[activation])
    return ConvEncoder(frames, side_of(dim), flags, width, outputs)


def decoder(
    dim: int, latent: int, kind: NetworkKind, width: int, outputs: int, activation: ActivationName
) -> nn.Module:
    """Build a decoder network, the mirror of `network`: s [..., latent] -> parameters of the likelihood [...,
    outputs]."""
    if kind == "dense":
        return mlp(latent, width, 2, outputs, _MODULES[activation])
    return ConvDecoder(side_of(dim), latent, width)


def side_of(dim: int) -> int:
    """Return the number of pixels along a side of a square image of `dim` pixels.

    Raises:
        ValueError: the image is not square, or its side is less than 8 or not divisible by 4.
    """
    side = math.isqrt(dim)
    if side * side != dim or side % 4 or side < 8:
        raise ValueError(
            "networks=conv needs square images with a side of 8 or more that is divisible by 4, "
            f"not {dim} channels; set networks=dense"
        )
    return side


class ConvEncoder(nn.Module):
    """A convolutional encoder with kernels and strides as published. It has group instead of batch normalisation, so
    that a sequence's encoding does not depend on the others of its batch."""

    def __init__(self, frames: int, side: int, flags: int, width: int, outputs: int) -> None:
        super().__init__()
        self.shape = (frames, side, side)
        channels = [frames, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.GroupNorm(1, after), nn.ReLU()]
            side = (side + 1) // 2
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels[-1] * side * side + flags, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pixels = math.prod(self.shape)
        images = x[..., :pixels].reshape(-1, *self.shape)
        features = self.trunk(images).unflatten(0, x.shape[:-1])
        encoded: Tensor = self.head(torch.cat([features, x[..., pixels:]], -1))
        return encoded


class ConvDecoder(nn.Module):
    """Transposed convolutions of 4, 2 and 1 times `width` channels, then one to a single image, as published: 28 x 28
    grows from 3 x 3, 32 x 32 from 4 x 4."""

    def __init__(self, side: int, latent: int, width: int) -> None:
        super().__init__()
        quarter = side // 4
        start = quarter // 2  # 7 grows from 3, 8 from 4
        grow = (3, 2, 0, 0) if quarter % 2 else (5, 2, 2, 1)
        channels = [8, 4 * width, 2 * width, width]
        layers: list[nn.Module] = [nn.Linear(latent, 8 * start * start), nn.Unflatten(1, (8, start, start))]
        for i, (before, after) in enumerate(pairwise(channels)):
            layers += [
                nn.ConvTranspose2d(before, after, *(grow if i == 0 else (5, 2, 2, 1))),
                nn.GroupNorm(1, after),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, 1, 5, padding=2), nn.Flatten())

    def forward(self, s: Tensor) -> Tensor:
        images: Tensor = self.layers(s.reshape(-1, s.shape[-1]))
        return images.unflatten(0, s.shape[:-1])
