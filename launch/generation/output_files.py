"""Write generated outputs in the format of the data, with pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from launch.figures import pictures, rolls, speech, style
from launch.figures import skeleton as figures_skeleton
from launch.figures.rolls import Roll
from launch.figures.skeleton import Walk
from launch.generation import motion_files
from launch.generation.generator import Generated
from launch.generation.motion_files import RATE, Take
from pipeline.readers.piano_roll import check_rate, write_midi
from pipeline.readers.wav import write_wav
from pipeline.sequence import DataSpec, Kind
from pipeline.shards.manifest import Manifest


class Film(NamedTuple):
    """Frames that are written to one file."""

    stem: str
    """Name of the film's files without the ending."""
    label: str
    draw: int | None
    """Number of the draw, counted from 1; None for the truth."""
    frames: NDArray[np.float32]
    """[T, D] frames, in units of the data."""
    notes: NDArray[np.bool_] | None
    """[T, D] notes; None for data that are not binary."""
    rate: float
    """Frames per second."""

    def entry(self, file: Path, **facts: Any) -> dict[str, Any]:
        """Return the entry of `generated.json` about a file."""
        length = {"frames": len(self.frames), "rate": self.rate, "seconds": len(self.frames) / self.rate}
        return {"file": file.name, "draw": self.draw, **length, **facts}


Write = Callable[[Path, str, Generated, list[Film], DataSpec, str], list[dict[str, Any]]]
"""Function from (folder, stem, outputs, their films, spec, title) to an entry for each file with frames."""


def writer(manifest: Manifest, rate: float) -> Write:
    """Return the function that writes data of this kind. Raises `DriftworkError` if there is none, or if it cannot
    write this rate."""
    spec, own = manifest.spec, own_rate(manifest.spec)
    if spec.kind is None:
        raise DriftworkError(
            f"data set '{manifest.dataset}' has no file format (its kind is null); see docs/generate.md"
        )
    if spec.kind == "speech" and rate != own:
        raise DriftworkError(
            f"rate={rate:g}: the frames of speech are successive blocks of {spec.dim} samples, which at another "
            f"rate than the data's {own:g} would overlap or leave gaps; remove rate="
        )
    if spec.kind == "notes":
        try:
            check_rate(rate)
        except ValueError as error:
            raise DriftworkError(str(error)) from None
    writers: dict[Kind, Write] = {"notes": _music, "speech": _speech, "motion": _motion, "pictures": _pictures}
    return writers[spec.kind]


def own_rate(spec: DataSpec) -> float:
    """Return the data's frames per second, without the rounding of 1 / interval."""
    return round(1 / spec.interval, 6)


def films(stem: str, made: Generated, rate: float, spec: DataSpec) -> Iterator[Film]:
    """Yield the truth, if there is one, and every draw."""
    if made.truth is not None:
        notes = made.truth > 0.5 if spec.binary else None
        yield Film(f"{stem}-truth", "truth", None, made.truth, notes, own_rate(spec))
    for draw, frames in enumerate(made.draws, 1):
        notes = None if made.notes is None else made.notes[draw - 1]
        several = len(made.draws) > 1 or made.key is None
        name, label = (f"{stem}-{draw}", f"draw {draw}") if several else (stem, f"{rate:g} frames per second")
        yield Film(name, label, draw, frames, notes, rate)


def _music(
    folder: Path, stem: str, made: Generated, films: list[Film], spec: DataSpec, title: str
) -> list[dict[str, Any]]:
    entries, rows = [], []
    for film in films:
        assert film.notes is not None, "a piano roll is binary"
        file = folder / f"{film.stem}.mid"
        write_midi(file, film.notes, film.rate)
        entries.append(film.entry(file))
        rows.append(Roll(film.label, film.frames, film.notes, film.rate, _colour(film)))
    rolls.stacked(folder / stem, rows, made.observed, made.given, title)
    return entries


def _colour(film: Film) -> str:
    return style.INK if film.draw is None else style.BLUE


def _speech(
    folder: Path, stem: str, made: Generated, films: list[Film], spec: DataSpec, title: str
) -> list[dict[str, Any]]:
    assert spec.audio_rate is not None, "the data are speech"
    entries, rows = [], []
    for film in films:
        file, samples = folder / f"{film.stem}.wav", film.frames.reshape(-1)
        write_wav(file, samples, spec.audio_rate)
        entries.append(film.entry(file, samples_per_second=spec.audio_rate))
        rows.append((film.label, samples, _colour(film)))
    speech.waveforms(folder / stem, rows, spec.audio_rate, made.given, title)
    return entries


def _pictures(
    folder: Path, stem: str, made: Generated, films: list[Film], spec: DataSpec, title: str
) -> list[dict[str, Any]]:
    assert spec.image is not None, "the data are pictures"
    entries = []
    for film in films:
        file = folder / f"{film.stem}.gif"
        pictures.animate(file, film.frames, spec.image, film.rate)
        entries.append(film.entry(file))
    # One time axis for all: the truth's frames stay as long as it takes.
    rate = films[-1].rate
    rows = [(film.label, _held(film.frames, film.rate, rate, len(films[-1].frames))) for film in films]
    pictures.films(folder / stem, rows, spec.image, rate, title)
    return entries


def _motion(
    folder: Path, stem: str, made: Generated, films: list[Film], spec: DataSpec, title: str
) -> list[dict[str, Any]]:
    if made.about is None:
        raise DriftworkError(
            "trials of a .mat file have no skeleton, which an .amc file needs; prepare the .asf and .amc files instead"
        )
    asf, own = folder / f"{stem}.asf", own_rate(spec)
    takes = [Take(folder / f"{film.stem}.amc", film.label, film.frames, film.rate / own) for film in films]
    skeleton, walks = motion_files.write(asf, made.about, takes)
    entries = []
    for film, take, walk in zip(films, takes, walks, strict=True):
        camera = RATE * take.finer
        entries.append(film.entry(take.file, skeleton=asf.name, camera_frames_per_second=camera))
        if film.draw is not None:
            beside = [] if made.truth is None else [_beside(walks[0], films[0], film)]
            figures_skeleton.animate(folder / f"{film.stem}.gif", [*beside, walk], skeleton, camera, title)
    return entries


def _beside(truth: Walk, own: Film, film: Film) -> Walk:
    return truth._replace(joints=_held(truth.joints, own.rate, film.rate, len(film.frames)))


def _held(frames: np.ndarray, rate: float, other: float, count: int) -> np.ndarray:
    """Return `count` frames at the rate `other`, each equal to the frame of `frames` that began last."""
    at = np.floor(np.arange(count) * rate / other + 1e-6).astype(int)
    held: np.ndarray = frames[np.minimum(at, len(frames) - 1)]
    return held
