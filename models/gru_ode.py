"""GRU-ODE (De Brouwer et al., 2019) and ODE-RNN (Rubanova et al., 2019): a recurrent state that flows between
observations and jumps at them.

`GruOde` runs a pass forward in time, or one forward and one backward side by side, over the observed frames of each
sequence. The resulting `Trajectory` gives the state at any time. If channels are observed separately, as in a table, a
frame counts as observed if any of its channels is. The jump then also reads which channels are observed, and the time
since each was last observed in the direction of the pass. Static covariates set the first state.
"""

from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from driftwork.registry import Named
from models.batch import Batch, first_rows, moved, rows_at, time_since, time_until
from models.grids import Grids, clock_of, frames_of, grids_of
from models.parts.entries import EntryReader, LinearByPass
from models.parts.gain_shape import reader
from models.parts.likelihood_choice import all_known, known
from models.parts.likelihoods import Marginal
from models.parts.networks import full_precision
from models.parts.noise import keyed_normal
from models.parts.once import once
from models.solvers import recurrence, timegrid
from models.solvers.gru_flow import GruFlow

_HIDDEN = 1 << 22
"""Stream of a sequence's noise that selects the dropped components; latents and frames use smaller numbers."""


class DrivenConfig(Named):
    """Settings of all models that are driven by the states of a GRU-ODE or ODE-RNN."""

    hidden: int = Field(512, ge=1)
    """Number of recurrent units H in each direction of time."""
    max_step: float | None = Field(0.2, gt=0)
    """Longest step of the solver, in seconds. Null takes the value of `time_unit`."""
    time_unit: float | None = Field(1.0, gt=0)
    """Length of one unit of model time, in seconds. Choose about the time in which the state should be able to
    change. Null takes the mean time between neighbouring frames of the data, and the run's config stores it."""
    see_last: bool = False
    """Whether the decoder also reads the last observed frame, or in a table the last observed value of each channel."""
    see_gaps: bool = False
    """Whether the decoder also reads the time since the last observed frame, and networks that read the future also
    read the time until the next one. A time enters as log(1 + time / `time_unit`), in a table for each channel."""
    from_neighbours: bool = False
    """Whether predicted means are differences from observed neighbours: from the last observed value of each channel,
    and where the future is known (`bi_gru_ode`, the posterior of VSDN-VAE) from the straight line to the next. The
    networks before the decoder then also read these neighbours, except those of VSDN-SDE. False takes differences from
    the mean of the train split."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability, in training, that a component of the recurrent states is dropped (read as 0) for a whole sequence.
    The recurrence itself keeps it. 0 drops none."""
    likelihood: Annotated[str | None, AfterValidator(known)] = None
    """Name of the observation model. Null takes the one that suits the data, `bernoulli` or `gaussian`. In a table,
    binary channels take `bernoulli`, and the name is for the other channels."""
    likelihoods: Annotated[dict[str, tuple[str, ...]], AfterValidator(all_known)] = Field({})
    """Channels of a table by the name of their own observation model, as in `{student_t: [lactate, glucose]}`. All
    other channels take the one of `likelihood`; empty means all channels do."""
    gain_shape: bool = False
    """Whether frames are read and modelled as a gain and a shape, which suits waveforms. Off by default."""

    @model_validator(mode="after")
    def _gains_have_no_line(self) -> Self:
        if self.from_neighbours and self.gain_shape:
            raise ValueError("from_neighbours=true has no meaning with gain_shape=true; remove one of them")
        return self

    @property
    def unit(self) -> float:
        """Length of one unit of model time, in seconds."""
        assert self.time_unit is not None, "RunConfig.for_data sets time_unit before a model is made"
        return self.time_unit

    @property
    def step(self) -> float:
        """Longest step of the solver, in seconds."""
        return self.unit if self.max_step is None else self.max_step


class Events(NamedTuple):
    """The observed frames of each sequence, packed to the front.

    A frame of a table is observed if any of its channels is."""

    frame: Tensor
    """[B, K] int64, index of the frame."""
    valid: Tensor
    """[B, K] bool; False marks padding."""
    values: Tensor
    """[B, K, D] values of the observed frames; in a table 0 for channels that are not observed."""
    row: Tensor
    """[B, K] int64, index of the frame if all frames of the batch lie in one matrix [B * T, D]."""
    observed: Tensor | None = None
    """[B, K, D] bool, which channels are observed; None if masks are of whole frames."""

    steps: timegrid.TimeGrid | None = None
    """Steps of all passes, if they were computed when the batch was made."""

    @classmethod
    @once
    def of(cls, batch: Batch) -> "Events":
        if batch.plan is not None and isinstance(batch.plan.grids, Grids):
            batch.plan.check(batch)
            frame, valid, steps, _ = batch.plan.grids
        else:
            (frame, valid), steps = frames_of(batch.frames_observed), None
        row = frame + first_rows(len(frame), batch.times.shape[1], frame.device)
        events = cls(frame, valid, batch.values, row, steps=steps)
        values = events.take(batch.values)
        if not batch.entries:
            return events._replace(values=values)
        observed = events.take(batch.observed) & valid[..., None]
        return events._replace(values=torch.where(observed, values, 0.0), observed=observed)

    def take(self, frames: Tensor) -> Tensor:
        """Return the entries of `frames` [B, T, D] at the events: [B, K, D]."""
        return rows_at(frames, self.row)


class Trajectory(NamedTuple):
    """States of R passes (0: forward in time, 1: backward) on their time grids."""

    before: Tensor
    """[M, R, B, H] states just before the observation that ends a step."""
    after: Tensor
    """[M, R, B, H] states just after the observation that ends a step."""
    grid: timegrid.TimeGrid
    """Time grids of all rows, [R * B, ...]; a row is a sequence in a pass."""
    time_unit: float
    start: Tensor
    """[R, B, H] states from which the passes start."""

    def at_events(self, direction: int) -> tuple[Tensor, Tensor]:
        """Return the states [B, K, H] of pass `direction` just before and just after each event."""
        _, R, B, _ = self.before.shape
        row = self._row(self.grid.stop.view(R, B, -1)[direction], direction)
        return rows_at(self.before, row), rows_at(self.after, row)

    def at(self, direction: int, batch: Batch, *, after: bool) -> Tensor:
        """Return the state [B, T, H] at every frame of the batch, observed or not.

        At an observed frame it is the state just before the observation, or just after it if `after` is set."""
        clock = clock_of(batch, direction, self.time_unit)
        observed = batch.frames_observed
        return self._read(direction, clock, observed if after else torch.zeros_like(observed))

    def steps(self) -> tuple[Tensor, Tensor]:
        """Return two states [M, B, H] for each step of the forward grid.

        They are the forward state at its start and the backward state at its end, each just after any observation
        there."""
        start = torch.cat([self.start[:1], self.after[:-1, 0]])
        B, K = self.before.shape[2], self.grid.stop.shape[1]
        end, event = self.grid.end[:B], self.grid.event[:B]
        return start, self._read(1, end[:, -1:] - end, event < K).transpose(0, 1)

    def _read(self, direction: int, clock: Tensor, after: Tensor) -> Tensor:
        """Return the state [B, Q, H] of a pass at times [B, Q] of its own clock; after an observation if `after`."""
        step, fraction = timegrid.locate(self.rows(direction), clock)
        row = self._row(step, direction)
        end = rows_at(self.before, row)
        # The state a step starts from.
        started = rows_at(self.after, self._row((step - 1).clamp_min(0), direction))
        start = torch.where((step > 0)[..., None], started, self.start[direction, :, None])
        state = torch.lerp(start, end, fraction[..., None].to(end.dtype))
        return torch.where(after[..., None], rows_at(self.after, row), state)

    def _row(self, step: Tensor, direction: int) -> Tensor:
        """Return the row of a pass's states at its steps [B, K], if all states lie in one matrix [M * R * B, H]."""
        _, R, B, _ = self.before.shape
        first = torch.arange(direction * B, (direction + 1) * B, device=step.device)[:, None]
        return torch.add(first, step, alpha=R * B)

    def rows(self, direction: int) -> timegrid.TimeGrid:
        """Return the grid of one pass."""
        B = self.before.shape[2]
        return timegrid.TimeGrid(*(x[direction * B : (direction + 1) * B] for x in self.grid))


class GruOde(nn.Module):
    """Flow dh/dt = f(h), update h+ = GRUCell(y, h-).

    Args:
        marginal: moments of the data, which bring the inputs to unit scale; for a table also its form.
        hidden: H. passes: 1 forward in time, 2 also backward.
        max_step: longest Euler step, seconds. time_unit: seconds that make one unit of t in dh/dt.
        flow: f, by default (1 - z) (g - h) with the gates of an input-free GRU cell.
        gain_shape: read frames as a gain and a shape.
        dropout: in training, probability that a component of a state is read as 0; the recurrence itself keeps it.
    """

    def __init__(
        self, marginal: Marginal, hidden: int, passes: int, max_step: float, time_unit: float,
        flow: type[recurrence.Flow] = GruFlow, gain_shape: bool = False, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.max_step, self.time_unit, self.passes, self.hidden = max_step, time_unit, passes, hidden
        self.dropout = dropout
        R, H = passes, hidden
        self.flow = flow
        self.flow_weights = [f"flow_{name}" for name in flow.shapes(R, H)]
        for name, shape in zip(self.flow_weights, flow.shapes(R, H).values(), strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.update = nn.Parameter(torch.empty(R, 3 * H, H))
        self.update_bias = nn.Parameter(torch.empty(R, 1, 3 * H))
        for name, parameter in self.named_parameters():  # as torch.nn.GRUCell and torch.nn.Linear do
            inputs = self.get_parameter(name.removesuffix("_bias")).shape[-1]
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)
        self.first = None
        if marginal.table is None:
            standardize = reader(marginal, gain_shape)
            self.project = nn.Sequential(standardize, nn.Linear(standardize.width, R * 3 * H))
            return
        entries = EntryReader(marginal)
        self.project = nn.Sequential(entries, LinearByPass(R, entries.width, 3 * H))
        if marginal.table.static:
            self.first = nn.Linear(marginal.table.static, R * H)

    def planner(self, multiple: int = 1, keep: Callable[[Batch], Batch] | None = None) -> Callable[[Batch], Grids]:
        """Return the function that computes the grids of a batch; the arguments are those of `grids_of`."""
        return partial(
            grids_of, passes=self.passes, max_step=self.max_step, time_unit=self.time_unit, multiple=multiple, keep=keep
        )

    @once
    def forward(self, batch: Batch, events: Events) -> Trajectory:
        """Run all passes over the events of the batch."""
        R, (B, K), grid = self.passes, events.valid.shape, events.steps
        if grid is None:  # the host waits for the times, if they are on a device
            grid = moved(self.planner()(batch.to(torch.device("cpu"))).steps, batch.times.device)
        dtype, start = events.values.dtype, self._start(batch)
        before, after = recurrence.run(
            start, self._at_steps(self._projected(batch, events), grid), self.flow,
            [self.get_parameter(name) for name in self.flow_weights], (self.update, self.update_bias),
            grid.dt.T.reshape(-1, R, B, 1).to(dtype), (grid.event < K).T.reshape(-1, R, B, 1).to(dtype),
        )  # fmt: skip
        if self.training and self.dropout > 0:
            mask = self._dropout_mask(batch.seed).to(dtype)
            before, after, start = before * mask, after * mask, start * mask
        return Trajectory(before, after, grid, self.time_unit, start)

    def _start(self, batch: Batch) -> Tensor:
        """Return the initial states [R, B, H]: 0, or a function of the static covariates."""
        B, R = len(batch.values), self.passes
        if self.first is None:
            return batch.values.new_zeros(R, B, self.hidden)
        first = full_precision(self.first(batch.static)).tanh().to(batch.values.dtype)
        return first.view(B, R, self.hidden).transpose(0, 1).contiguous()

    def _dropout_mask(self, seed: Tensor) -> Tensor:
        """Return the factors [R, B, H] of dropout: 0 for a dropped component, 1 / (1 - dropout) for the others.

        One draw is used at all times (Gal and Ghahramani, 2016). It is keyed, so that it does not depend on ranks and
        batches."""
        draw = keyed_normal(seed, self.passes, self.hidden, stream=_HIDDEN).transpose(0, 1)
        return (draw > NormalDist().inv_cdf(self.dropout)) / (1 - self.dropout)

    def _projected(self, batch: Batch, events: Events) -> Tensor:
        """Return the projected observations [R * B, K, 3H]."""
        (B, K), R = events.valid.shape, self.passes
        if events.observed is None:
            projected = full_precision(self.project(events.values))
            return projected.view(B, K, R, -1).permute(2, 0, 1, 3).reshape(R * B, K, -1)
        gaps = (time_since(batch, self.time_unit), time_until(batch, self.time_unit, own=False))[:R]
        observed = events.observed.to(events.values.dtype)
        read = torch.stack([torch.cat([events.values, observed, events.take(gap)], -1) for gap in gaps])
        return full_precision(self.project(read.flatten(1, 2))).view(R * B, K, -1)

    def _at_steps(self, projected: Tensor, grid: timegrid.TimeGrid) -> Tensor:
        """Return the projected observations [M, R, B, 3H] at the steps that end with one."""
        rows, K, H3 = projected.shape
        row = first_rows(rows, K, projected.device) + grid.event.clamp_max(K - 1)
        return rows_at(projected, row.T).view(-1, self.passes, rows // self.passes, H3)
