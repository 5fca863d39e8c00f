"""`driftwork generate RUN out=DIR [what=interpolation|continuation|prior] [rate=HZ]`: write outputs of a trained model
as .mid, .wav, .amc and .gif, with pictures, and `generated.json`, which describes each file. All files are also logged
to the run at the tracker."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from driftwork.command import command, run
from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from driftwork.files import aside_folder, writing
from driftwork.help import settings_of
from launch.generation import output_files, pieces
from launch.generation.generator import FrameGenerator, Generated
from launch.runs import loaders, run_folder, weights
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.tracker.tracking import OfStore
from models.base import Forecaster, Model, Smoother
from models.decisions import Rule
from pipeline.observe import Ratio
from pipeline.reading.stream import Stream
from pipeline.sequence import Sequence, Split
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage import Place, name_of

_LONGEST = 100
"""Number of characters of a sequence's key in the names of its files."""

USAGE = """usage: driftwork generate RUN out=DIR [what=interpolation|continuation|prior] [key=value ...]
  RUN  Run folder, or the id of a run in the tracking store."""

What = Literal["interpolation", "continuation", "prior"]
_PLAYS_NO_PART: dict[What, set[str]] = {
    "interpolation": {"draws", "seconds_given", "seconds"},
    "continuation": set(),
    "prior": {"sequences", "keys", "source", "seconds_given"},
}


class GenerateConfig(OfStore):
    out: Path
    """New folder that the files are written to."""
    what: What | None = None
    """Kind of output: an interpolation between observed frames, a forecast of the frames after the given ones
    (`continuation`), or samples of the prior. Null draws an interpolation, or a continuation of a run that
    forecasts."""
    rate: float | None = Field(None, gt=0)
    """Rate of the generated frames, in frames per second. Null takes the rate of the data."""
    sequences: int = Field(4, ge=1)
    """Number of sequences that are interpolated or continued: the longest of the split, or the first of `source`."""
    keys: tuple[str, ...] = ()
    """Keys of sequences of the split that are taken in place of the longest. The default takes the longest."""
    source: Path | None = None
    """Your own file to interpolate or continue, read as the data were prepared: .mid, .wav, or .amc with its .asf
    beside it. Null takes sequences of the split."""
    draws: int = Field(3, ge=1)
    """Number of samples for each continued sequence, or of the prior."""
    seconds_given: float | None = Field(None, gt=0)
    """Length of the given beginning of a continuation, in seconds. Null gives the prefix that the run is evaluated on;
    without one, half of `seconds`, or all of a sequence that ends before `seconds`. ODE2VAE and Neural ODE are always
    given the frames that they were built for."""
    seconds: float | None = Field(None, gt=0)
    """Length of a continuation or a sample of the prior, in seconds from the beginning of the sequence, also beyond its
    end. Null takes the length of the sequence."""
    ratio: Ratio | None = None
    """Fraction 1/n of the frames that are observed. An interpolation observes every n-th frame. A continuation draws
    every n-th frame and interpolates between these. Null takes the first ratio that the run is evaluated at."""
    decision: Rule = "expected_score"
    """Rule by which probabilities of binary frames become notes. `expected_score` takes the set of notes with the best
    expected TP / (TP + FP + FN) over all frames that are not given; `0.5` takes those above this probability."""
    split: Split = "test"
    """Split that the sequences are taken from."""
    seed: int = Field(0, ge=0)
    """Seed of all random draws."""
    data: Place | None = None
    """Folder or URL where the prepared data are now. Null takes it from the run's config."""
    cache_dir: Path | None = None
    """Folder where this machine keeps its copy of the data. Null takes it from the run's config."""


@command(USAGE, settings=settings_of(GenerateConfig))
def main(argv: list[str]) -> int:
    request = parse(GenerateConfig, argv[1:])
    folder = run_folder.find(argv[0], request.tracking.uri)
    config = _as_asked(run_folder.config_of(folder, request.tracking), request)
    run_folder.check_data(folder, config)
    if request.out.exists():
        raise DriftworkError(f"out={request.out} exists already; give a new folder")
    generate(folder, config, request)
    return 0


@torch.inference_mode()
def generate(folder: Path, config: RunConfig, request: GenerateConfig) -> None:
    """Write the outputs to the folder `request.out`."""
    here = run_folder.at_hand(folder, config)
    manifest = run_folder.manifest_of(here)
    if manifest.spec.table is not None:
        raise DriftworkError(
            f"{folder}: its data are a table, which has no file format of its own; use driftwork predict"
        )
    model = run_folder.model_for(config, manifest)
    weights.load_best(model, folder, alone().device)
    model.eval()
    prefix = run_folder.config_of(folder).observe.evaluate.frames
    forecasts = isinstance(model, Forecaster) or prefix is not None
    what = request.what or ("continuation" if forecasts else "interpolation")
    _check(what, request, config.model.name, model, manifest.spec.binary)
    seconds = request.seconds_given or (prefix and prefix * manifest.spec.interval)
    own = output_files.own_rate(manifest.spec)
    rate = request.rate or own
    write = output_files.writer(manifest, rate)
    (stream,) = loaders.evaluation(config, here.data, manifest, request.split, alone()).values()
    every = round(1 / config.observe.evaluate.ratios[0])
    maker = FrameGenerator(
        model, config.observe.evaluate, manifest.spec, rate, every, config.evaluate.samples,
        config.evaluate.particles, request.seed, request.decision,
    )  # fmt: skip
    sequences = _sequences(request, what, stream, manifest)
    with writing(f"out={request.out}"), aside_folder(request.out) as temporary:
        files = []
        for number, made in enumerate(_outputs(maker, what, request, sequences, seconds), 1):
            stem = what if made.key is None else f"{number:02d}-{re.sub('[^A-Za-z0-9_-]+', '_', made.key)[:_LONGEST]}"
            title = _title(config, manifest, what, made)
            films = list(output_files.films(stem, made, rate, manifest.spec))
            about = {"sequence": made.key, "seconds_given": made.given}
            files += [about | entry for entry in write(temporary, stem, made, films, manifest.spec, title)]
        record = _record(folder, config, request, what, rate, own)
        record |= ({"decision": request.decision} if manifest.spec.binary else {}) | {"files": files}
        (temporary / "generated.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(
        f"{request.out}: {what}, {len(files)} files at {rate:g} frames per second, {rate / own:g} times the data's rate"
    )
    with run_folder.tracked(folder, config) as tracker:
        tracker.artifact(request.out, "generated")


def _as_asked(config: RunConfig, request: GenerateConfig) -> RunConfig:
    """Return the run's config with the requested data and the one requested ratio of observed frames."""
    own = config.observe.evaluate
    ratio = request.ratio or (own.ratios[0] if own.ratios else 1.0)
    observed = own.at((ratio,))
    observe = config.observe.model_copy(update={"evaluate": observed})
    where = {"data": request.data or config.data, "cache_dir": request.cache_dir or config.cache_dir}
    return config.model_copy(update={"observe": observe, **where})


def _check(what: What, request: GenerateConfig, name: str, model: Model, binary: bool) -> None:
    """Raise `DriftworkError` for a task that this model does not have, and for a setting without effect."""
    idle = _PLAYS_NO_PART[what] & request.model_fields_set
    chosen = {"keys": {"sequences", "source"}, "source": {"split"}}
    for key, others in chosen.items():
        if getattr(request, key) and others & request.model_fields_set:
            raise DriftworkError(
                f"{min(others & request.model_fields_set)} has no effect with {key}=; remove one of them"
            )
    if isinstance(model, Forecaster):
        if what == "interpolation":
            raise DriftworkError(
                f"what=interpolation: {name} forecasts from the first frames; set what=continuation or what=prior"
            )
        idle |= {"seconds_given", "ratio"} & request.model_fields_set
    if isinstance(model, Smoother) and what != "interpolation":
        raise DriftworkError(f"what={what}: {name} reads past and future and only interpolates; set what=interpolation")
    if "decision" in request.model_fields_set and not binary:
        raise DriftworkError(f"decision={request.decision}: these data are not binary; remove it")
    if idle:
        raise DriftworkError(f"{min(idle)} has no effect with what={what} of {name}; remove it")


def _sequences(request: GenerateConfig, what: What, stream: Stream, manifest: Manifest) -> list[Sequence]:
    """Return the sequences to generate from; for draws from the prior, the one that sets their length."""
    if request.source is not None:
        return pieces.from_file(request.source, manifest)[: request.sequences]
    if request.keys:
        return pieces.named(stream, request.keys)
    return pieces.longest(stream, 1 if what == "prior" else request.sequences)


def _outputs(
    maker: FrameGenerator, what: What, request: GenerateConfig, sequences: list[Sequence], given: float | None
) -> Iterator[Generated]:
    match what:
        case "interpolation":
            return maker.interpolations(sequences)
        case "continuation":
            return maker.continuations(sequences, request.draws, given, request.seconds)
        case "prior":
            return maker.priors(sequences[0], request.draws, request.seconds)


def _title(config: RunConfig, manifest: Manifest, what: What, made: Generated) -> str:
    start = f"{config.model.name}, {what}"
    return f"{start} of {made.key}" if made.key else f"{start}, trained on {name_of(config.data)}"


def _record(
    folder: Path, config: RunConfig, request: GenerateConfig, what: What, rate: float, own: float
) -> dict[str, Any]:
    """Return the entries of `generated.json` about all files."""
    return {
        "what": what, "run": str(folder.resolve()), "run_id": run_folder.record_of(folder).get("run_id"),
        "split": request.split, "seed": request.seed, "rate": rate, "rate_of_the_data": own, "factor": rate / own,
        "config": config.model_dump(mode="json"),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run("generate", main, sys.argv[1:]))
