"""Helpers to prepare small corpora and to compare their files."""

import hashlib
import time
from pathlib import Path

from driftwork.config_base import load
from pipeline.prepare.build import Entry, Job, build_shard
from pipeline.prepare.plan import ShardPlan
from pipeline.prepare.prepare import PrepareConfig
from tests.places import ROOT

CONFIG = ROOT / "configs" / "prepare" / "lakh.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=4", "dataset.seconds=6"]


def config(source: Path | None, out: Path, *overrides: str) -> PrepareConfig:
    return load(PrepareConfig, CONFIG, [*OVERRIDES, f"source={source}", f"out={out}", *overrides])


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def build_slowly(job: Job, plan: ShardPlan) -> Entry:
    """Build a shard of a table in two seconds or more, and record the network beside the output folder."""
    seen = Path(str(job.staging)).parent.with_name("seen")
    seen.mkdir(exist_ok=True)
    (seen / Path("/proc/self/ns/net").readlink().name).touch()
    time.sleep(2)
    return build_shard(job, plan)
