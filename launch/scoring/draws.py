"""With how many draws of its latent a model is asked, and so which of its answers."""

from typing import NamedTuple

from launch.runs.config import EvalConfig
from models.base import Forecast, Forecaster, LatentDynamics, Model, StateSpace
from models.batch import Batch
from models.predictive import Predictive


class Draws(NamedTuple):
    samples: int
    """Draws a sequence of a model without a filter."""
    particles: int
    """Particles a sequence of a model with one."""
    rollout: bool
    """Whether such a model predicts without it, from `samples` draws."""

    @classmethod
    def of(cls, config: EvalConfig) -> "Draws":
        return cls(config.samples, config.particles, config.predict == "rollout")

    def behind(self, model: Model) -> int:
        """Return the number of draws behind a prediction."""
        return self.particles if isinstance(model, StateSpace) and not self.rollout else self.samples

    def predictive(self, model: LatentDynamics, batch: Batch) -> Predictive:
        """P(Y_t | observations before t)."""
        if isinstance(model, StateSpace) and self.rollout:
            return model.rollout(batch, self.samples)
        return model.predict(batch, self.behind(model))

    def forecast(self, model: Model, batch: Batch) -> Forecast:
        """What the model believes of the frames after those it is given; a model of each frame given the past is given
        all that the batch observes."""
        if isinstance(model, Forecaster):
            return model.forecast(batch, self.samples)
        assert isinstance(model, LatentDynamics), "a smoother knows the future"
        return Forecast(self.predictive(model, batch))
