"""What a step was made of that was not finite: a line for each rank that had a part in it, in `RUN/nonfinite.jsonl`."""

import json
import math
from pathlib import Path

from launch.runs.distributed import Ranks, all_gathered
from launch.training.engine import Step
from models.batch import Batch

FILE = "nonfinite.jsonl"


def report(run_folder: Path, ranks: Ranks, number: int, batch: Batch, step: Step) -> str:
    """Add to the file; every rank calls it. Returns what to say: which ranks, and where.

    A loss is a rank's own, and only ranks whose loss was not finite are named. Gradients were summed over ranks before
    anybody looked: then all are.
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
    return x if math.isfinite(x) else str(x)  # JSON knows neither NaN nor infinity
