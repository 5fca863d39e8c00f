"""Scores of all sequences of a split, from the batches of all ranks."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from launch.runs.distributed import all_gathered
from launch.scoring.channels import ChannelScores, OfChannels
from launch.scoring.entries import CHANNEL
from launch.scoring.estimates import Scores
from launch.scoring.scores import Score, SplitScores
from models.base import Model
from models.batch import Batch

_Path = tuple[str, str, str]
"""Task, column and metric."""


class Collected(NamedTuple):
    scores: SplitScores
    channels: OfChannels
    """Scores of the single channels of a table; empty for other data."""


def collect(score: Score, model: Model, batches: Iterable[Batch], rate: str, device: torch.device) -> Collected:
    """Return the scores of all sequences in the batches of all ranks, sorted by key, on every rank. Padding sequences
    have none. Every rank calls this."""
    names: list[tuple[str, str]] = []
    parts: dict[_Path, list[Tensor]] = {}
    planner = model.planner()
    with torch.inference_mode():
        for batch in batches:
            real = (batch.weight > 0).nonzero()[:, 0]
            names += [(batch.keys[b], batch.groups[b]) for b in real.tolist()]
            real = real.to(device)
            for task, columns in score(model, batch.planned(planner).to(device), rate).items():
                for column, metrics in columns.items():
                    for metric, (x, w) in metrics.items():
                        rows = torch.stack([torch.where(w > 0, x.double(), 0.0), w.double()], 1)
                        parts.setdefault((task, column, metric), []).append(rows[real].cpu())
    mine = {path: torch.cat(rows) for path, rows in parts.items()}
    return _sorted(all_gathered((names, mine)))


def _sorted(ranks: list[tuple[list[tuple[str, str]], dict[_Path, Tensor]]]) -> Collected:
    """Combine the ranks' scores, sorted by key; all metrics share the names."""
    names = [name for own, _ in ranks for name in own]
    order = sorted(range(len(names)), key=names.__getitem__)
    keys, groups = (tuple(names[i][k] for i in order) for k in (0, 1))
    found = Collected({}, {})
    for path in ranks[0][1]:
        task, column, metric = path
        x, w = torch.cat([scored[path] for _, scored in ranks])[order].unbind(1)
        if metric.startswith(CHANNEL):
            scores = ChannelScores(keys, groups, x.numpy(), w.numpy())
            found.channels.setdefault(task, {}).setdefault(column, {})[metric.removeprefix(CHANNEL)] = scores
        else:
            one = Scores(keys, groups, tuple(x.tolist()), tuple(w.tolist()))
            found.scores.setdefault(task, {}).setdefault(column, {})[metric] = one
    return found
