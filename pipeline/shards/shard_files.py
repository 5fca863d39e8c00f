"""Shards: tar files in WebDataset's format, written in deterministic bytes and read sample by sample.

A sample KEY has four members:

- `KEY.json`: key, group, source, frames, and about if there is one;
- `KEY.mask.npy`: bool [T]; of a table bool [T, D];
- `KEY.times.npy`: float64 [T];
- `KEY.values.npy`: binary data as uint8 [T, ceil(D / 8)], the channels packed by `numpy.packbits`; pictures as uint8
  [T, D]; other data as float32 [T, D].

Nothing else is accepted, so that no pickle is ever loaded. Reading needs only numpy.
"""

import io
import json
import math
import re
import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from driftwork.files import aside, printable, sha256
from pipeline.sequence import DataSpec, Sequence, Split, grey
from pipeline.shards.manifest import Shard

MEMBERS = ("json", "mask.npy", "times.npy", "values.npy")


def write_shard(path: Path, split: Split, spec: DataSpec, sequences: Iterable[tuple[str, Sequence]]) -> Shard | None:
    """Write (source name, sequence) pairs to `path` atomically. Without sequences, write no file and return None."""
    from webdataset.writer import TarWriter  # imports torch if installed, which no reader of shards needs

    offsets, frames = [], []
    with aside(path) as temporary, temporary.open("wb") as handle, TarWriter(handle, encoder=False, mtime=0) as tar:
        for source, sequence in sequences:
            offsets.append(tar.tarstream.offset)
            frames.append(len(sequence.times))
            tar.write({"__key__": sequence.key, **_encode(source, sequence, spec)})
    if not offsets:
        path.unlink()
        return None
    return Shard(
        file=path.name,
        split=split,
        samples=len(offsets),
        bytes=path.stat().st_size,
        sha256=sha256(path),
        offsets=tuple(offsets),
        frames=tuple(frames),
    )


def read_sample(handle: BinaryIO, shard: Shard, index: int, spec: DataSpec) -> Sequence:
    """Read sample `index` of the open shard `handle`: values are bool or float32 [T, D], all arrays writable.

    Raises `DriftworkError` with the shard's name if the bytes are not those of this sample.
    """
    offset, size = shard.span(index)
    handle.seek(offset)
    data = handle.read(size)
    try:
        if len(data) != size:
            raise ValueError(f"ends before byte {offset + size}")
        return _decode(_members(data), shard.frames[index], spec)
    except (ValueError, KeyError, TypeError, RecursionError, tarfile.TarError) as error:
        raise DriftworkError(
            f"{shard.file}: sample {index} is damaged or foreign: {printable(str(error))}; prepare the data set again"
        ) from None


def _encode(source: str, sequence: Sequence, spec: DataSpec) -> dict[str, bytes]:
    values = sequence.values
    assert re.fullmatch(r"[A-Za-z0-9_/-]+", sequence.key), "WebDataset cuts a key at its first dot"
    assert values.shape == (len(sequence.times), spec.dim)
    assert values.dtype == (np.bool_ if spec.binary else np.float32)
    assert sequence.mask.shape == _mask_shape(len(values), spec)
    about: dict[str, Any] = {"key": sequence.key, "group": sequence.group, "source": source, "frames": len(values)}
    if sequence.about is not None:
        about["about"] = sequence.about
    return {
        "json": json.dumps(about).encode(),
        "mask.npy": _npy(sequence.mask),
        "times.npy": _npy(sequence.times),
        "values.npy": _npy(_stored(values, spec)),
    }


def _stored(values: NDArray[Any], spec: DataSpec) -> NDArray[Any]:
    if spec.binary:
        return np.packbits(values.view(np.uint8), axis=1)
    if spec.image is None:
        return values
    levels = np.rint(values * 255).astype(np.uint8)
    assert np.array_equal(grey(levels), values), "a picture may have only the 256 greys of `grey`"
    return levels


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)  # readers accept only C order
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    """Map the extensions of a sample's four members to their contents. Raises ValueError for anything else.

    Headers are read one by one: `tarfile.open` would follow extended headers, which a hostile tar can make endless.
    """
    members: dict[str, bytes] = {}
    at, keys = 0, set()
    while data[at : at + tarfile.BLOCKSIZE].strip(b"\0"):
        header = tarfile.TarInfo.frombuf(data[at : at + tarfile.BLOCKSIZE], "ascii", "strict")
        key, _, extension = header.name.partition(".")
        if header.type != tarfile.REGTYPE or extension not in MEMBERS or extension in members:
            raise ValueError(f"member '{header.name}' is not one of {', '.join(MEMBERS)}, once each")
        start = at + tarfile.BLOCKSIZE
        end = start + header.size
        if not start <= end <= len(data):
            raise ValueError(f"member '{header.name}' is longer than the sample")
        keys.add(key)
        members[extension] = data[start:end]
        at = -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if len(members) < len(MEMBERS) or len(keys) > 1:
        raise ValueError(f"holds {len(members)} members of {len(keys)} keys, not {len(MEMBERS)} of one")
    return members


def _decode(members: dict[str, bytes], frames: int, spec: DataSpec) -> Sequence:
    about = json.loads(members["json"])
    key, group, more = about["key"], about["group"], about.get("about")
    if not (isinstance(key, str) and isinstance(group, str) and isinstance(more, dict | None)):
        raise ValueError("key, group or about have a wrong type")
    values: NDArray[Any]
    if spec.binary:
        packed = _array(members["values.npy"], np.uint8, (frames, -(-spec.dim // 8)))
        values = np.unpackbits(packed, axis=1, count=spec.dim).view(np.bool_)
    elif spec.image is not None:
        values = grey(_array(members["values.npy"], np.uint8, (frames, spec.dim)))
    else:
        values = _array(members["values.npy"], np.float32, (frames, spec.dim))
    times = _array(members["times.npy"], np.float64, (frames,))
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError("times do not increase")  # a solver would not terminate
    mask = _array(members["mask.npy"], np.bool_, _mask_shape(frames, spec))
    return Sequence(key, group, times, values, mask, more)


def _mask_shape(frames: int, spec: DataSpec) -> tuple[int, ...]:
    return (frames,) if spec.table is None else (frames, spec.dim)


def _array(data: bytes, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """Parse an .npy file that must have this type and shape, so that its header cannot demand memory or a pickle."""
    usual = _usual_header(np.dtype(dtype).str, shape)
    start = len(usual) if data.startswith(usual) else _end_of_header(data, dtype, shape)
    if len(data) - start != np.dtype(dtype).itemsize * math.prod(shape):
        raise ValueError("an .npy member of the wrong length")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()


@lru_cache(maxsize=1024)
def _usual_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Return the header that `np.save` writes. Parsing it each time took as long as the rest of reading a sample."""
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _end_of_header(data: bytes, dtype: type[np.generic], shape: tuple[int, ...]) -> int:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an .npy member of another format version")
    try:
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # numpy's parser can raise any error
        raise ValueError(f"an .npy member with a damaged header: {error}") from None
    if found != shape or kind != dtype or fortran:
        raise ValueError(f"an .npy member of {kind} {found}, not {np.dtype(dtype)} {shape}")
    return stream.tell()
