"""Registry of all likelihoods by name, and the choice of the one for a model. Add a new likelihood here."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import NamedTuple

import torch

from driftwork.errors import DriftworkError
from driftwork.registry import source_of
from models.parts.gain_shape import GainShapeGaussian
from models.parts.likelihoods import Bernoulli, Gaussian, Likelihood, LikelihoodName, Marginal, TableForm
from models.parts.table_likelihoods import LikelihoodByChannel, StudentT


class Choice(NamedTuple):
    """A likelihood that a config can name."""

    make: Callable[[Marginal], Likelihood]
    data: LikelihoodName
    """Kind of data that the likelihood suits: `bernoulli` for zeros, ones and greys, `gaussian` for other numbers."""


LIKELIHOODS = {
    "bernoulli": Choice(Bernoulli, "bernoulli"),
    "gaussian": Choice(Gaussian, "gaussian"),
    "student_t": Choice(StudentT, "gaussian"),
}

OfChannels = Mapping[str, tuple[str, ...]]
"""Map from the name of a likelihood to the channels of a table that take it."""


def add(name: str, make: Callable[[Marginal], Likelihood], data: LikelihoodName) -> None:
    """Add a likelihood, which `model.likelihood` can then name, for the kind of data `data`.

    Raises:
        DriftworkError: the name is taken.
    """
    other = LIKELIHOODS.get(name)
    if other is not None and source_of(other.make) != source_of(make):
        raise DriftworkError(f"likelihood '{name}' exists already, from {source_of(other.make)}; choose another name")
    LIKELIHOODS[name] = Choice(make, data)


def known(name: str | None) -> str | None:
    """Return the name. Raises `ValueError` if no likelihood has it."""
    if name is not None and name not in LIKELIHOODS:
        raise ValueError(f"there is no such likelihood; choose one of {', '.join(LIKELIHOODS)}")
    return name


def all_known(channels: OfChannels) -> OfChannels:
    """Return the map. Raises `ValueError` for a name that no likelihood has."""
    for name in channels:
        known(name)
    return channels


def likelihood(
    name: str | None, data: LikelihoodName, marginal: Marginal, gain_shape: bool, channels: OfChannels | None = None
) -> Likelihood:
    """Build the likelihood `name`, or the one that suits the data if it is None.

    With `gain_shape` it models a gain and a shape. In a table, binary channels take `bernoulli`, and `channels` maps
    the name of a likelihood to the channels that take it.

    Raises:
        DriftworkError: the likelihood is for other data, `gain_shape` is set with a likelihood other than the Gaussian
            or for a table, or `channels` names a channel that is not in a table.
    """
    choice = LIKELIHOODS[name or data]
    if choice.data != data:
        raise DriftworkError(
            f"model.likelihood={name}: it is for {choice.data} data, but these are {data}; leave it out"
        )
    if gain_shape and (marginal.table is not None or (name or data) != "gaussian"):
        what = "a table" if marginal.table is not None else f"a {name or data} likelihood"
        raise DriftworkError(f"model.gain_shape=true: frames of {what} have no gain; remove it")
    if marginal.table is not None:
        return _of_table(name or data, data, marginal, marginal.table, channels or {})
    if channels:
        raise DriftworkError("model.likelihoods: these data are not a table with named channels; remove it")
    return GainShapeGaussian(marginal) if gain_shape else choice.make(marginal)


def _of_table(
    name: str, data: LikelihoodName, marginal: Marginal, table: TableForm, channels: OfChannels
) -> Likelihood:
    binary = [data == "bernoulli" or own for own in table.binary]
    names = ["bernoulli" if own else name for own in binary]
    named: set[int] = set()
    for chosen, some in channels.items():
        for channel in some:
            if channel not in table.channels:
                near = ", ".join(table.channels[:20])
                raise DriftworkError(
                    f"model.likelihoods.{chosen}: there is no channel '{channel}'; choose among {near}"
                )
            at = table.channels.index(channel)
            if at in named:
                raise DriftworkError(f"model.likelihoods: channel '{channel}' has two likelihoods; name it once")
            named.add(at)
            if LIKELIHOODS[chosen].data == "bernoulli" and not binary[at]:
                raise DriftworkError(
                    f"model.likelihoods.{chosen}: channel '{channel}' has other values than 0 and 1; leave it out"
                )
            names[at] = chosen
    kinds = list(dict.fromkeys(names))
    for kind in kinds:
        if "observed" not in signature(LIKELIHOODS[kind].make(marginal).log_prob).parameters:
            raise DriftworkError(
                f"model.likelihood={kind}: its log_prob takes no mask of channels, which a table needs; add the "
                "argument observed, as in docs/extending.md"
            )
    if len(kinds) == 1:
        return LIKELIHOODS[kinds[0]].make(marginal)
    indices = [torch.tensor([at for at, own in enumerate(names) if own == kind]) for kind in kinds]
    parts = [LIKELIHOODS[kind].make(marginal.of(at)) for kind, at in zip(kinds, indices, strict=True)]
    return LikelihoodByChannel(indices, parts)
