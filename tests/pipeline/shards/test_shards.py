"""Shards read back as they were written, and foreign files are refused."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import webdataset

from driftwork.errors import DriftworkError
from pipeline.sequence import Sequence
from pipeline.shards.shard_files import read_sample, write_shard
from tests.datasets import write_table
from tests.pipeline.noise import BINARY, GREY, REAL, sequences


def same(one: Sequence, other: Sequence) -> bool:
    arrays = zip(one[2:5], other[2:5], strict=True)
    alike = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)
    return alike and one[:2] == other[:2] and one.about == other.about


@pytest.mark.parametrize("spec", [BINARY, REAL, GREY], ids=["bernoulli", "gaussian", "picture"])
def test_samples_read_back_in_any_order(tmp_path, spec):
    written = sequences(spec)
    shard = write_shard(tmp_path / "a.tar", "train", spec, written)
    assert shard.frames == tuple(len(sequence.times) for _, sequence in written)
    with (tmp_path / "a.tar").open("rb") as handle:
        for index in (5, 0, 3, 1, 4, 2):
            read = read_sample(handle, shard, index, spec)
            assert same(read, written[index][1])
            assert all(array.flags.writeable for array in read[2:5])


def test_about_is_kept_exactly(tmp_path):
    (source, plain), about = sequences(REAL, 1)[0], {"mean": [0.1, 1 / 3, -1e-17], "first_frame": 20, "skeleton": "ä"}
    shard = write_shard(tmp_path / "a.tar", "train", REAL, [(source, plain._replace(about=about))])
    with (tmp_path / "a.tar").open("rb") as handle:
        assert read_sample(handle, shard, 0, REAL).about == about


def test_mask_of_each_channel_reads_back(tmp_path):
    manifest, written = write_table(tmp_path)
    for shard in manifest.shards:
        with (tmp_path / shard.file).open("rb") as handle:
            for index in range(shard.samples):
                read = read_sample(handle, shard, index, manifest.spec)
                assert read.mask.shape == read.values.shape
                assert same(read, written[read.key])


def test_picture_with_other_greys_is_refused(tmp_path):
    for value in (0.5, -1 / 255, 256 / 255):
        picture = Sequence("k", "g", np.arange(1.0), np.full((1, 12), value, np.float32), np.ones(1, np.bool_))
        with pytest.raises(AssertionError, match="256 greys"):
            write_shard(tmp_path / "a.tar", "train", GREY, [("x", picture)])


def test_equal_sequences_make_equal_bytes(tmp_path):
    one = write_shard(tmp_path / "a.tar", "train", BINARY, sequences(BINARY))
    two = write_shard(tmp_path / "b.tar", "train", BINARY, iter(sequences(BINARY)))
    assert one.sha256 == two.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b.tar"]


def test_no_sequence_makes_no_shard(tmp_path):
    assert write_shard(tmp_path / "a.tar", "train", BINARY, []) is None
    assert not list(tmp_path.iterdir())


def test_exception_keeps_the_old_shard(tmp_path):
    def broken():
        yield from sequences(BINARY)
        raise RuntimeError("half-way")

    (tmp_path / "a.tar").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half-way"):
        write_shard(tmp_path / "a.tar", "train", BINARY, broken())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_plain_webdataset_reads_every_sample(tmp_path):
    written = sequences(BINARY)
    write_shard(tmp_path / "a.tar", "train", BINARY, written)
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [sequence.key for _, sequence in written]
    for sample, (source, sequence) in zip(samples, written, strict=True):
        assert sample["json"] == {
            "key": sequence.key, "group": sequence.group, "source": source, "frames": len(sequence.times)
        }  # fmt: skip
        assert np.array_equal(np.unpackbits(sample["values.npy"], axis=1, count=13), sequence.values)
        assert np.array_equal(sample["times.npy"], sequence.times)
        assert np.array_equal(sample["mask.npy"], sequence.mask)


def test_shard_contains_no_pickle(tmp_path):
    write_shard(tmp_path / "a.tar", "train", REAL, sequences(REAL))
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            content = tar.extractfile(member).read()
            assert (member.mtime, member.isreg()) == (0, True)
            if member.name.endswith(".npy"):
                assert not np.load(io.BytesIO(content), allow_pickle=False).dtype.hasobject
            else:
                assert member.name.endswith(".json")
                json.loads(content)


@pytest.mark.parametrize("bad", [{"key": "a.b"}, {"key": "spaces in it"}, {"values": np.zeros((2, 5), np.bool_)}])
def test_invalid_sequence_is_refused(tmp_path, bad):
    good = Sequence("key", "group", np.arange(2.0), np.zeros((2, 13), np.bool_), np.ones(2, np.bool_))
    with pytest.raises(AssertionError):
        write_shard(tmp_path / "a.tar", "train", BINARY, [("x", good._replace(**bad))])


def tar_of(path, members: dict[str, bytes], **fields):
    """Write a tar member by member; `fields` change its last header."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (name, content) in enumerate(members.items(), 1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if number == len(members):
                for field, value in fields.items():
                    setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def members(**changed: bytes) -> dict[str, bytes]:
    """Return the members of a valid sample of 4 frames of BINARY, some of them changed."""
    good = {
        "json": b'{"key": "k", "group": "g"}', "mask": npy(np.ones(4, np.bool_)), "times": npy(np.arange(4.0)),
        "values": npy(np.zeros((4, 2), np.uint8)),
    }  # fmt: skip
    return {f"k.{name}" if name == "json" else f"k.{name}.npy": content for name, content in (good | changed).items()}


def read_foreign(tmp_path, **fields):
    path = tmp_path / "foreign.tar"
    shard = write_shard(tmp_path / "a.tar", "train", BINARY, sequences(BINARY, 1))
    shard = shard.model_copy(update={"file": "foreign.tar", "bytes": path.stat().st_size, "frames": (4,), **fields})
    with path.open("rb") as handle:
        return read_sample(handle, shard, 0, BINARY)


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


HOSTILE = {
    "pickle member": {**members(), "k.pkl": pickle.dumps(Exploit())},
    "pickled npy": members(values=npy(np.array([Exploit()], dtype=object))),
    "foreign name": {**members(), "k.txt": b""},
    "missing member": {"k.json": b"{}"},
    "two keys": {**dict(list(members().items())[:3]), "other.values.npy": members()["k.values.npy"]},
    "another shape": members(values=npy(np.zeros((4, 99), np.uint8))),
    "another type": members(times=npy(np.arange(4, dtype=np.float32))),
    "no npy at all": members(times=b"nothing"),
    "npy cut short": members(times=npy(np.arange(4.0))[:-8]),
    "no json": members(json=b"{"),
    "json without a key": members(json=b"[]"),
    "json with another key": members(json=b'{"key": 1, "group": "g"}'),
    "json nested without end": members(json=b"[" * 10**5),
    "npy with half a header": members(times=npy(np.arange(4.0)).replace(b"}", b"(")),
    "times that go back": members(times=npy(np.array([0.0, 2.0, 1.0, 3.0]))),
    "times that are not numbers": members(times=npy(np.array([0.0, 1.0, 2.0, np.nan]))),
    "torch member": {**members(), "k.pth": pickle.dumps(Exploit())},
    "pickle in place of json": members(json=pickle.dumps(Exploit())),
    "name outside of the folder": {"../" + name: content for name, content in members().items()}
    | {"../../k.json": b"{}"},
    "no member": {},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_foreign_sample_names_its_shard(tmp_path, case):
    tar_of(tmp_path / "foreign.tar", HOSTILE[case])
    with pytest.raises(DriftworkError, match=r"^foreign.tar: sample 0 is damaged or foreign"):
        read_foreign(tmp_path)


def test_unchanged_hostile_sample_is_accepted(tmp_path):
    tar_of(tmp_path / "foreign.tar", members())
    assert read_foreign(tmp_path).key == "k"


def test_equivalent_header_is_accepted(tmp_path):
    times = np.arange(4.0)
    old = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }".ljust(79) + b"\n"
    assert not npy(times).startswith(old)
    tar_of(tmp_path / "foreign.tar", members(times=old + times.tobytes()))
    assert np.array_equal(read_foreign(tmp_path).times, times)


def test_links_and_wrong_sizes_are_refused(tmp_path):
    tar_of(tmp_path / "foreign.tar", members(), type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(DriftworkError):
        read_foreign(tmp_path)
    tar_of(tmp_path / "foreign.tar", members())
    with pytest.raises(DriftworkError, match="ends before byte"):
        read_foreign(tmp_path, bytes=10**6)
    with pytest.raises(DriftworkError, match="longer than the sample"):
        read_foreign(tmp_path, bytes=520)


def test_claimed_shape_takes_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 2)})
    tar_of(tmp_path / "foreign.tar", members(values=header.getvalue()))
    with pytest.raises(DriftworkError, match="1099511627776"):
        read_foreign(tmp_path)
