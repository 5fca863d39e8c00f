"""`driftwork verify DIR|URL`: check every shard of a prepared data set against its manifest."""

import sys

from driftwork.command import command, run
from driftwork.config_base import Config, build
from pipeline.shards.storage import Place
from pipeline.shards.verify import verify


class VerifyConfig(Config):
    data: Place
    """Folder of a prepared data set, or its URL in a store."""


USAGE = """usage: driftwork verify DIR|URL
  DIR|URL  Folder of a prepared data set, or its URL in a store."""


@command(USAGE, most=1)
def main(argv: list[str]) -> int:
    report = verify(build(VerifyConfig, {"data": argv[0]}, where="").data)
    print(f"{argv[0]}: {report.shards} shards, {report.samples} samples, {report.bytes / 1e6:.1f} MB, all intact")
    return 0


if __name__ == "__main__":
    raise SystemExit(run("verify", main, sys.argv[1:]))
