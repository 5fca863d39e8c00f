"""Describe a prepared data set for MLflow, which lists it beside the runs that were trained on it."""

import json
from pathlib import Path

from pipeline.sequence import SPLITS
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage import Place, name_of

_DIGITS = 12
"""Number of digits of the manifest's hash, as `driftwork prepare` prints it; MLflow allows at most 36."""


def described(manifest: Manifest, where: Place) -> dict[str, str]:
    """Return the fields of MLflow's `Dataset`. The dashboard shows name and digest in a column, by which runs can be
    filtered, and the rest on demand: the place of the data, the arrays of a sequence, and the size of the data set.
    """
    kind = "local" if isinstance(where, Path) else where.partition("://")[0]
    return {
        "name": name_of(where),
        "digest": manifest.hash[:_DIGITS],
        "source_type": kind,
        "source": json.dumps({"uri": str(where.resolve() if isinstance(where, Path) else where)}),
        "schema": json.dumps({"mlflow_colspec": _columns(manifest)}),
        "profile": json.dumps(_size(manifest)),
    }


def _columns(manifest: Manifest) -> list[dict[str, str | bool]]:
    """Return the arrays of a sequence of T frames; MLflow has no place for their shapes, [T] and [T, channels]."""
    values = "boolean" if manifest.spec.binary else "float"
    types = {"times": "double", "values": values, "mask": "boolean"}
    return [{"name": name, "type": kind, "required": True} for name, kind in types.items()]


def _size(manifest: Manifest) -> dict[str, str | int | float]:
    spec = manifest.spec
    frames = sum(sum(shard.frames) for shard in manifest.shards)
    sequences = {f"{split}_sequences": sum(shard.samples for shard in manifest.of(split)) for split in SPLITS}
    return {
        **sequences,
        "frames": frames,
        "hours": round(frames * spec.interval / 3600, 3),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "channels": spec.dim,
        "units": spec.units,
        "frames_per_second": round(1 / spec.interval, 3),
        "frames_of_the_longest_sequence": spec.length,
    }
