"""Everything a training run depends on, in one frozen tree."""

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from driftwork.config_base import Config, load
from driftwork.errors import DriftworkError
from driftwork.plugins import Plugged
from launch.job.hostfile import HostsConfig
from launch.tracker.tracking import TrackingConfig
from models.baseline import GruOdeConfig
from models.ode2vae import Ode2VaeConfig
from models.registry import ModelConfig
from pipeline.observe import ObservationConfig
from pipeline.reading.augment import NO_CHANGE, AugmentConfig
from pipeline.reading.folds import FoldConfig
from pipeline.shards.storage import Place, name_of

CONFIG_FILE = "config.yaml"

Prediction = Literal["filter", "rollout"]


class OptimConfig(Config):
    lr: float = Field(1e-4, gt=0)
    """Adam's learning rate, after warm-up and before decay."""
    schedule: Literal["step", "cosine"] = "step"
    """How the learning rate decays. `step`: multiplied by `lr_decay` every `lr_decay_steps` updates (1: constant).
    `cosine`: along half a cosine from the end of the warm-up to 0 after `train.max_epochs`, which training must then be
    likely to reach."""
    lr_decay: float = Field(1.0, gt=0, le=1)
    """Factor of the learning rate with `schedule: step`; 1 keeps it constant."""
    lr_decay_steps: int = Field(200, ge=1)
    """Updates from one such factor to the next."""
    warmup_steps: int = Field(0, ge=0)
    """Updates in which the learning rate rises linearly from 0 to its schedule's value; 0: no warm-up."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay an update of an exponential moving average of the weights, which validation scores and which is kept as the
    best weights, as in 0.999; 0: none, the weights themselves."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of the gradient of the loss in nats per frame; 0 does not clip."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed divides among the ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too,
    each of which is then gathered whenever it is used: for a model that fits in no other way."""
    autocast: bool = False
    """Networks in bfloat16; solver state, densities and KL stay in float32."""


class TrainConfig(Config):
    seed: int = Field(0, ge=0)
    """Of initial weights, order, masks and noise."""
    batch_size: int = Field(32, ge=1)
    """Sequences a step over all ranks together, so that a result does not depend on the number of ranks."""
    max_epochs: int = Field(200, ge=1)
    validate_every: int = Field(1, ge=1)
    """Epochs from one validation, and checkpoint, to the next."""
    save_every: int = Field(500, ge=1)
    """Steps from one checkpoint to the next; there is one after each validation too."""
    patience: int = Field(5, ge=1)
    """Validations in a row without a better score after which training stops. The score is the bound, or a forecast's
    error. Validations before the KL has its full weight, or the horizon its full length, do not count."""
    first_horizon: int | None = Field(None, ge=2)
    """Frames of a sequence that training begins with; null: all of them."""
    epochs_per_frame: int = Field(2, ge=1)
    """Epochs after which that horizon grows by a frame."""
    beta: float = Field(1.0, ge=0)
    """Weight of the KL in the loss and in validation scores; evaluation always uses 1."""
    kl_warmup_steps: int = Field(0, ge=0)
    """Steps in which that weight rises linearly from 0 to `beta`; 0: it has its full weight from the first step."""


class EvalConfig(Config):
    batch_size: int = Field(32, ge=1)
    """Sequences a batch, over all ranks together."""
    samples: int = Field(8, ge=1)
    """Latent draws a sequence: S of a predictive mean, K of the importance-weighted bound."""
    particles: int = Field(32, ge=1)
    """Particles a sequence of the filter with which VSDN-SDE predicts, draws and estimates its likelihood; other models
    have none."""
    predict: Prediction = "filter"
    """How VSDN-SDE predicts a frame in evaluation: by the particle filter, or by a `rollout` of `samples` paths of the
    prior, which earlier observations do not weigh (as published)."""
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Frames ahead at which a forecast is scored, beside the whole sequence."""


class ObserveConfig(Config):
    train: ObservationConfig = ObservationConfig(pattern="random", ratios=(0.25,))
    evaluate: ObservationConfig = ObservationConfig(pattern="regular", ratios=(0.25, 0.5))

    @model_validator(mode="after")
    def _a_forecast_sees_a_prefix_alone(self) -> "ObserveConfig":
        if self.evaluate.pattern == "prefix" and self.evaluate.ratios:
            raise ValueError("evaluate.ratios must be empty with pattern prefix: all later frames are forecast")
        return self


class RunConfig(Plugged):
    data: Place
    """Folder that `driftwork prepare` wrote, or its URL in a store, as in s3://bucket/lakh."""
    cache_dir: Path | None = None
    """Where each machine keeps its copy of the data, on a disk of its own; null: of a URL in ~/.cache/driftwork, and of
    a folder there is no copy."""
    folds: FoldConfig | None = None
    """Division of the data for cross-validation; null: the splits of the data set."""
    model: ModelConfig
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    observe: ObserveConfig = ObserveConfig()
    augment: AugmentConfig = NO_CHANGE
    evaluate: EvalConfig = EvalConfig()
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    ranks: int = Field(1, ge=1)
    """Processes: one a GPU, or one a CPU core or more. With a hostfile, over all its hosts."""
    hostfile: Path | None = None
    """Hosts to train on, as DeepSpeed lists them: a line `NAME slots=N` each. null: this machine alone."""
    hosts: HostsConfig = HostsConfig()
    restarts: int = Field(2, ge=0)
    """How often a job that died goes on from its last checkpoint by itself; not where config or data are to blame."""
    hang_after: float = Field(600.0, gt=0)
    """Seconds in one place, as in reading a batch or in an update, after which a rank counts as hung; the job dies."""
    loader_workers: int = Field(0, ge=0)
    """Processes a rank that read batches ahead; 0 reads between the steps."""
    out: Path | None = None
    """Run folder; by default runs/<model>-<data>-<time>."""

    @model_validator(mode="after")
    def _every_rank_has_work(self) -> "RunConfig":
        if self.train.batch_size < self.ranks or self.evaluate.batch_size < self.ranks:
            raise ValueError(f"batch_size must be at least ranks={self.ranks}: every rank needs a sequence")
        return self

    @model_validator(mode="after")
    def _a_prefix_is_what_the_model_sees(self) -> "RunConfig":
        prefix, model = self.observe.evaluate.frames, self.model
        if prefix is None:
            return self
        if model.name == "bi_gru_ode":
            raise ValueError("observe.evaluate.pattern=prefix: bi_gru_ode knows past and future, and does not forecast")
        if isinstance(model, Ode2VaeConfig) and prefix != model.velocity_frames:
            raise ValueError(
                f"observe.evaluate.frames={prefix}: a forecast of {model.name} sees "
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
                "that stage 3 has released by then; take trace=closed, or a stage up to 2"
            )
        return self

    @model_validator(mode="after")
    def _average_needs_whole_weights(self) -> "RunConfig":
        if self.optim.ema > 0 and self.optim.zero_stage == 3:
            raise ValueError(
                "optim.ema with optim.zero_stage=3: no rank has all weights; take a stage up to 2, or ema=0"
            )
        return self

    @property
    def settles_at(self) -> int:
        """Step from which the KL has its full weight; 0 for a model without one."""
        return 0 if isinstance(self.model, GruOdeConfig) else self.train.kl_warmup_steps

    def horizon(self, epoch: int) -> int | None:
        """Frames of a sequence that an epoch trains on; None: all."""
        first = self.train.first_horizon
        return None if first is None else first + epoch // self.train.epochs_per_frame

    def lr(self, update: int, updates: int) -> float:
        """Learning rate of an update, counted from 0, of a training of so many `updates`."""
        optim, warmup = self.optim, self.optim.warmup_steps
        if optim.schedule == "step":  # one factor at a time, as torch's StepLR rounds, which runs have been trained by
            rate = math.prod([optim.lr_decay] * (update // optim.lr_decay_steps), start=optim.lr)
        else:
            passed = (update - warmup) / max(updates - warmup, 1)
            rate = optim.lr * (1 + math.cos(math.pi * min(max(passed, 0.0), 1.0))) / 2
        return rate * min(1.0, (update + 1) / warmup) if warmup else rate

    def kl_weight(self, step: int) -> float:
        """Beta at a step, counted from 0."""
        warmup = self.train.kl_warmup_steps
        return self.train.beta * min(1.0, (step + 1) / warmup) if warmup else self.train.beta


def parse(argv: list[str]) -> RunConfig:
    """`CONFIG.yaml key=value ...`; `out` is filled in."""
    if not argv or ("=" in argv[0] and not Path(argv[0]).exists()):
        raise DriftworkError("the first argument is a config file, as in configs/train/vsdn_vae_lakh.yaml data=DIR")
    config = load(RunConfig, argv[0], argv[1:])
    if config.out is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"{config.model.name}-{name_of(config.data)}-{stamp}"
        config = config.model_copy(update={"out": Path("runs") / name})
    return config
