"""Measure the memory of filling and continuing a table of 0.05 and 0.5 GB.

    python -m benchmarks.data.answers [GB ...]

Tables are those of `benchmarks.data.tables`, with a tenth of the values missing. VSDN-VAE is trained for one epoch on a
small one. The seconds of each command are printed, and the peak memory, in MiB, of the command and of the children that
read files. The exit code is 1 if one is above 1024 MiB.
"""

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.data.memory import preparing, running
from benchmarks.data.tables import AT_MOST, write

SIZES = (0.05, 0.5)
GONE = 0.1
COMMANDS = {"impute": (), "forecast": ("until=+20", "every=1")}


def trained(folder: Path) -> Path:
    """Train on a small table and return the run folder."""
    write(folder / "small", 3e6, "series", GONE)
    preparing("table", folder / "small", folder / "data", "dataset.time_unit=s")
    settings = [f"data={folder / 'data'}", f"out={folder / 'run'}", "tracking.uri=null", "train.max_epochs=1"]
    running("train", "configs/train/vsdn_vae_table.yaml", *settings)
    return folder / "run"


def main(sizes: tuple[float, ...]) -> None:
    most = 0.0
    print(f"{'GB':>6} {'rows by':>8} {'command':>9} {'seconds':>8} {'command':>8} {'parser':>8}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = trained(folder)
        for size in sizes:
            for by in ("series", "time"):
                source = folder / f"{size}-{by}"
                write(source, size * 1e9, by, GONE)
                for command, settings in COMMANDS.items():
                    started = time.monotonic()
                    held = running(command, str(run), f"source={source}", f"out={folder / 'out.csv'}", *settings)
                    print(f"{size:>6} {by:>8} {command:>9} {time.monotonic() - started:>8.0f}", end="")
                    print(f" {held['driver']:>8.0f} {held['parser']:>8.0f}", flush=True)
                    most = max(most, *held.values())
    raise SystemExit(int(most > AT_MOST))


if __name__ == "__main__":
    main(tuple(map(float, sys.argv[1:])) or SIZES)
