"""The config of a training run, a frozen tree of all its settings."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from driftwork.config_base import Config, build, load
from driftwork.errors import DriftworkError
from driftwork.plugins import Plugged
from launch.job.hostfile import HostsConfig
from launch.tracker.tracking import TrackingConfig
from models.baseline import GruOdeConfig
from models.ode2vae import Ode2VaeConfig
from models.registry import ModelConfig
from models.solvers.choice import Loops
from pipeline.observe import ObservationConfig
from pipeline.reading.augment import NO_CHANGE, AugmentConfig
from pipeline.reading.folds import FoldConfig
from pipeline.sequence import DataSpec
from pipeline.shards.storage import Place

CONFIG_FILE = "config.yaml"

Prediction = Literal["filter", "rollout"]


class OptimConfig(Config):
    lr: float = Field(1e-4, gt=0)
    """Learning rate of Adam, per update, after the warm-up and before any decay."""
    schedule: Literal["step", "cosine"] = "step"
    """Decay of the learning rate. `step` multiplies it by `lr_decay` every `lr_decay_steps` updates. `cosine` lowers it
    along half a cosine from the end of the warm-up to 0 after `train.max_epochs`, so choose it where training is likely
    to reach these."""
    lr_decay: float = Field(1.0, gt=0, le=1)
    """Factor of the learning rate every `lr_decay_steps` updates, with `schedule: step`. 1 keeps the rate constant."""
    lr_decay_steps: int = Field(200, ge=1)
    """Number of updates between two decays of the learning rate, with `schedule: step`."""
    warmup_steps: int = Field(0, ge=0)
    """Number of updates in which the learning rate rises linearly from 0 to its scheduled value. 0 starts at that
    value."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per update, such as 0.999, of an exponential moving average of the weights, which is validated and kept as
    the best weights. 0 keeps no average and uses the weights themselves."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of the gradient of the loss, in nats per frame; a larger gradient is scaled down to it. 0 does not
    clip."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """Stage of ZeRO: what DeepSpeed divides among the ranks. 0 divides nothing, which is the fastest for a small
    model; 1 divides the optimizer state, 2 also the gradients, 3 also the weights. Stage 3 gathers weights whenever
    they are used and is for models that do not fit otherwise."""
    autocast: bool = False
    """Whether networks compute in bfloat16. Solver states, densities and KL stay in float32."""
    tf32: bool = False
    """Whether training on a GPU rounds the factors of float32 products and convolutions to TF32, 10 bits of mantissa.
    Sums stay in float32. It has no effect on a CPU, and evaluation never rounds to TF32."""


def _range(value: str) -> str:
    start, _, stop = value.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise ValueError("must be START:STOP, two numbers of steps, the smaller first")
    return value


class TrainConfig(Config):
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the order of sequences, the observed frames and all noise."""
    batch_size: int = Field(32, ge=1)
    """Number of sequences in a training step, over all ranks together, so that a result does not depend on the world
    size."""
    accumulate: int = Field(1, ge=1)
    """Number of micro-batches into which each rank divides its part of a step, one after another, so that the step
    needs less memory. Loss and gradient are those of the whole batch. 1 computes it at once."""
    max_epochs: int = Field(200, ge=1)
    """Number of epochs after which training ends if it has not stopped early."""
    validate_every: int = Field(1, ge=1)
    """Number of epochs between two validations. A checkpoint follows each validation."""
    save_every: int = Field(500, ge=1)
    """Number of steps between two checkpoints, beside those after validations."""
    patience: int = Field(5, ge=1)
    """Number of validations in a row without a better score after which training stops. The score is the ELBO, or the
    error of a forecast. Validations before the KL has its full weight, or a growing horizon its full length, do not
    count."""
    first_horizon: int | None = Field(None, ge=2)
    """Number of frames of each sequence that training begins with; the horizon grows by one frame every
    `epochs_per_frame` epochs. Null trains on whole sequences."""
    epochs_per_frame: int = Field(2, ge=1)
    """Number of epochs after which the training horizon grows by a frame, where `first_horizon` is set."""
    beta: float = Field(1.0, ge=0)
    """Weight of the KL in the training loss and in validation scores. 1 gives the ELBO; evaluation always uses 1."""
    profile: Annotated[str, AfterValidator(_range)] | None = None
    """Steps of rank 0 that torch.profiler records, as START:STOP, counted from 0 and without STOP. The trace goes to
    `profile/` in the run folder and to the tracker. Null records none."""
    kl_warmup_steps: int = Field(0, ge=0)
    """Number of steps in which the weight of the KL rises linearly from 0 to `beta`. 0 gives it its full weight from
    the first step."""


class EvalConfig(Config):
    batch_size: int = Field(32, ge=1)
    """Number of sequences in a batch, over all ranks together."""
    samples: int = Field(8, ge=1)
    """Number of latent draws for each sequence: S draws of a predictive mean, K draws of the IWAE bound."""
    particles: int = Field(32, ge=1)
    """Number of particles for each sequence in the filter with which VSDN-SDE predicts, generates and estimates its
    likelihood. It has no effect on other models."""
    predict: Prediction = "filter"
    """Method by which VSDN-SDE predicts in evaluation. `filter` is a particle filter. `rollout` averages `samples`
    paths of the prior, which earlier observations do not weight, as published."""
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Numbers of frames ahead at which a forecast is scored, beside the whole sequence. An empty list scores the whole
    sequence alone."""


class ObserveConfig(Config):
    train: ObservationConfig = ObservationConfig(pattern="random", ratios=(0.25,))
    """Observed frames in training."""
    evaluate: ObservationConfig = ObservationConfig(pattern="regular", ratios=(0.25, 0.5))
    """Observed frames in validation, evaluation and generation."""

    @model_validator(mode="after")
    def _a_forecast_sees_a_prefix_alone(self) -> "ObserveConfig":
        if self.evaluate.forecasts and self.evaluate.ratios:
            raise ValueError("evaluate.ratios must be [] with evaluate.pattern=prefix: all later frames are forecast")
        return self


class RunConfig(Plugged):
    data: Place
    """Folder that `driftwork prepare` wrote, or its URL in a store, as in s3://bucket/lakh."""
    cache_dir: Path | None = None
    """Folder on a disk of its own where each machine keeps its copy of the data. Null copies data from a URL to
    ~/.cache/driftwork and reads a folder in place."""
    folds: FoldConfig | None = None
    """Division of the data for cross-validation. Null uses the splits of the data set."""
    model: ModelConfig
    """Model that is trained, chosen by its name."""
    init_from: Path | None = None
    """Run folder, or the id of a run in the tracking store, whose best weights training starts from. They are copied
    into the run folder. Null draws the initial weights from `train.seed`."""
    optim: OptimConfig = OptimConfig()
    """Optimizer, its learning rate, and how DeepSpeed divides a model among ranks."""
    train: TrainConfig = TrainConfig()
    """Length of training, batches, validation and the weight of the KL."""
    observe: ObserveConfig = ObserveConfig()
    """Frames that a model observes."""
    augment: AugmentConfig = NO_CHANGE
    """Random changes of training sequences. None is made by default."""
    evaluate: EvalConfig = EvalConfig()
    """Batches and samples of validation and evaluation."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    """MLflow store and run that record the training."""
    ranks: int = Field(1, ge=1)
    """World size: number of processes, one per GPU or group of CPU cores. With a hostfile it counts the processes of
    all hosts."""
    hostfile: Path | None = None
    """File of the hosts to train on, in DeepSpeed's form: a line `NAME slots=N` for each. Null trains on this machine
    alone."""
    hosts: HostsConfig = HostsConfig()
    """Connections between the hosts of a hostfile."""
    restarts: int = Field(2, ge=0)
    """Maximum number of automatic restarts from the last checkpoint after a crash. Configuration and data errors are
    not retried."""
    hang_after: float = Field(600.0, gt=0)
    """Time in one place, such as reading a batch or updating, after which a rank counts as hung and the job is ended,
    in seconds."""
    loader_workers: int | None = Field(None, ge=0)
    """Number of processes for each rank that read batches ahead. 0 reads them between the steps. Null takes 1 for
    training where the system has room for it, and 0 otherwise."""
    loops: Loops = "auto"
    """Form of the loops over time in training and evaluation. `auto` takes the fastest one for the device and the
    model's size; a form for GPUs that does not work there is turned off at its first use. `eager` takes the reference
    form, whose results differ by rounding."""
    out: Path | None = None
    """Run folder itself, not its parent. Null makes runs/MODEL-DATA-TIME, with a number at the end if another run has
    that name."""

    @model_validator(mode="after")
    def _every_rank_has_work(self) -> "RunConfig":
        if self.train.batch_size < self.ranks or self.evaluate.batch_size < self.ranks:
            raise ValueError(
                f"train.batch_size and evaluate.batch_size must be at least ranks={self.ranks}; "
                "every rank needs a sequence"
            )
        if self.train.batch_size < self.ranks * self.train.accumulate:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} must be at least ranks x train.accumulate="
                f"{self.ranks * self.train.accumulate}; every micro-batch needs a sequence"
            )
        return self

    @model_validator(mode="after")
    def _a_prefix_is_what_the_model_sees(self) -> "RunConfig":
        prefix, model = self.observe.evaluate.frames, self.model
        if not self.observe.evaluate.forecasts:
            return self
        if model.name == "bi_gru_ode":
            raise ValueError("observe.evaluate.pattern=prefix: bi_gru_ode does not forecast; set another pattern")
        if isinstance(model, Ode2VaeConfig) and prefix != model.velocity_frames:
            raise ValueError(
                f"observe.evaluate.frames={'null' if prefix is None else prefix}: a forecast of {model.name} uses "
                f"model.velocity_frames={model.velocity_frames}; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _stage_3_needs_the_weights_to_stay(self) -> "RunConfig":
        if (
            self.optim.zero_stage == 3
            and isinstance(self.model, Ode2VaeConfig)
            and self.model.solver.trace == "autograd"
        ):
            raise ValueError(
                "optim.zero_stage=3 with model.solver.trace=autograd: the trace's second-order graph reads weights "
                "that stage 3 has released by then; set model.solver.trace=closed, or a stage up to 2"
            )
        return self

    @model_validator(mode="after")
    def _average_needs_whole_weights(self) -> "RunConfig":
        if self.optim.ema > 0 and self.optim.zero_stage == 3:
            raise ValueError(
                "optim.ema with optim.zero_stage=3: no rank has all weights; set a stage up to 2, or optim.ema=0"
            )
        return self

    def for_data(self, spec: DataSpec) -> "RunConfig":
        """Return the config with values from the data in place of null: `model.time_unit` is the mean time between
        frames."""
        if getattr(self.model, "time_unit", 1.0) is not None:
            return self
        raw = self.model_dump(mode="json")
        raw["model"]["time_unit"] = float(f"{spec.interval:.3g}")
        return build(RunConfig, raw, where=f"data={self.data}")

    @property
    def profiled(self) -> range:
        """Steps that the profiler records."""
        return range(0) if self.train.profile is None else range(*map(int, self.train.profile.split(":")))

    @property
    def settles_at(self) -> int:
        """Step from which the KL has its full weight; 0 for a model without a KL."""
        return 0 if isinstance(self.model, GruOdeConfig) else self.train.kl_warmup_steps

    def horizon(self, epoch: int) -> int | None:
        """Return the number of first frames that an epoch trains on; None means all."""
        first = self.train.first_horizon
        return None if first is None else first + epoch // self.train.epochs_per_frame

    def lr(self, update: int, updates: int) -> float:
        """Return the learning rate of an update, counted from 0, in a training of `updates` updates."""
        optim, warmup = self.optim, self.optim.warmup_steps
        if optim.schedule == "step":  # one factor at a time, as torch's StepLR rounds, which runs have been trained by
            rate = math.prod([optim.lr_decay] * (update // optim.lr_decay_steps), start=optim.lr)
        else:
            passed = (update - warmup) / max(updates - warmup, 1)
            rate = optim.lr * (1 + math.cos(math.pi * min(max(passed, 0.0), 1.0))) / 2
        return rate * min(1.0, (update + 1) / warmup) if warmup else rate

    def kl_weight(self, step: int) -> float:
        """Return the weight of the KL at a step, counted from 0."""
        warmup = self.train.kl_warmup_steps
        return self.train.beta * min(1.0, (step + 1) / warmup) if warmup else self.train.beta


def parse(argv: list[str]) -> RunConfig:
    """Read `CONFIG.yaml key=value ...`."""
    if not argv or ("=" in argv[0] and not Path(argv[0]).exists()):
        raise DriftworkError("the first argument is a config file, as in configs/train/vsdn_vae_lakh.yaml data=DIR")
    return load(RunConfig, argv[0], argv[1:])
