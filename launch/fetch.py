"""`driftwork fetch NAME to=DIR [key=value ...]`: download an official archive and check its hash; `fetch timit
from=DIR` checks your copy of TIMIT.

Addresses and files are listed in `configs/fetch/NAME.yaml`; `url=` selects a mirror of the same layout.
"""

import sys
from pathlib import Path

from driftwork.command import command, run, typed
from driftwork.config_base import load
from driftwork.errors import DriftworkError
from driftwork.help import Part, settings_of_file
from pipeline.fetch.fetch import LOCK, fetch
from pipeline.fetch.sources import SOURCES, FetchConfig, TimitConfig
from pipeline.fetch.timit_check import check_corpus

CONFIGS = Path(__file__).resolve().parent.parent / "configs/fetch"
USAGE = f"""usage: driftwork fetch NAME to=DIR [key=value ...]
       driftwork fetch timit from=DIR
  NAME  Archive: one of {", ".join(SOURCES)}."""


def _settings(words: list[str]) -> list[Part]:
    if words:
        _check(words[0])
        return settings_of_file(SOURCES[words[0]], [str(CONFIGS / f"{words[0]}.yaml"), *words[1:]])
    names = {cls: [name for name, of in SOURCES.items() if of is cls] for cls in SOURCES.values()}
    also = "as key=value; configs/fetch/NAME.yaml has the required ones except `to`"
    return [Part(f"Settings of {', '.join(of)}, {also}", cls) for cls, of in names.items()]


def _check(name: str) -> None:
    if name not in SOURCES:
        raise DriftworkError(f"no data set '{name}' to fetch; choose one of {', '.join(SOURCES)}")


@command(USAGE, settings=_settings)
def main(argv: list[str]) -> int:
    name, *overrides = argv
    _check(name)
    config = load(SOURCES[name], CONFIGS / f"{name}.yaml", overrides)
    if isinstance(config, TimitConfig):
        return _timit(config)
    return _fetch(config)


def _fetch(config: FetchConfig) -> int:
    print(f"{config.title}: {config.url} -> {config.to}\nlicence: {config.licence}", flush=True)
    done = fetch(config)
    print(f"{done.new} files fetched, {done.files - done.new} existed already; hashes in {config.to / LOCK}")
    if done.table is not None:
        print(typed("prepare", [f"configs/prepare/{config.name}.yaml", f"source={done.table}", "out=DIR"]))
        return 0
    print(f"source: {' '.join(str(folder) for folder in done.folders) or config.to}")
    return 0


def _timit(config: TimitConfig) -> int:
    print(f"{config.title}\nlicence: {config.licence}, available at {config.url}")
    if config.source is None:
        print(
            "It cannot be downloaded. To check your copy, give the folder that holds TRAIN and TEST: "
            "driftwork fetch timit from=DIR"
        )
        return 0
    for half, (speakers, sentences) in check_corpus(config.source).items():
        print(f"{half.upper()}: {sentences} sentences of {speakers} speakers")
    print(f"complete: {typed('prepare', ['configs/prepare/timit.yaml', f'source={config.source}', 'out=DIR'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run("fetch", main, sys.argv[1:]))
