"""Write predictions of many sequences to one file, .npz, .parquet or .csv, with one sequence in memory at a time."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from driftwork.files import aside, writing
from launch.prediction.answers import Frames
from launch.prediction.names import Names, written
from pipeline.readers.tables.writing import Block, Instants, write_csv, write_parquet

_COPIED_AT_ONCE = 2**20


def write(out: Path, columns: Sequence[str], sequences: Iterable[Frames], names: Names | None = None) -> int:
    """Write the file in the format of its ending and return the number of sequences; on an error, an existing file is
    intact.

    Args:
        columns: names of the predicted columns.
        names: the user's names, if the data are a table.
    """
    count = 0

    def counted() -> Iterator[Frames]:
        nonlocal count
        for count, frames in enumerate(sequences, 1):  # noqa: B007
            yield frames

    form = _FORMS[checked(out).suffix]
    with writing(f"out={out}"), aside(out) as temporary:
        form(temporary, columns, counted(), names)
    return count


def checked(out: Path) -> Path:
    """Return `out`. Raises `DriftworkError` if its ending is not that of a format."""
    if out.suffix not in _FORMS or out.is_dir():
        raise DriftworkError(f"out={out}: must be a file that ends in {', '.join(_FORMS)}")
    return out


def _npz(path: Path, columns: Sequence[str], sequences: Iterable[Frames], names: Names | None) -> None:
    """Write arrays over the F frames of all sequences, one after the other: `sequence` [F], an index into `keys` [N],
    `time` [F], and `truth`, `observed` and each prediction [F, D]. For a table, `series` [N], `channels` and `units`
    [D] are written too."""
    keys: list[str] = []
    series: list[str] = []
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        arrays = {name: _Growing((Path(folder) / name).open("w+b")) for name in ("sequence", "time", "truth", *columns)}
        arrays["observed"] = _Growing((Path(folder) / "observed").open("w+b"))
        for number, (frames, own, times) in enumerate(_named(sequences, names)):
            keys.append(frames.key)
            series.append(own)
            arrays["sequence"].add(np.full(len(frames.times), number, np.int32))
            for name, values in (("time", times), ("truth", frames.truth), ("observed", frames.observed)):
                arrays[name].add(values)
            for name in columns:
                arrays[name].add(frames.answers[name])
        texts = {"keys": keys}
        if names is not None:
            texts |= {"series": series, "channels": list(names.table.channels)}
            texts |= {"units": list(names.table.units)} if names.table.units else {}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    array.copy(member)
            for name, words in texts.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.array(words), allow_pickle=False)


class _Growing:
    """An array on disk that grows along its first axis."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.rows = file, 0
        self.like: np.ndarray[Any, Any] = np.empty(0)

    def add(self, values: np.ndarray[Any, Any]) -> None:
        self.file.write(np.ascontiguousarray(values).tobytes())
        self.rows, self.like = self.rows + len(values), values[:0]

    def copy(self, member: IO[bytes]) -> None:
        """Copy the array into `member` as a .npy file, and close it."""
        shape, descr = (self.rows, *self.like.shape[1:]), np.lib.format.dtype_to_descr(self.like.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        self.file.seek(0)
        while read := self.file.read(_COPIED_AT_ONCE):
            member.write(read)
        self.file.close()


def _named(sequences: Iterable[Frames], names: Names | None) -> Iterator[tuple[Frames, str, NDArray[Any]]]:
    """Yield each sequence with the name of its series, empty where the data are not a table, and with its times."""
    if names is None:
        yield from ((frames, "", frames.times) for frames in sequences)
        return
    for frames, own in zip(sequences, names.sequences, strict=True):
        assert own.key == frames.key
        assert own.about is not None
        yield frames, own.about["series"], names.times(own)


def _rows(columns: Sequence[str], sequences: Iterable[Frames], names: Names | None, text: bool) -> Iterator[Block]:
    """Yield a row for each channel of each frame. `text` writes instants as text."""
    for frames, series, times in _named(sequences, names):
        T, D = frames.truth.shape
        block: dict[str, str | NDArray[Any]] = {"key": frames.key}
        channels: NDArray[Any] = np.arange(D, dtype=np.int32)
        if names is not None:
            block["series"] = series
            channels = np.array(names.table.channels, object)
            times = written(times, names).astype(object) if names.dated and text else times
        block |= {"time": np.repeat(times, D), "channel": np.tile(channels, T)}
        if names is not None and names.table.units:
            block["unit"] = np.tile(np.array(names.table.units, object), T)
        yield {
            **block,
            "truth": frames.truth.reshape(-1),
            "observed": frames.observed.reshape(-1),
            **{name: frames.answers[name].reshape(-1) for name in columns},
        }


def _types(columns: Sequence[str], names: Names | None, text: bool) -> dict[str, type | Instants]:
    own: dict[str, type | Instants] = {"key": str, "time": np.float64, "channel": np.int32}
    if names is not None:
        kind = (str if text else Instants(names.table.zone)) if names.dated else np.float64
        own = {"key": str, "series": str, "time": kind, "channel": str, **({"unit": str} if names.table.units else {})}
    return {**own, "truth": np.float32, "observed": np.bool_, **dict.fromkeys(columns, np.float32)}


def _parquet(path: Path, columns: Sequence[str], sequences: Iterable[Frames], names: Names | None) -> None:
    write_parquet(path, _types(columns, names, text=False), _rows(columns, sequences, names, text=False))


def _csv(path: Path, columns: Sequence[str], sequences: Iterable[Frames], names: Names | None) -> None:
    write_csv(path, _types(columns, names, text=True), _rows(columns, sequences, names, text=True))


_FORMS: dict[str, Callable[[Path, Sequence[str], Iterable[Frames], Names | None], None]] = {
    ".npz": _npz, ".parquet": _parquet, ".csv": _csv,
}  # fmt: skip
