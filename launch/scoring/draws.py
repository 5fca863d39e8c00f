"""Number of latent draws, and the method of prediction that follows from it."""

from typing import TYPE_CHECKING, NamedTuple

from models.base import Forecast, Forecaster, LatentDynamics, Model, StateSpace
from models.batch import Batch
from models.predictive import Predictive

if TYPE_CHECKING:  # a served model draws without the configs of runs
    from launch.runs.config import EvalConfig


class Draws(NamedTuple):
    samples: int
    """Draws per sequence for a model without a filter."""
    particles: int
    """Particles per sequence for a model with a filter."""
    rollout: bool
    """Whether a model with a filter predicts without it, from `samples` draws."""

    @classmethod
    def of(cls, config: "EvalConfig") -> "Draws":
        return cls(config.samples, config.particles, config.predict == "rollout")

    def behind(self, model: Model) -> int:
        """Return the number of draws behind a prediction."""
        return self.particles if isinstance(model, StateSpace) and not self.rollout else self.samples

    def predictive(self, model: LatentDynamics, batch: Batch) -> Predictive:
        """Return P(Y_t | observations before t)."""
        if isinstance(model, StateSpace) and self.rollout:
            return model.rollout(batch, self.samples)
        return model.predict(batch, self.behind(model))

    def forecast(self, model: Model, batch: Batch) -> Forecast:
        """Forecast the frames after the given ones. A model that predicts each frame from the past gets all observed
        frames."""
        if isinstance(model, Forecaster):
            return model.forecast(batch, self.samples)
        assert isinstance(model, LatentDynamics), "a smoother cannot forecast"
        return Forecast(self.predictive(model, batch))
