"""Where training stands."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Where training stands; a checkpoint holds nothing else beside weights and optimizer."""

    epoch: int = 0
    epoch_step: int = 0
    """Steps taken in this epoch: where in the stream to go on."""
    step: int = 0
    """Over all epochs."""
    best: float = float("inf")
    """Lowest validation score so far."""
    stale: int = 0
    """Validations since then."""

    def state(self) -> dict[str, Any]:
        return asdict(self)
