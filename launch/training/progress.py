"""The progress of training."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """The state that the next step depends on, beside weights, optimizer and schedule. Order, masks and noise are
    functions of the seed and of the progress; no generator has a state.
    """

    epoch: int = 0
    epoch_step: int = 0
    """Steps taken in this epoch, from which the stream continues."""
    step: int = 0
    """Steps taken over all epochs."""
    best: float = float("inf")
    """Lowest validation score so far."""
    stale: int = 0
    """Number of validations since the best score."""
    score_beta: float = 1.0
    """Weight of the KL in a validation score; runs from before this field have 1."""
    settles_at: int = 0
    """Step from which validations count for the best weights and for patience; runs from before this field have 0."""
    skipped: int = 0
    """Number of updates that were skipped because they were not finite."""
    skipped_in_a_row: int = 0

    @property
    def settled(self) -> bool:
        """Whether the KL has had its full weight, so that scores can be compared with later ones."""
        return self.step >= self.settles_at

    def took(self, applied: bool) -> None:
        """Count a step, which updated the weights or was skipped."""
        self.step += 1
        self.epoch_step += 1
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1

    def state(self) -> dict[str, Any]:
        return asdict(self)
