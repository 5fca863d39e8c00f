"""SPHERE against files of libsndfile and files built field by field; RIFF against scipy and libsndfile."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from pipeline.readers.sphere import parse_sphere
from pipeline.readers.wav import parse_wav, write_wav
from pipeline.sequence import UnreadableError
from tests.pipeline.readers.speech import riff, sphere, voice
from tests.places import SAMPLES


def refused(parse, data, reason):
    with pytest.raises(UnreadableError, match=reason) as caught:
        parse(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_libsndfile_sphere_is_read_exactly(endian, channels):
    samples, file = voice(2000).reshape(-1, channels), io.BytesIO()
    soundfile.write(file, samples, 8000, format="NIST", subtype="PCM_16", endian=endian)
    pcm = parse_sphere(file.getvalue())
    assert pcm.rate == 8000
    assert pcm.samples.dtype == np.int16
    assert np.array_equal(pcm.samples, samples)


@pytest.mark.parametrize(("order", "name"), [("<i2", "01"), (">i2", "10")])
@pytest.mark.parametrize("size", [1024, 2048])
def test_byte_orders_and_long_headers_are_read(order, name, size):
    samples = voice(999)
    data = sphere(samples, size=size, order=order, sample_byte_format=f"-s2 {name}")
    assert np.array_equal(parse_sphere(data).samples[:, 0], samples)
    # libsndfile reads only headers of 1024 bytes
    if size == 1024:
        assert np.array_equal(soundfile.read(io.BytesIO(data), dtype="int16")[0], samples)


WHOLE = sphere(voice(500))
BAD = {
    "no SPHERE at all": (b"RIFF" + WHOLE, "does not begin with NIST_1A"),
    "cut in the first line": (WHOLE[:6], "does not begin with NIST_1A"),
    "cut in the second": (WHOLE[:12], "header size '1' is not a multiple of 1024"),
    "cut in the header": (WHOLE[:700], "truncated in the header, 700 of 1024 bytes"),
    "cut after the header": (WHOLE[:1024], "truncated: 0 of 500 samples are there"),
    "one byte short": (WHOLE[:-1], "truncated: 499 of 500 samples are there"),
    "a shorter header size": (sphere(voice(500), line=b"    512\n"), "header size '512' is not a multiple of 1024"),
    "a header size of 0": (sphere(voice(500), line=b"      0\n"), "header size '0' is not a multiple of 1024"),
    "a header size of text": (sphere(voice(500), line=b"   10x4\n"), "header size '10x4' is not a multiple"),
    "a negative header size": (sphere(voice(500), line=b"  -1024\n"), "header size '-1024' is not a multiple"),
    "no header size": (sphere(voice(500), line=b"database"), "header size 'database' is not a multiple"),
    "a longer header size": (sphere(voice(9000), line=b"   2048\n"), "truncated: 8488 of 9000 samples are there"),
    "a huge header size": (sphere(voice(500), line=b"9999360\n"), "truncated in the header, 2024 of 9999360 bytes"),
    "a smaller header size than the header": (
        sphere(voice(500), size=2048, line=b"   1024\n"), r"1024 bytes beyond header \(1024\) and samples \(1000\)",
    ),
    "no end_head": (sphere(voice(500), end=b""), "no end_head in the 1024 bytes of header"),
    "a line of no field": (sphere(voice(500), end=b"sample_max\nend_head\n"), "header line 'sample_max' is not NAME"),
    "shorten": (
        sphere(voice(500), sample_coding="-s26 pcm,embedded-shorten-v2.00"),
        "sample_coding pcm,embedded-shorten-v2.00 is compressed; decompress it first",
    ),
    "mu-law": (sphere(voice(500), sample_coding="-s4 ulaw"), "sample_coding ulaw is not pcm"),
    "A-law": (sphere(voice(500), sample_coding="-s4 alaw"), "sample_coding alaw is not pcm"),
    "an unknown coding": (sphere(voice(500), sample_coding="-s3 xyz"), "sample_coding xyz is not pcm"),
    "8 bits": (sphere(voice(500), sample_n_bytes="-i 1"), "sample_n_bytes 1; only 16-bit"),
    "32 bits": (sphere(voice(500), sample_n_bytes="-i 4"), "sample_n_bytes 4; only 16-bit"),
    "an unknown order": (sphere(voice(500), sample_byte_format="-s2 11"), "sample_byte_format 11, not 01 or 10"),
    "no order": (sphere(voice(500), sample_byte_format=None), "sample_byte_format missing, not 01 or 10"),
    "no count": (sphere(voice(500), sample_count=None), "the header has no sample_count"),
    "no rate": (sphere(voice(500), sample_rate=None), "the header has no sample_rate"),
    "no channels": (sphere(voice(500), channel_count="-i 0"), "channel_count is 0"),
    "a negative count": (sphere(voice(500), sample_count="-i -500"), "sample_count -500 is not a whole number"),
    "a huge count": (sphere(voice(500), sample_count=f"-i {'9' * 200}"), "sample_count 9+ is not a whole number"),
    "a count in Arabic digits": (sphere(voice(500), sample_count="-i ٥٠٠"), "is not a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_sphere_file_gives_its_reason(name):
    refused(parse_sphere, *BAD[name])


def test_compressed_and_logarithmic_files_are_refused():
    for subtype, coding in (("ULAW", "ulaw"), ("ALAW", "alaw")):
        file = io.BytesIO()
        soundfile.write(file, voice(500), 16000, format="NIST", subtype=subtype)
        refused(parse_sphere, file.getvalue(), f"sample_coding {coding} is not pcm")


@pytest.mark.parametrize("channels", [1, 2])
def test_wav_matches_scipy_and_libsndfile(tmp_path, channels):
    path = riff(tmp_path / "a.wav", voice(2000), rate=11025, channels=channels)
    pcm = parse_wav(path.read_bytes())
    rate, samples = wavfile.read(path)
    assert pcm.rate == rate == 11025
    assert np.array_equal(pcm.samples, samples.reshape(-1, channels))
    assert np.array_equal(pcm.samples, soundfile.read(path, dtype="int16", always_2d=True)[0])


def test_real_sentences_match_scipy_and_libsndfile():
    if not (SAMPLES / "timit").exists():
        pytest.skip(f"no real speech in {SAMPLES / 'timit'}; set DRIFTWORK_SAMPLES")
    paths = sorted((SAMPLES / "timit").rglob("*.wav"))
    assert len(paths) >= 100
    for path in paths:
        pcm = parse_wav(path.read_bytes())
        assert (pcm.rate, pcm.samples.shape[1]) == (16000, 1)
        assert np.array_equal(pcm.samples[:, 0], wavfile.read(path)[1])
        assert np.array_equal(pcm.samples[:, 0], soundfile.read(path, dtype="int16")[0])


@pytest.mark.parametrize("channels", [1, 2])
def test_extensible_pcm_is_read(channels):
    file = io.BytesIO()
    soundfile.write(file, voice(2000).reshape(-1, channels), 11025, format="WAVEX", subtype="PCM_16")
    data = file.getvalue()
    assert data[20:22] == b"\xfe\xff"
    pcm = parse_wav(data)
    assert pcm.rate == 11025
    assert np.array_equal(pcm.samples, voice(2000).reshape(-1, channels))


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000])
@pytest.mark.parametrize("more", [b"", b"LIST\x04\0\0\0INFO"])
def test_piped_wav_is_read_to_its_end(length, more):
    """`ffmpeg -f wav -` and `sox -t wav -` write such files, since they cannot fill in the lengths later."""
    outer, inner = (length + 36) % 2**32 if length < 2**32 - 1 else length, length
    data = b"RIFF" + outer.to_bytes(4, "little") + WAV[8:36] + more + b"data" + inner.to_bytes(4, "little") + WAV[44:]
    assert np.array_equal(parse_wav(data).samples[:, 0], voice(500))
    refused(parse_wav, data[:-1], "truncated: 499 of 500 samples are there")


def test_chunks_after_samples_are_ignored():
    assert np.array_equal(parse_wav(WAV + b"LIST\x04\0\0\0INFO").samples[:, 0], voice(500))


def test_file_length_in_header_is_ignored():
    for outer in (0, 36, 2**31):
        data = b"RIFF" + outer.to_bytes(4, "little") + WAV[8:]
        assert np.array_equal(parse_wav(data).samples[:, 0], voice(500))


def wav_bytes(samples, **form):
    with tempfile.TemporaryDirectory() as folder:
        return riff(Path(folder) / "a.wav", samples, **form).read_bytes()


def converted(subtype, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, voice(500), 16000, format=form, subtype=subtype)
    return file.getvalue()


WAV = wav_bytes(voice(500))
BAD_WAV = {
    "cut in the header": (WAV[:30], "truncated or damaged before the samples"),
    "cut in the samples": (WAV[:-7], "truncated: 496 of 500 samples are there"),
    "8 bits": (wav_bytes(voice(500), width=1), "8-bit samples; only 16-bit PCM"),
    "24 bits": (wav_bytes(voice(501), width=3), "24-bit samples; only 16-bit PCM"),
    "mu-law": (converted("ULAW"), "unknown format: 7; only 16-bit PCM"),
    "floating point": (converted("FLOAT"), "unknown format: 3; only 16-bit PCM"),
    "extensible floating point": (converted("FLOAT", "WAVEX"), "unknown format: 3; only 16-bit PCM"),
    "extensible 24 bits": (converted("PCM_24", "WAVEX"), "24-bit samples; only 16-bit PCM"),
    "extensible, and nobody knows what": (
        converted("PCM_16", "WAVEX").replace(bytes.fromhex("1000800000aa00389b71"), bytes(10)),
        "unknown format: 65534; only 16-bit PCM",
    ),
    "a RIFF of pictures": (b"RIFF" + (40).to_bytes(4, "little") + b"AVI " + bytes(40), "not a WAVE file"),
}


@pytest.mark.parametrize("name", BAD_WAV)
def test_bad_wav_file_gives_its_reason(name):
    refused(parse_wav, *BAD_WAV[name])


@pytest.mark.parametrize(("parse", "whole", "header"), [(parse_sphere, WHOLE, 260), (parse_wav, WAV, 44)])
def test_damaged_header_gives_samples_or_reason(parse, whole, header):
    rng, reasons = np.random.default_rng(0), []
    for _ in range(3000):
        broken = bytearray(whole)
        broken[int(rng.integers(0, header))] = int(rng.integers(0, 256))
        try:
            assert parse(bytes(broken)).samples.dtype == np.int16
        except UnreadableError as error:
            reasons.append(str(error))
    assert len(reasons) > 300
    assert all(reason.isprintable() for reason in reasons)  # one line each


def test_written_samples_read_back_equal(tmp_path):
    samples = voice(4000)
    write_wav(tmp_path / "a.wav", samples.astype(np.float32) / np.float32(32768), 16000)
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], samples)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_loud_samples_are_clipped(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([-2.0, -1.0, 0.0, 0.99999, 1.0, 1e9]), 16000)
    assert parse_wav((tmp_path / "a.wav").read_bytes()).samples[:, 0].tolist() == [
        -32768, -32768, 0, 32767, 32767, 32767,
    ]  # fmt: skip
