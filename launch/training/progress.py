"""Where training stands."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Where training stands: with weights, optimizer and schedule, all that the next step depends on. Order, masks and
    noise are functions of the seed and of where training stands; nothing draws from a generator with a state."""

    epoch: int = 0
    epoch_step: int = 0
    """Steps taken in this epoch: where in the stream to go on."""
    step: int = 0
    """Over all epochs."""
    best: float = float("inf")
    """Lowest validation score so far."""
    stale: int = 0
    """Validations since then."""
    score_beta: float = 1.0
    """Weight of the KL in a validation score; runs from before there was a choice have 1."""
    settles_at: int = 0
    """Step from which validations compete for the best weights, and wear out patience; runs from before have 0."""
    skipped: int = 0
    """Updates that were not finite and did not happen."""
    skipped_in_a_row: int = 0

    @property
    def settled(self) -> bool:
        """Whether the KL has had its full weight, so that scores can be compared with later ones."""
        return self.step >= self.settles_at

    def took(self, applied: bool) -> None:
        """A step, which updated the weights or was skipped."""
        self.step += 1
        self.epoch_step += 1
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1

    def state(self) -> dict[str, Any]:
        return asdict(self)
