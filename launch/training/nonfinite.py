"""Records of steps with non-finite loss or gradient: a line for each rank concerned, in `RUN/nonfinite.jsonl`."""

import json
import math
from pathlib import Path

from launch.runs.distributed import Ranks, all_gathered
from launch.training.engine import Step
from models.batch import Batch

FILE = "nonfinite.jsonl"


def report(run_folder: Path, ranks: Ranks, number: int, batch: Batch, step: Step) -> str:
    """Append to the file; every rank calls it. Returns a message with the ranks and the non-finite quantity.

    For a loss, only the ranks whose own loss was not finite are named. Gradients are checked after they were summed
    over ranks, so that all ranks are named.
    """
    terms = {name: [_plain(x) for x in values.tolist()] for name, values in step.objective.terms._asdict().items()}
    mine = {"keys": list(batch.keys), "loss": [_plain(x) for x in step.objective.loss.tolist()], **terms}
    finite = bool(step.objective.loss.isfinite().all())
    everyone = all_gathered((finite, mine))
    where = "gradient" if all(finite for finite, _ in everyone) else "loss"
    named = [rank for rank, (finite, _) in enumerate(everyone) if where == "gradient" or not finite]
    if ranks.rank == 0:
        with (run_folder / FILE).open("a") as file:
            for rank in named:
                file.write(json.dumps({"step": number, "rank": rank, "where": where, **everyone[rank][1]}) + "\n")
    return f"{where} of rank {', '.join(map(str, named))}"


def _plain(x: float) -> float | str:
    return x if math.isfinite(x) else str(x)  # JSON has neither NaN nor infinity
