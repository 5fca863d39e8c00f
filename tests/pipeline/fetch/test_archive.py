"""Hostile archives: only plain files are written, and only in the requested folder."""

import gzip
import io
import os
import random
import resource
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from driftwork.errors import DriftworkError
from pipeline.fetch.archive import Limits, unpack

LIMITS = Limits(max_files=20, max_bytes=200_000, max_file_bytes=100_000, max_ratio=50)
NOISE = random.Random(0).randbytes(9_000)


def tar(path, *members, end=True, wrap=gzip.compress):
    """Write a tar of `members`, which are (name, bytes) or finished TarInfos."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                out.addfile(member, io.BytesIO(bytes(min(member.size, 10_000))) if member.isreg() else None)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                out.addfile(entry, io.BytesIO(member[1]))
    data = packed.getvalue()
    path.write_bytes(wrap(data if end else data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)))
    return path


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members:
            out.writestr(name, data)
    return path


def special(name, kind, **fields):
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry


def take(archive, folder, limits=LIMITS, suffixes=(".mid",)):
    return unpack(archive, folder, "top", suffixes, limits)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path):
    """Provide the folder to unpack into. The archive lies beside it, and nothing above it may change."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in/out"


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_requested_members_alone_are_unpacked(place, kind):
    members = [
        ("top/A/one.mid", NOISE), ("top/A/.hidden", b"x"), ("top/B/b c/two.MID", b"2"), ("top/é\u0301.mid", b""),
        ("other/three.mid", b"3"), ("topmost/four.mid", b"4"),
    ]  # fmt: skip
    archive = tar(place.parent / "a.tar.gz", *members) if kind == "tar" else zipped(place.parent / "a.zip", *members)
    assert take(archive, place) == (3, 9_001)
    assert files(place) == {"A/one.mid": NOISE, "B/b c/two.MID": b"2", "é\u0301.mid": b""}
    assert sorted(path.name for path in place.parent.iterdir()) == [archive.name, "out"]


def test_folders_and_long_names_are_allowed(place):
    name = "top/" + "/".join(["x" * 120] * 3) + ".mid"
    archive = tar(place.parent / "a.tar.gz", special("top", tarfile.DIRTYPE), (name, NOISE))
    assert take(archive, place).files == 1


BAD_NAMES = ["../evil.mid", "top/../../evil.mid", "/etc/evil.mid", "top/..", "C:\\evil.mid", "top\\..\\evil.mid",
             "top/a\nb.mid", "~/evil.mid", "top/" + "x" * 300 + ".mid", "a/" * 40 + "x.mid"]  # fmt: skip


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
def test_path_outside_refuses_the_archive(place, name, kind):
    members = [("top/good.mid", b"1"), (name, b"evil")]
    archive = tar(place.parent / "a.tar.gz", *members) if kind == "tar" else zipped(place.parent / "a.zip", *members)
    refused(archive, place)


LINKS = [special("top/l.mid", tarfile.SYMTYPE, linkname="/etc/passwd"), special("top/l.mid", tarfile.LNKTYPE,
         linkname="top/good.mid"), special("top/d.mid", tarfile.CHRTYPE, devmajor=1, devminor=3), special("top/d.mid",
         tarfile.BLKTYPE), special("top/f.mid", tarfile.FIFOTYPE)]  # fmt: skip


@pytest.mark.parametrize("entry", LINKS, ids=["symlink", "hardlink", "character", "block", "fifo"])
def test_links_and_devices_refuse_the_archive(place, entry):
    refused(tar(place.parent / "a.tar.gz", ("top/good.mid", b"1"), entry), place, "a link, a device")


def test_zipped_link_and_encrypted_member_are_refused(place):
    link = zipfile.ZipInfo("top/l.mid")
    link.external_attr = 0o120777 << 16
    refused(zipped(place.parent / "a.zip", (link, "/etc/passwd")), place, "a link, a device or encrypted")
    archive = zipped(place.parent / "b.zip", ("top/a.mid", b"1"))
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refused(archive, place, "encrypted")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_duplicate_name_is_refused(place, kind):
    members = [("top/a.mid", b"1"), ("top/./a.mid", b"2")]
    archive = tar(place.parent / "a.tar.gz", *members) if kind == "tar" else zipped(place.parent / "a.zip", *members)
    refused(archive, place, "occurs twice")


def test_file_that_is_also_folder_is_refused(place):
    refused(tar(place.parent / "a.tar.gz", ("top/a.mid", b"1"), ("top/a.mid/b.mid", b"2")), place, "occurs twice")


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("top/a.mid", random.Random(1).randbytes(100_001))], "max_file_bytes=100000"),
        ([(f"top/{n}.mid", random.Random(n).randbytes(90_000)) for n in range(3)], "max_bytes=200000"),
        ([(f"top/{n}.mid", b"1") for n in range(21)], "max_files=20"),
        ([(f"top/{n}.txt", b"1") for n in range(21)], "max_files=20"),
    ],
    ids=["file", "total", "count", "count of the others"],
)
def test_archive_beyond_a_limit_is_refused(place, kind, members, said):
    archive = tar(place.parent / "a.tar.gz", *members) if kind == "tar" else zipped(place.parent / "a.zip", *members)
    refused(archive, place, said)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_bomb_is_refused_by_its_ratio(place, kind):
    limits = LIMITS.model_copy(update={"max_bytes": 10**9, "max_file_bytes": 10**9})
    members = [("top/a.mid", bytes(10_000_000))]
    archive = tar(place.parent / "a.tar.gz", *members) if kind == "tar" else zipped(place.parent / "a.zip", *members)
    refused(archive, place, "more than 50 times the archive", limits)


def test_false_size_in_zip_is_refused(place):
    for lie, said in ((5, "broken"), (5000, "broken|size differs")):
        archive = zipped(place.parent / "a.zip", ("top/a.mid", NOISE[:1000]))
        data = bytearray(archive.read_bytes())
        struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, lie)
        archive.write_bytes(data)
        refused(archive, place, said)


def test_members_that_share_bytes_count_each(place):
    """In a bomb by overlap (Fifield, 2019), many entries of the directory share one block of data."""
    archive = zipped(place.parent / "a.zip", ("top/a.mid", bytes(90_000)))
    data = archive.read_bytes()
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = b"".join(data[at:end].replace(b"a.mid", b"%c.mid" % (97 + n)) for n in range(10))
    record = bytearray(data[end:])
    struct.pack_into("<HHII", record, 8, 10, 10, len(entries), at)
    archive.write_bytes(data[:at] + entries + record)
    refused(archive, place, "max_bytes=200000|broken")


def test_huge_directory_is_refused_unread(place):
    archive = place.parent / "a.zip"
    archive.write_bytes(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 60_000, 60_000, 2**31, 0, 0))
    refused(archive, place, "60000 members")
    far = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**9, 10**9, 10**11, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 1)
    archive.write_bytes(far + locator + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 0, 0))
    refused(archive, place, "1000000000 members")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_huge_header_is_not_read_into_memory(place, kind):
    header = special("top/a.mid", kind, size=2**33).tobuf(tarfile.GNU_FORMAT)
    archive = place.parent / "a.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as out:
        out.write(header)
        for _ in range(64):
            out.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(archive, place, "a header, or padding, of more than", LIMITS.model_copy(update={"max_ratio": 1e6}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


def test_nested_headers_and_sparse_files_are_refused(place):
    one = special("x", tarfile.XHDTYPE, size=0).tobuf(tarfile.GNU_FORMAT)
    archive = place.parent / "a.tar.gz"
    archive.write_bytes(gzip.compress(one * 5000))
    refused(archive, place)
    sparse = special("top/a.mid", tarfile.GNUTYPE_SPARSE, size=0).tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(gzip.compress(sparse + bytes(2048)))
    refused(archive, place)


def test_archive_cut_anywhere_is_refused(place):
    whole = tar(place.parent / "w.tar.gz", ("top/a.mid", NOISE), ("top/b.mid", NOISE)).read_bytes()
    archive = place.parent / "a.tar.gz"
    for at in (0, 5, 100, len(whole) // 2, len(whole) - 9, len(whole) - 4, len(whole) - 1):
        archive.write_bytes(whole[:at])
        refused(archive, place)
    for end in (512, 512 + 9216, 512 + 9216 + 100):  # the tar itself cut, its gzip whole: tarfile notices half of these
        archive.write_bytes(gzip.compress(gzip.decompress(whole)[:end]))
        refused(archive, place)
    refused(tar(archive, ("top/a.mid", NOISE), end=False), place, "cut short")


def test_checksum_finds_a_flipped_byte(place):
    archive = tar(place.parent / "a.tar.gz", ("top/a.mid", NOISE), wrap=lambda data: gzip.compress(data, 0))
    data = bytearray(archive.read_bytes())
    data[5000] ^= 1
    archive.write_bytes(data)
    refused(archive, place, "broken or cut short: CRC")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
@pytest.mark.parametrize("data", [b"", b"<html>404</html>", gzip.compress(b"x" * 600, mtime=0), b"PK\x05\x06"])
def test_file_of_another_kind_is_refused(place, name, data):
    (place.parent / name).write_bytes(data)
    refused(place.parent / name, place)


def test_archive_without_requested_members_is_reported(place):
    refused(tar(place.parent / "a.tar.gz", ("else/a.mid", b"1")), place, "holds no .mid below top/, in 1 members")


def test_mutated_archives_write_nothing_outside(place, monkeypatch):
    monkeypatch.setattr(os, "sync", lambda: None)  # 0.1 s each time
    draw = random.Random(1)
    good = [tar(place.parent / "a.tar.gz", ("top/a.mid", NOISE), ("top/b/c.mid", b"2"), wrap=bytes).read_bytes(),
            zipped(place.parent / "a.zip", ("top/a.mid", NOISE), ("top/b/c.mid", b"2")).read_bytes()]  # fmt: skip
    refusals = 0
    for turn in range(200):
        data = bytearray(good[turn % 2])
        for _ in range(draw.choice((1, 3, 30))):
            at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(600)
            data[min(at, len(data) - 1)] = draw.choice((0, 255, draw.randrange(256), ord("/"), ord(".")))
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        archive = place.parent / ("a.tar.gz", "a.zip")[turn % 2]
        archive.write_bytes(gzip.compress(data, 0) if turn % 2 == 0 else data)
        try:
            take(archive, place)
        except DriftworkError:
            refusals += 1
        else:
            assert all(path.is_file() or path.is_dir() for path in place.rglob("*"))
            assert not any(path.is_symlink() for path in place.rglob("*"))
            os.replace(place, place.with_name(f"out{turn}"))
        assert {path.name.rstrip("0123456789") for path in place.parent.iterdir()} <= {"a.tar.gz", "a.zip", "out"}
    assert 50 < refusals < 200


def test_rest_of_killed_attempt_is_removed(place):
    left = place.with_name(".out.unpacking")
    left.mkdir()
    (left / "half.mid").write_bytes(b"half")
    take(tar(place.parent / "a.tar.gz", ("top/a.mid", b"1")), place)
    assert files(place) == {"a.mid": b"1"}
    assert not left.exists()


def test_full_disk_leaves_no_files(place, monkeypatch):
    def full(self, mode):
        raise OSError(28, "No space left on device")

    archive = tar(place.parent / "a.tar.gz", ("top/a.mid", b"1"))
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DriftworkError, match="cannot be written: No space left on device"):
        take(archive, place)
    assert [path.name for path in place.parent.iterdir()] == ["a.tar.gz"]


def refused(archive, place, said=".", limits=LIMITS):
    """Check that unpacking raises an error of one line, and leaves nothing but the archive in the folder."""
    others = {path.name for path in place.parent.iterdir()}
    with pytest.raises(DriftworkError, match=said) as caught:
        take(archive, place, limits)
    assert "\n" not in str(caught.value)
    assert str(archive) in str(caught.value)
    assert {path.name for path in place.parent.iterdir()} == others
    assert not (place.parent.parent / "evil.mid").exists()
