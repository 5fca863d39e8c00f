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
    skipped: int = 0
    """Updates that were not finite and did not happen."""
    skipped_in_a_row: int = 0

    def took(self, applied: bool) -> None:
        """A step, which updated the weights or was skipped."""
        self.step += 1
        self.epoch_step += 1
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1

    def state(self) -> dict[str, Any]:
        return asdict(self)
