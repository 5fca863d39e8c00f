"""A trained model as served by MLflow: observed frames in, frames at any time out.

MLflow copies this file and `models/` to the weights and imports it there as `served`, so that it may import only
`models` and `driftwork`. Nothing is pickled: the description is JSON, the weights are safetensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator
from safetensors.torch import load_file
from torch import Tensor

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from driftwork.plugins import imported
from models.base import Forecaster, Model, Smoother, StateSpace
from models.batch import Batch
from models.decisions import Neighbours, completed, joined
from models.generation import BatchAtTimes, FramesAtTimes, interpolate_at
from models.parts.likelihoods import LikelihoodName, Marginal, TableForm
from models.registry import ModelConfig, build_model

DESCRIPTION, WEIGHTS = "description.json", "weights.safetensors"
COLUMNS = ("times", "values", "ask")

Task = Literal["interpolation", "prediction", "forecast"]
DECISIONS = ("expected_score", "0.5", "probability")
"""Form of binary frames in a response: decided by one of the rules of `models.decisions`, or probabilities."""

MOST_FRAMES = 20_000
"""Maximum number of given and requested frames of a sequence, whose states a model holds all at once."""
_DRAWS_AT_ONCE = 8


class TableSettings(Config):
    """Form of a table, whose channels are observed separately."""

    channels: tuple[str, ...]
    """Name of each channel."""
    binary: tuple[bool, ...]
    """Whether all values of a channel are 0 or 1, for each channel."""
    static: int
    """Number of static covariates of a sequence."""


class Description(Config):
    """Settings to build and run a model, beside its weights."""

    plugins: Annotated[tuple[str, ...], AfterValidator(imported)] = ()
    """Modules that the model needs beside `models`; they are copied with it."""
    model: ModelConfig
    """Model config of the run."""
    likelihood: LikelihoodName
    """Observation model of the data."""
    mean: tuple[float, ...]
    """Mean of each of the D channels of the training data, in their units."""
    scale: float | tuple[float, ...]
    """Standard deviation of the training data, in their units: one for all channels, or for a table one per channel."""
    sequences: int
    """Number of training sequences."""
    binary: bool
    """Whether values are 0 or 1, and answers are probabilities."""
    units: str
    """Quantity and unit of a value."""
    interval: float
    """Time between frames of the data, in seconds."""
    length: int
    """Number of frames of the longest sequence of the data. A request may be up to ten times as long."""
    samples: int
    """Number of latent draws behind an answer, where a request does not set it."""
    table: TableSettings | None = None
    """Form of a table. Null where masks are of whole frames."""
    particles: int = 32
    """Number of particles behind a prediction of a model that has a filter, where a request does not set it."""

    @property
    def seconds(self) -> float:
        """Return the maximum length of a requested sequence, in seconds."""
        return 10 * self.interval * self.length

    def build(self) -> Model:
        mean = torch.tensor(self.mean, dtype=torch.float64).float()
        scale = torch.tensor(self.scale) if isinstance(self.scale, tuple) else self.scale
        form = None if self.table is None else TableForm(**self.table.model_dump())
        return build_model(self.model, self.likelihood, Marginal(mean, scale, self.sequences, form))


def tasks(model: Model) -> tuple[Task, ...]:
    """Return the tasks that a model can do; the first is the default of a request."""
    if isinstance(model, Forecaster):
        return ("forecast",)
    return ("interpolation",) if isinstance(model, Smoother) else ("interpolation", "prediction")


class Asked(NamedTuple):
    """Checked parameters of a request, for all its sequences."""

    task: Task
    samples: int
    particles: int
    seed: int
    decision: str


class Given(NamedTuple):
    """One checked sequence of a request."""

    times: NDArray[np.float64]
    """[K] times of the observed frames, in seconds from the beginning of the sequence, strictly increasing."""
    values: NDArray[np.float64]
    """[K, D] observed values; of a table NaN where a channel is not observed."""
    ask: NDArray[np.float64]
    """[Q] requested times, in seconds from the beginning of the sequence, strictly increasing."""
    static: int | None = None
    """Number of static covariates of a table, which are at their means; None where masks are of whole frames."""

    def batch(self, seed: int) -> Batch:
        """Return a batch of this one sequence, which begins at 0; there is no frame at 0 unless it was given."""
        at_0 = self.times[0] == 0
        times = self.times if at_0 else np.append(0.0, self.times)
        there = torch.from_numpy(np.isin(times, self.times))[None]
        values = self.values if at_0 else np.concatenate([np.zeros_like(self.values[:1]), self.values])
        if self.static is not None:
            there = there[..., None] & torch.from_numpy(np.isfinite(values))[None]
        return Batch(
            torch.from_numpy(times)[None], torch.from_numpy(np.nan_to_num(values).astype(np.float32))[None], there,
            there, torch.ones(1), torch.tensor([seed]), ("",), static=torch.zeros(1, self.static or 0),
        )  # fmt: skip


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a `DriftworkError` within the context into the error for which a server responds 400."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except DriftworkError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from None


class Served:
    """The model object that MLflow calls."""

    def __init__(self, description: Description, weights: dict[str, Tensor]) -> None:
        self.description = description
        self.model = description.build()
        self.model.load_state_dict(weights)
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return for each row of the data frame the requested `times` and `values` [Q][D].

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, for which a server responds 400.
        """
        with refusing():
            asked = self.asked(params or {})
            rows = [self._checked(row, number) for number, row in enumerate(model_input.to_dict("records"), 1)]
            if not rows:
                raise DriftworkError("no sequence is given; send a row for each")
            return [{"times": row.ask.tolist(), "values": self.answer(row, asked).tolist()} for row in rows]

    @torch.inference_mode()
    def answer(self, given: Given, asked: Asked) -> Tensor:
        """Return frames [Q, D] at the requested times: expectations in the units of the data, or decided notes."""
        filled = self._filled(given, asked)
        if asked.decision == "probability":
            return filled.frames[0]
        notes = completed(*filled, "0.5" if asked.decision == "0.5" else "expected_score")
        if asked.task != "prediction":  # a prediction must not read the next given frame
            known, values, ask = (torch.from_numpy(x) for x in (given.times, given.values, given.ask))
            notes = joined(notes, Neighbours.of(known, values[None], ask, self.description.interval))
        return notes[0].to(filled.frames)

    def _filled(self, given: Given, asked: Asked) -> FramesAtTimes:
        batch, ask, samples = given.batch(asked.seed), torch.from_numpy(given.ask), asked.samples
        if asked.task == "interpolation" and not isinstance(self.model, Forecaster):
            return interpolate_at(self.model, batch, ask, samples)
        nothing = torch.zeros(1, len(ask), dtype=torch.bool)
        if isinstance(self.model, Forecaster):
            return FramesAtTimes(_forecast(self.model, batch, ask, samples)[None], nothing)
        assert not isinstance(self.model, Smoother), "a smoother only interpolates"
        extended = BatchAtTimes.of(batch, ask)
        draws = asked.particles if isinstance(self.model, StateSpace) else samples
        mean = self.model.predict(self.model.on_device(extended.batch), draws).mean.cpu()
        return FramesAtTimes(mean[:, extended.requested], nothing)

    def asked(self, params: dict[str, Any]) -> Asked:
        """Check the parameters of a request."""
        known = tasks(self.model)
        task, seed = params.get("task") or known[0], int(params.get("seed") or 0)
        if task not in known:
            raise DriftworkError(
                f"task={task}: {self.description.model.name} supports {' and '.join(known)}; request one of these"
            )
        samples, particles = (self._number_of(name, params) for name in ("samples", "particles"))
        if seed < 0:
            raise DriftworkError(f"seed={seed}: must not be negative")
        decision = str(params.get("decision") or "probability")
        if decision not in DECISIONS:
            raise DriftworkError(f"decision={decision}: must be one of {', '.join(DECISIONS)}")
        if decision != "probability" and (not self.description.binary or self.description.table is not None):
            raise DriftworkError(f"decision={decision}: this model's data are not binary; leave it out")
        return Asked(task, samples, particles, seed, decision)

    def _number_of(self, name: str, params: dict[str, Any]) -> int:
        number = int(getattr(self.description, name) if params.get(name) is None else params[name])
        if not 1 <= number <= 1000:
            raise DriftworkError(f"{name}={number}: must be from 1 to 1000")
        return number

    def _checked(self, row: dict[str, Any], number: int) -> Given:
        """Check a row and return it as a sequence. Raises `DriftworkError` with the row's number."""
        where, about = f"sequence {number}", self.description
        times, ask = (_numbers(row, name, where) for name in ("times", "ask"))
        values = _numbers(row, "values", where, missing=about.table is not None)
        for name, x in (("times", times), ("ask", ask)):
            if x.ndim != 1:
                raise DriftworkError(f"{where}: {name} must be a list of numbers, seconds")
            if (np.diff(x) <= 0).any():
                raise DriftworkError(f"{where}: {name} must increase from each to the next")
            if x[0] < 0:
                raise DriftworkError(f"{where}: {name} begins at {x[0]:g}; the sequence begins at 0 s")
        D = len(about.mean)
        if values.shape != (len(times), D):
            shape = " x ".join(map(str, values.shape))
            raise DriftworkError(
                f"{where}: values are {shape}, not {len(times)} x {D}; send a frame of {D} numbers for each time"
            )
        if about.binary and not np.isin(values[np.isfinite(values)], (0, 1)).all():
            raise DriftworkError(f"{where}: values must be 0 or 1, as this model's data are")
        last, most = max(times[-1], ask[-1]), about.seconds
        if last > most:
            raise DriftworkError(f"{where}: extends to {last:g} s; request times up to {most:g} s")
        if len(times) + len(ask) > MOST_FRAMES:
            raise DriftworkError(f"{where}: has {len(times) + len(ask)} frames; send at most {MOST_FRAMES}")
        if about.table is not None:
            return Given(times, values, ask, about.table.static)
        if isinstance(self.model, Forecaster):
            A = self.model.given
            first = np.arange(A) * about.interval
            if len(times) < A or not np.allclose(times[:A], first, rtol=0, atol=about.interval / 100):
                needed = ", ".join(f"{time:g}" for time in first)
                raise DriftworkError(f"{where}: a forecast needs the first {A} frames, at {needed} s; send them")
        return Given(times, values, ask)


def _forecast(model: Forecaster, batch: Batch, ask: Tensor, samples: int) -> Tensor:
    """Return the mean of the draws [Q, D], a few at a time, since each holds all of its states."""
    times = torch.cat([ask.new_zeros(1), ask]).unique()
    total = torch.zeros(len(times), batch.values.shape[2])
    first = batch.first(model.given).to(next(model.parameters()).device)
    for n in range(0, samples, _DRAWS_AT_ONCE):
        numbers = range(n, min(n + _DRAWS_AT_ONCE, samples))
        total += model.draws(first, numbers, times[None])[1].sum(0)[0].cpu()
    return (total / samples)[torch.searchsorted(times, ask)]


def _numbers(row: dict[str, Any], name: str, where: str, missing: bool = False) -> NDArray[np.float64]:
    """Return a column of a row; with `missing`, NaN and null stand for a missing value."""
    try:
        numbers = np.array(row[name], dtype=np.float64)
    except (KeyError, TypeError, ValueError):  # also for rows of unequal length
        raise DriftworkError(f"{where}: {name} must be numbers, and frames of equal length") from None
    if numbers.ndim == 0 or numbers.size == 0:
        raise DriftworkError(f"{where}: {name} is empty; give at least one")
    if not (np.isfinite(numbers) | (missing & np.isnan(numbers))).all():
        raise DriftworkError(f"{where}: {name} holds NaN or an infinite number; leave out a frame that is missing")
    return numbers


def _load_pyfunc(path: str) -> Served:
    """Load the model from the folder of description and weights; MLflow calls it first."""
    folder = Path(path)
    description = Description.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return Served(description, load_file(folder / WEIGHTS))
