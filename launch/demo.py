"""`driftwork demo`: run the full workflow on data that come with the packages.

Bach chorales -> MIDI files -> shards (Ray) -> GRU-ODE and VSDN-VAE (DeepSpeed, two CPU ranks) -> scores, a figure, a
playable file; the tracker records all of it. Every stage calls the commands that a user would call.

`driftwork demo table`: a table with holes -> shards -> VSDN-VAE -> scores on held-out entries, and the filled table.
"""

import sys
import time
from datetime import datetime
from pathlib import Path

from driftwork.command import command, run
from driftwork.errors import DriftworkError
from launch import compare, evaluate, prepare, train
from launch.evaluation import showcase_models
from launch.job import launcher
from launch.tables import impute
from launch.tracker import dataset, tags
from launch.tracker.tracking import TrackingConfig, open_run
from launch.training.supervisor import LEFT
from pipeline.fetch.chorales import write_chorales
from pipeline.shards.manifest import read_manifest

USAGE = """usage: driftwork demo [table]
  table  Impute missing values in a table of weather, instead of modelling music.
The command writes to data_shards/ and runs/."""

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
WEATHER = ROOT / "examples/weather.csv.gz"
MIDI, DATA = Path("data_shards/chorales-midi"), Path("data_shards/chorales")
MODELS = ("gru_ode", "vsdn_vae")


@command(USAGE, least=0, most=1)
def main(argv: list[str]) -> int:
    if argv == ["table"]:
        return _table()
    if argv:
        print(USAGE)
        return 2
    began = time.monotonic()
    root = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    _stage("1/5  MIDI files: the Bach chorales of the music21 corpus")
    print(f"{write_chorales(MIDI)} chorales in {MIDI}")
    _stage("2/5  shards: one frame a fifth of a second, split by piece, on Ray")
    _must(prepare.main([str(CONFIGS / "prepare/chorales.yaml"), f"source={MIDI}", f"out={DATA}"]))
    root.mkdir(parents=True)
    tracking = TrackingConfig()
    about = {tags.DATA: DATA.name, tags.COMMAND: "driftwork demo"}
    with open_run(
        tracking, experiment=DATA.name, run_name=f"demo {datetime.now():%d %b %H:%M}", run_folder=root, tags=about
    ) as tracker:
        tracker.dataset(dataset.described(read_manifest(DATA), DATA))
        for i, name in enumerate(MODELS):
            _stage(f"{3 + i}/5  {name}: training, then scoring on the test split")
            _must(train.main(_train_arguments(name, root / name, str(tracker.run_id))))
            _must(evaluate.main([str(root / name), "split=test"]))
        _stage("5/5  side by side")
        for file in _compare(root):
            tracker.artifact(file, "outputs")
    _say_where(root, time.monotonic() - began)
    return 0


def _table() -> int:
    began, data = time.monotonic(), Path("data_shards/weather")
    folder = Path("runs") / f"demo-table-{datetime.now():%Y%m%d-%H%M%S}"
    _stage("1/4  shards: a week at a station is a series, on Ray")
    _must(prepare.main([str(CONFIGS / "prepare/weather.yaml"), f"source={WEATHER}", f"out={data}"]))
    _stage("2/4  VSDN-VAE: training with entries held out at random")
    ranks = f"ranks={min(2, launcher.most_ranks())}"
    config = [str(CONFIGS / "train/vsdn_vae_table.yaml"), f"data={data}", f"out={folder}", ranks]
    length = ["train.batch_size=16", "train.max_epochs=40", "train.validate_every=4"]
    _must(train.main([*config, *length, "model.likelihood=student_t"]))  # some hours are outliers, as gusts of wind
    _stage("3/4  scores on the test split, with a quarter of the entries held out")
    _must(evaluate.main([str(folder), "split=test"]))
    _stage("4/4  the table with its holes filled")
    _must(impute.main([str(folder), f"source={WEATHER}", f"out={folder}/filled.parquet"]))
    print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.\n"
        f"  table       {folder}/filled.parquet; examples/README.md describes it\n"
        f"  figure      {folder}/filled.png: the first series, with 90 % intervals\n"
        f"  dashboard   driftwork ui, then experiment '{data.name}'"
    )
    return 0


def _train_arguments(name: str, folder: Path, parent: str) -> list[str]:
    ranks = min(2, launcher.most_ranks())
    config = CONFIGS / f"train/{name}_lakh_small.yaml"
    length = ["train.max_epochs=120", "train.validate_every=6", "train.patience=20"]  # short pieces: 11 steps per epoch
    return [str(config), f"data={DATA}", f"out={folder}", f"ranks={ranks}", f"tracking.parent={parent}", *length]


def _compare(root: Path) -> list[Path]:
    """Write the tables and the figure of both models, and return the files."""
    table = root / "table.md"
    _must(compare.main([*(str(root / name) for name in MODELS), f"out={table}"]))
    return [table, *showcase_models.write(root / "outputs", [root / name for name in MODELS], "test")]


def _say_where(root: Path, seconds: float) -> None:
    print(
        f"\nDone in {seconds / 60:.1f} minutes.\n"
        f"  figure      {root}/outputs/interpolation.png: truth, observations, and each model's interpolation\n"
        f"  to listen   {root}/outputs/vsdn_vae.mid beside truth.mid and copied.mid\n"
        f"  table       {root}/table.md\n"
        f"  runs        {', '.join(f'{root}/{name}' for name in MODELS)}\n"
        f"  dashboard   driftwork ui, then experiment '{DATA.name}'"
    )


def _stage(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _must(code: int) -> None:
    if code == LEFT:  # a run in it was interrupted
        raise KeyboardInterrupt
    if code != 0:
        raise DriftworkError(f"this stage failed with exit code {code}; see its own message above")


if __name__ == "__main__":
    raise SystemExit(run("demo", main, sys.argv[1:]))
