"""Write predictions of many sequences to one file, .npz, .parquet or .csv, with one sequence in memory at a time."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from driftwork.errors import DriftworkError
from driftwork.files import aside, writing
from launch.prediction.answers import Frames
from pipeline.readers.tables.writing import Block, write_csv, write_parquet

_COPIED_AT_ONCE = 2**20


def write(out: Path, columns: Sequence[str], sequences: Iterable[Frames]) -> int:
    """Write the file in the format of its ending and return the number of sequences; on an error, an existing file is
    intact.

    Args:
        columns: names of the predicted columns.
    """
    count = 0

    def counted() -> Iterator[Frames]:
        nonlocal count
        for count, frames in enumerate(sequences, 1):  # noqa: B007
            yield frames

    form = _FORMS[checked(out).suffix]
    with writing(f"out={out}"), aside(out) as temporary:
        form(temporary, columns, counted())
    return count


def checked(out: Path) -> Path:
    """Return `out`. Raises `DriftworkError` if its ending is not that of a format."""
    if out.suffix not in _FORMS or out.is_dir():
        raise DriftworkError(f"out={out}: must be a file that ends in {', '.join(_FORMS)}")
    return out


def _npz(path: Path, columns: Sequence[str], sequences: Iterable[Frames]) -> None:
    """Write arrays over the F frames of all sequences, one after the other: `sequence` [F], an index into `keys` [N],
    `time` [F], and `truth`, `observed` and each prediction [F, D]."""
    keys: list[str] = []
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        arrays = {name: _Growing((Path(folder) / name).open("w+b")) for name in ("sequence", "time", "truth", *columns)}
        arrays["observed"] = _Growing((Path(folder) / "observed").open("w+b"))
        for number, frames in enumerate(sequences):
            keys.append(frames.key)
            arrays["sequence"].add(np.full(len(frames.times), number, np.int32))
            for name, values in (("time", frames.times), ("truth", frames.truth), ("observed", frames.observed)):
                arrays[name].add(values)
            for name in columns:
                arrays[name].add(frames.answers[name])
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    array.copy(member)
            with archive.open("keys.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.array(keys), allow_pickle=False)


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


def _rows(columns: Sequence[str], sequences: Iterable[Frames]) -> Iterator[Block]:
    """Yield a row for each channel of each frame."""
    for frames in sequences:
        T, D = frames.truth.shape
        yield {
            "key": frames.key,
            "time": np.repeat(frames.times, D),
            "channel": np.tile(np.arange(D, dtype=np.int32), T),
            "truth": frames.truth.reshape(-1),
            "observed": frames.observed.reshape(-1),
            **{name: frames.answers[name].reshape(-1) for name in columns},
        }


def _types(columns: Sequence[str]) -> dict[str, type]:
    own = {"key": str, "time": np.float64, "channel": np.int32, "truth": np.float32, "observed": np.bool_}
    return {**own, **dict.fromkeys(columns, np.float32)}


def _parquet(path: Path, columns: Sequence[str], sequences: Iterable[Frames]) -> None:
    write_parquet(path, _types(columns), _rows(columns, sequences))


def _csv(path: Path, columns: Sequence[str], sequences: Iterable[Frames]) -> None:
    write_csv(path, _types(columns), _rows(columns, sequences))


_FORMS: dict[str, Callable[[Path, Sequence[str], Iterable[Frames]], None]] = {
    ".npz": _npz, ".parquet": _parquet, ".csv": _csv,
}  # fmt: skip
