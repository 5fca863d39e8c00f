"""Invented scores of runs."""

import numpy as np

from launch.scoring.estimates import Scores

KEYS = tuple(f"song{i // 2}-{i}" for i in range(24))
GROUPS = tuple(key.partition("-")[0] for key in KEYS)
NAMES = {"density": "nll_nats_per_frame", "prediction": "accuracy_percent", "interpolation": "accuracy_percent"}
MANIFEST = "ab" * 32


def scored(level, seed):
    return Scores(KEYS, GROUPS, tuple((level + np.random.default_rng(seed).normal(size=24)).tolist()), (1.0,) * 24)


def rates_of(level, rates):
    model = {
        task: {rate: {metric: scored(level, i + int(rate))} for rate in rates}
        for i, (task, metric) in enumerate(NAMES.items())
    }
    copied = {task: {rate: {NAMES[task]: scored(20, int(rate))} for rate in rates} for task in list(NAMES)[1:]}
    return {"model": model, "persistence": copied}
