"""Damaged bytes, tars, JSON and YAML, with which `tests.fuzz` tests every reader of files."""

import gzip
import io
import tarfile
from random import Random
from typing import Any

NUMBERS = [b"nan", b"inf", b"-1", b"0", b"1e400", b"99999999999999999999", b"9" * 5000, b"0x" + b"f" * 5000, b"\0"]
COUNTS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\1"]
TEXTS = [b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", "\u202eé".encode(), b"\xc3\x28", b"\r", b"../" * 20, b"%s%n"]


def cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def flip(random: Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(random.choice([1, 1, 4, 32])):
        flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + random.choice([random.randbytes(random.choice([1, 3, 512])), *TEXTS]) + data[at:]


def delete(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + random.choice([1, 2, 3, 100, 512]) :]


def repeat(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    block = data[start : start + random.choice([4, 100, 4096])]
    return data[:start] + block * random.choice([2, 50]) + data[start:]


def count(random: Random, data: bytes) -> bytes:
    """Change a length or a number near the start."""
    at = random.randrange(min(len(data), random.choice([64, 4096])))
    return data[:at] + random.choice(COUNTS) + data[at + 4 :]


def number(random: Random, data: bytes) -> bytes:
    """Change a number that is written in digits."""
    digits = [i for i, byte in enumerate(data[:20000]) if 48 <= byte <= 57]
    if not digits:
        return count(random, data)
    at = random.choice(digits)
    return data[:at] + random.choice(NUMBERS) + data[at + 1 :]


def recode(random: Random, data: bytes) -> bytes:
    return random.choice([data.decode("latin-1").encode("utf-16"), gzip.compress(data), data[::-1], b"", bytes(10**6)])


MUTATIONS = [cut, flip, flip, insert, delete, repeat, count, count, number, number, recode]


def damaged(random: Random, data: bytes) -> bytes:
    """Apply up to three mutations, so that the content always differs."""
    found = data
    while found == data:
        for _ in range(random.choice([1, 1, 2, 3])):
            found = random.choice(MUTATIONS)(random, found or data)
    return found


def forged(random: Random, data: bytes) -> bytes:
    """Replace a member of a tar by a link, a device, a pickle, a name outside of the folder or an excessive size."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = random.choice(tar.getmembers())
    what = random.choice(["name", "type", "size"])
    if what == "name":
        stem = member.name.split(".")[0]
        member.name = random.choice(["../../x.json", "/etc/x.json", f"{stem}.pkl", f"{stem}.pth", "x" * 90, ".", "é"])
    elif what == "type":
        member.type = random.choice([b"1", b"2", b"3", b"4", b"5", b"6", b"L", b"x", b"S"])
        member.linkname = "/etc/passwd"
    at = member.offset
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:])
    if what == "size":
        header[124:136] = random.choice([b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0"])
        header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return data[:at] + bytes(header) + data[at + 512 :]


VALUES: list[Any] = [
    None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "x" * 1000, "two\nlines", "../../x.tar", "\0", "é",
    [], {}, [[]], [1, "a"], {"a": {"b": []}}, [-1] * 6, [2**63] * 6,
]  # fmt: skip
LINES = [
    "a: &a [*a]", "seed: 0x" + "f" * 5000, "seed: " + "9" * 5000, "out: " + "[" * 5000, "base: [a]", "base: /dev/zero",
    "base: ''", "base: ../..", 'base: "a\\0b"', "when: 2026-99-99", "x: !!timestamp x", "x: !!int ''", "x: !!bool x",
    "x: !!python/object/apply:os.mkdir [{pwned}]", "{a: b}: c", "? [a]", "1: 2", "<<: 3", "x: !!binary '*'", "--- a",
    '"two\\nlines": 1', "title: \"a\\nb\"", "title: !!set {a}", "title: 1e999", "\tx: 1", "x: *none", "%YAML 9.9",
    "dataset: {name: [1]}", "dataset: null", "val: .nan", "val: {a: 1}", "title: " + "x" * 10**5,
    "x: |\n" + " y\n" * 10**4,
]  # fmt: skip
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
GRID_LINES = [
    "zip: {" + ", ".join(f"k{i}: [0]" for i in range(1000)) + "}", "zip: {train.seed: " + str([*range(2000)]) + "}",
    "zip: {" + ", ".join(f"train.k{i}: [0, 1]" for i in range(60)) + "}", "zip: {model.latent: [[], {}, null]}",
    "zip: {'': [1]}", "zip: {'a\u202eb': [1]}", "zip: {1: [1]}", "zip: {train.seed: [0x" + "f" * 5000 + "]}",
    "zip: {tracking.experiment: [" + "x" * 1000 + "]}", "zip: {tracking.experiment: ['../../..', \"\\ud800\"]}",
    "zip: {model: [{2026-01-01: 1}]}", "zip: {train: [!!set {a}, !!binary YQ==, 2026-01-01]}",
    "zip: [a]", "zip: {a: 1}", "name: ../../x", 'name: "a\\0b"', "out: /dev/null/x",
    "at_once: 1e9", "evaluate: train", "address: [1]",
]  # fmt: skip
