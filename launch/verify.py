"""`driftwork verify DIR`: every shard of a prepared data set against its manifest."""

import sys
from pathlib import Path

from launch.entry import run
from pipeline.verify import verify

USAGE = "usage: driftwork verify DIR"


def main(argv: list[str]) -> int:
    if len(argv) != 1 or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    report = verify(Path(argv[0]))
    print(f"{argv[0]}: {report.shards} shards, {report.samples} samples, {report.bytes / 1e6:.1f} MB, all intact")
    return 0


if __name__ == "__main__":
    raise SystemExit(run("verify", main, sys.argv[1:]))
