"""`driftwork verify DIR`: every shard of a prepared data set against its manifest."""

import sys
from pathlib import Path

from launch.entry import command, run
from pipeline.verify import verify

USAGE = "usage: driftwork verify DIR"


@command(USAGE, most=1)
def main(argv: list[str]) -> int:
    report = verify(Path(argv[0]))
    print(f"{argv[0]}: {report.shards} shards, {report.samples} samples, {report.bytes / 1e6:.1f} MB, all intact")
    return 0


if __name__ == "__main__":
    raise SystemExit(run("verify", main, sys.argv[1:]))
