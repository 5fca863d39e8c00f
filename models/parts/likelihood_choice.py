"""All likelihoods by name, and the one that a model's config asks for; where one is added."""

from collections.abc import Callable
from typing import NamedTuple

from driftwork.errors import DriftworkError
from driftwork.registry import source_of
from models.parts.gain_shape import GainShapeGaussian
from models.parts.likelihoods import Bernoulli, Gaussian, Likelihood, LikelihoodName, Marginal


class Choice(NamedTuple):
    """A likelihood that a config can name."""

    make: Callable[[Marginal], Likelihood]
    data: LikelihoodName
    """Data that it is for: `bernoulli` for zeros, ones and greys, `gaussian` for other numbers."""


LIKELIHOODS = {"bernoulli": Choice(Bernoulli, "bernoulli"), "gaussian": Choice(Gaussian, "gaussian")}


def add(name: str, make: Callable[[Marginal], Likelihood], data: LikelihoodName) -> None:
    """Add a likelihood that `model.likelihood` can name, for the data that `data` suits.

    Raises:
        DriftworkError: the name is taken.
    """
    other = LIKELIHOODS.get(name)
    if other is not None and source_of(other.make) != source_of(make):
        raise DriftworkError(f"there is a likelihood '{name}' already, {source_of(other.make)}; take another name")
    LIKELIHOODS[name] = Choice(make, data)


def known(name: str | None) -> str | None:
    """Return the name. Raises `ValueError` where no likelihood has it."""
    if name is not None and name not in LIKELIHOODS:
        raise ValueError(f"there is no such likelihood; there are {', '.join(LIKELIHOODS)}")
    return name


def likelihood(name: str | None, data: LikelihoodName, marginal: Marginal, gain_shape: bool) -> Likelihood:
    """Return the likelihood `name`, or where it is None the one that suits the data; with a gain and a shape if
    `gain_shape` is set.

    Raises:
        DriftworkError: it is for other data, or `gain_shape` is set for another likelihood than the Gaussian.
    """
    choice = LIKELIHOODS[name or data]
    if choice.data != data:
        raise DriftworkError(
            f"model.likelihood={name}: it is for {choice.data} data, and these are {data}; leave it out"
        )
    if not gain_shape:
        return choice.make(marginal)
    if (name or data) != "gaussian":
        raise DriftworkError(f"model.gain_shape=true: frames of a {name or data} likelihood have no gain; remove it")
    return GainShapeGaussian(marginal)
