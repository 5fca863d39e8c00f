"""NIST SPHERE, the file format in which the LDC distributes speech: a header of text, followed by the samples.

    NIST_1A
       1024                      the length of the header in bytes, itself included
    sample_count -i 46797        one field per line: name, type (-i, -r or -sLENGTH), value
    end_head

Specification: NIST Speech Header Resources, SPHERE 2.6. Only 16-bit PCM is read, in both byte orders; compressed
(`pcm,embedded-shorten-v2.00`) and logarithmic (`ulaw`) codings are refused by name.
"""

import numpy as np

from driftwork.files import printable
from pipeline.readers.wav import Pcm
from pipeline.sequence import UnreadableError

MAGIC = b"NIST_1A\n"
BLOCK = 1024
"""Bytes of a block; a header is a whole number of blocks."""
BYTE_ORDER = {"01": "<i2", "10": ">i2"}


def parse_sphere(data: bytes) -> Pcm:
    """Parse the samples of a SPHERE file's bytes. Raises `UnreadableError` with the reason."""
    size = _header_size(data)
    fields = _fields(data[:size])
    coding = fields.get("sample_coding", "pcm")  # the files of TIMIT leave it out
    if coding != "pcm":
        kind = "is compressed; decompress it first, for example with sph2pipe" if "embedded" in coding else "is not pcm"
        raise UnreadableError(f"SPHERE: sample_coding {coding} {kind}")
    count, channels, rate = (_number(fields, name) for name in ("sample_count", "channel_count", "sample_rate"))
    if _number(fields, "sample_n_bytes") != 2:
        raise UnreadableError(f"SPHERE: sample_n_bytes {fields['sample_n_bytes']}; only 16-bit samples are read")
    order = BYTE_ORDER.get(fields.get("sample_byte_format", "missing"))
    if order is None:
        raise UnreadableError(f"SPHERE: sample_byte_format {fields.get('sample_byte_format', 'missing')}, not 01 or 10")
    if channels < 1:
        raise UnreadableError("SPHERE: channel_count is 0, not at least 1")
    wanted, found = 2 * channels * count, len(data) - size
    if found < wanted:
        raise UnreadableError(f"SPHERE: truncated: {found // (2 * channels)} of {count} samples are there")
    if found > wanted:  # samples would be read as header, or the header as samples
        raise UnreadableError(f"SPHERE: {found - wanted} bytes beyond header ({size}) and samples ({wanted})")
    return Pcm(rate, np.frombuffer(data, order, offset=size).astype(np.int16).reshape(count, channels))


def _header_size(data: bytes) -> int:
    if not data.startswith(MAGIC):
        raise UnreadableError("SPHERE: does not begin with NIST_1A")
    line = data[len(MAGIC) : 2 * len(MAGIC)]
    text = printable(line.decode("latin-1").strip())
    if line[-1:] != b"\n" or not (text.isascii() and text.isdigit()) or int(text) == 0 or int(text) % BLOCK:
        raise UnreadableError(f"SPHERE: header size '{text}' is not a multiple of {BLOCK}")
    if int(text) > len(data):
        raise UnreadableError(f"SPHERE: truncated in the header, {len(data)} of {text} bytes")
    return int(text)


def _fields(header: bytes) -> dict[str, str]:
    """Parse the header's fields, name to value, up to `end_head`."""
    fields: dict[str, str] = {}
    for line in header[2 * len(MAGIC) :].decode("latin-1").split("\n"):
        words = line.split(maxsplit=2)
        if words == ["end_head"]:
            return fields
        if not words or words[0].startswith(";"):
            continue
        if len(words) < 3:
            raise UnreadableError(f"SPHERE: header line '{printable(line)[:80]}' is not NAME TYPE VALUE")
        fields[words[0]] = printable(words[2].strip())[:80]
    raise UnreadableError(f"SPHERE: no end_head in the {len(header)} bytes of header")


def _number(fields: dict[str, str], name: str) -> int:
    value = fields.get(name)
    if value is None:
        raise UnreadableError(f"SPHERE: the header has no {name}")
    if not (value.isascii() and value.isdigit()) or len(value) > 15:
        raise UnreadableError(f"SPHERE: {name} {value} is not a whole number")
    return int(value)
