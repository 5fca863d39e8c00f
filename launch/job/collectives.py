"""The last collectives of a rank, from torch's flight recorder, which the launcher enables."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

_SHOWN = 3


def written(file: Path) -> str:
    """Write this rank's record to a file, and return its last collectives in words; empty where there are none."""
    text = _record()
    entries = json.loads(text).get("entries", []) if text else []
    if not entries:
        return ""
    file.write_text(text)
    return f"last collectives: {', '.join(map(_named, entries[-_SHOWN:]))}; all: {file}"


def _named(entry: Mapping[str, Any]) -> str:
    name = str(entry["profiling_name"]).rpartition(":")[2]
    numbers = sum(prod(shape) for shape in entry["input_sizes"])
    ended = entry["state"] == "completed" or entry["retired"]
    return f"{name} {entry['collective_seq_id']} of {numbers} numbers ({'ended' if ended else 'not ended'})"


def _record() -> str:
    import torch._C._distributed_c10d as c10d  # the launching process, which reads only notes, has not loaded torch

    # Builds for GPUs have a recorder of NCCL's collectives beside the general one.
    dump = getattr(c10d, "_dump_nccl_trace_json", None) or getattr(c10d, "_dump_fr_trace_json", None)
    found = b"" if dump is None else dump()
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)
