"""The reader of TIMIT, alone and in `prepare`: exact frames, splits by speaker, a reason for each bad file."""

import numpy as np
import pytest
from scipy.io import wavfile

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.timit import MAX_BYTES, Timit, TimitConfig
from pipeline.sequence import DataSpec, UnreadableError
from pipeline.shards.manifest import read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.verify import verify
from tests.datasets import quarantined
from tests.pipeline.readers.speech import corpus, flat, riff, speaker, sphere, voice
from tests.places import ROOT, SAMPLES

CONFIG = ROOT / "configs" / "prepare" / "timit.yaml"
READER = Timit(TimitConfig())


def prepared(raw, out, *overrides):
    return prepare(load(PrepareConfig, CONFIG, [f"source={raw}", f"out={out}", *overrides]))


def samples(folder, split):
    manifest = read_manifest(folder)
    for shard in manifest.of(split):
        with (folder / shard.file).open("rb") as handle:
            yield from (read_sample(handle, shard, index, manifest.spec) for index in range(shard.samples))


def speakers(folder):
    return {split: {sample.group for sample in samples(folder, split)} for split in ("train", "val", "test")}


@pytest.fixture
def real():
    if not (SAMPLES / "timit").exists():
        pytest.skip(f"no real speech in {SAMPLES / 'timit'}; set DRIFTWORK_SAMPLES")
    return SAMPLES / "timit"


@pytest.mark.parametrize(
    ("count", "frames"),
    [(4000, [40]), (16000, [160]), (16099, [160]), (19999, [160]), (20000, [160, 40]), (20099, [160, 40]),
     (47950, [160, 160, 159]), (32000, [160, 160])],
)  # fmt: skip
def test_sentence_is_cut_into_seconds(tmp_path, count, frames):
    speech = voice(count)
    (tmp_path / "dr1-fvmh0").mkdir()
    (tmp_path / "dr1-fvmh0" / "sa1.wav").write_bytes(sphere(speech))
    sequences = READER.read(tmp_path, READER.find(tmp_path)[0])
    assert [len(sequence.times) for sequence in sequences] == frames
    assert [sequence.key for sequence in sequences] == [f"dr1-fvmh0-sa1-{n:02d}" for n in range(len(frames))]
    joined = np.concatenate([sequence.values.reshape(-1) for sequence in sequences])
    assert joined.dtype == np.float32
    assert np.array_equal(joined.astype(np.float64) * 32768, speech[: len(joined)])
    assert (joined.min(), joined.max()) == (-1.0, np.float32(32767 / 32768))
    for sequence in sequences:
        assert sequence.group == "dr1-fvmh0"
        assert sequence.mask.all()
        np.testing.assert_allclose(sequence.times * 160, np.arange(len(sequence.times)), rtol=1e-15)


def test_real_sentences_match_scipy(real):
    items = READER.find(real)
    assert len(items) == 120
    assert len({item.group for item in items}) == 12
    misread = 0
    for item in items:
        _, speech = wavfile.read(real / item.name)
        if correlation(speech) < 0.3:  # noise: this sample went through a conversion of line ends
            misread += 1
            with pytest.raises(UnreadableError, match="a byte is missing at about"):
                READER.read(real, item)
            continue
        values = np.concatenate([sequence.values.reshape(-1) for sequence in READER.read(real, item)])
        assert np.array_equal(values, (speech[: len(values)] / 32768).astype(np.float32))
        assert 0 <= len(speech) - len(values) < 4000 + 100
        assert correlation(speech) > 0.7
    assert misread == 28


def correlation(speech):
    """Return the correlation of neighbouring samples."""
    x = speech.astype(np.float64)
    return float((x[1:] * x[:-1]).mean() / (x * x).mean())


@pytest.mark.parametrize("at", [3, 16001, 47000])
def test_lost_byte_is_found(tmp_path, at):
    hum = (3000 * np.sin(np.arange(30000) / 9)).astype(np.int16)
    (tmp_path / "dr1-fvmh0").mkdir()
    path = tmp_path / "dr1-fvmh0" / "sa1.wav"
    path.write_bytes(sphere(hum))
    assert len(READER.read(tmp_path, READER.find(tmp_path)[0])) == 2
    data = path.read_bytes()
    path.write_bytes(data[: 1024 + at] + data[1024 + at + 1 :] + b"\0")
    with pytest.raises(UnreadableError, match="a byte is missing at about"):
        READER.read(tmp_path, READER.find(tmp_path)[0])


def test_case_of_names_does_not_matter(tmp_path):
    upper, lower = (corpus(tmp_path / str(case), upper=case) for case in (True, False))
    for a, b in zip(READER.find(upper), READER.find(lower), strict=True):
        assert (a.name.lower(), a.group, a.split) == (b.name, b.group, b.split)
        assert a.split == ("test" if b.name.startswith("test") else None)
        for x, y in zip(READER.read(upper, a), READER.read(lower, b), strict=True):
            assert x.key == y.key
            assert np.array_equal(x.values, y.values)


def test_corpus_may_lie_deeper(tmp_path):
    root = corpus(tmp_path / "disc" / "timit", train=2, test=1)
    (root / "README.DOC").write_text("about")
    copies = [path.with_name(f"{path.name}.wav") for path in sorted(root.rglob("*.WAV"))]
    for copy in copies:  # RIFF beside SPHERE, as in a common copy of the corpus
        riff(copy, voice(16000))
    assert [item.name for item in READER.find(tmp_path)] == [
        path.relative_to(tmp_path).as_posix() for path in sorted(root.rglob("*.WAV"))
    ]
    for copy in copies:
        copy.with_suffix("").unlink()
    keys = [READER.read(tmp_path, item)[0].key for item in READER.find(tmp_path)]
    assert keys[0] == "dr3-f0020-sa1-00"
    assert len(set(keys)) == 6


@pytest.mark.ray
def test_corpus_keeps_its_test_speakers(tmp_path, local_ray):
    """Some speakers of TRAIN are used for validation."""
    raw, out = corpus(tmp_path / "raw"), tmp_path / "out"
    prepared(raw, out)
    found = speakers(out)
    assert found["test"] == {f"dr{n % 8 + 1}-f{n:03d}0" for n in range(10, 14)}
    assert len(found["val"]) >= 1
    assert len(found["train"]) >= 7
    assert found["train"] | found["val"] == {f"dr{n % 8 + 1}-f{n:03d}0" for n in range(10)}
    assert not found["train"] & found["val"]


@pytest.mark.ray
def test_shipped_fractions_leave_no_split_empty(real, tmp_path, local_ray):
    out = tmp_path / "out"
    manifest = prepared(real, out)
    found = speakers(out)
    assert {split: len(names) for split, names in found.items()} == {"train": 9, "val": 1, "test": 2}
    assert len(set.union(*found.values())) == 12
    assert manifest.unreadable == 28
    assert verify(out).samples == 298
    assert manifest.spec.audio_rate == 16000
    assert read_manifest(out).hash == manifest.hash
    train = np.concatenate([sample.values for sample in samples(out, "train")]).astype(np.float64)
    np.testing.assert_allclose(manifest.stats.scale, train.std(axis=0), rtol=1e-9)


BAD = {
    "sx10.wav": (sphere(voice(20000), sample_coding="-s26 pcm,embedded-shorten-v2.00"), "embedded-shorten-v2.00 is"),
    "sx11.wav": (sphere(voice(20000), sample_coding="-s4 ulaw"), "sample_coding ulaw is not pcm"),
    "sx12.wav": (sphere(voice(20000), line=b"    512\n"), "header size '512' is not a multiple of 1024"),
    "sx13.wav": (
        sphere(voice(20000), channel_count="-i 2", sample_count="-i 10000"),
        "2 channels; only mono is read",
    ),
    "sx14.wav": (sphere(voice(20000), sample_rate="-i 8000"), "8000 samples per second, not 16000"),
    "sx15.wav": (sphere(voice(20000))[:9000], "truncated: 3988 of 20000 samples are there"),
    "sx16.wav": (b"", "an empty file"),
    "sx17.wav": (sphere(voice(0)), "holds no samples"),
    "sx18.wav": (sphere(voice(3999)), "too short: 3999 samples, under 4000"),
    "sx19.wav": (b"no sound\n" * 900, "neither NIST SPHERE nor RIFF WAVE"),
    "sx20.wav": (b"RIFF", "truncated or damaged before the samples"),
}


@pytest.mark.ray
def test_bad_files_are_quarantined_with_reasons(tmp_path, local_ray):
    raw, out = flat(tmp_path / "raw"), tmp_path / "out"
    for name, (content, _) in BAD.items():
        (raw / "dr1-f0000" / name).write_bytes(content)
    riff(raw / "dr1-f0000" / "sx21.wav", voice(40000), channels=2)
    riff(raw / "dr1-f0000" / "sx22.wav", voice(20000), rate=8000)
    riff(raw / "noises" / "door.wav", voice(20000))
    riff(raw / "dr1-f0000" / "si23.wav", voice(20000))
    expected = {f"dr1-f0000/{name}": reason for name, (_, reason) in BAD.items()}
    expected["dr1-f0000/sx21.wav"] = "2 channels; only mono is read"
    expected["dr1-f0000/sx22.wav"] = "8000 samples per second, not 16000"
    expected["noises/door.wav"] = "its path does not have the form TRAIN|TEST/DRn/SPEAKER/*.WAV or drn-speaker/*.wav"
    with pytest.raises(DriftworkError, match=r"more than max_unreadable=0\.1"):
        prepared(raw, out, "max_unreadable=0.1")
    manifest = prepared(raw, out, "max_unreadable=0.6")
    reasons = quarantined(out)
    assert reasons.keys() == expected.keys()
    assert all(reason in reasons[name] for name, reason in expected.items()), reasons
    assert (manifest.items, manifest.unreadable) == (27, 14)
    kept = [sample.key for split in ("train", "val", "test") for sample in samples(out, split)]
    assert len(kept) == len(set(kept)) == 2 * 13
    assert "dr1-f0000-si23-01" in kept
    assert verify(out).samples == 26


def test_manifest_without_sound_keeps_its_form():
    silent = DataSpec(dim=2, length=3, interval=0.1, likelihood="gaussian", units="m")
    assert list(silent.model_dump(mode="json")) == ["dim", "length", "interval", "likelihood", "units", "image"]
    for spec in (silent, READER.spec()):
        assert DataSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_loud_sound_is_not_taken_for_damage(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    for n, sound in enumerate(
        [16384 * np.sign(tone), 256 * np.round(127 * tone), 20000 * (np.arange(16000) % 400 == 0)]
    ):
        path = tmp_path / "dr1-fvmh0" / f"sx{n}.wav"
        riff(path, sound.astype("<i2"))
    assert [len(READER.read(tmp_path, item)) for item in READER.find(tmp_path)] == [1, 1, 1]


def test_oversized_or_missing_file_is_refused(tmp_path):
    speaker(tmp_path / "dr1-fvmh0", ("sa1",))
    with (tmp_path / "dr1-fvmh0" / "sa1.wav").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    with pytest.raises(UnreadableError, match="64 MiB is too large for a sentence"):
        READER.read(tmp_path, READER.find(tmp_path)[0])
    (item,) = READER.find(tmp_path)
    (tmp_path / "dr1-fvmh0" / "sa1.wav").unlink()
    with pytest.raises(UnreadableError, match="cannot be opened: No such file"):
        READER.read(tmp_path, item)


def test_folder_without_corpus_is_refused(tmp_path):
    def refused(root, said):
        with pytest.raises(DriftworkError) as caught:
            READER.find(root)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path, "no .wav file in it or below it")
    corpus(tmp_path / "a", test=0)
    refused(tmp_path / "a", "holds TRAIN but no TEST; give the folder that holds both")
    refused(
        tmp_path / "a" / "TRAIN", "no path has the form TRAIN|TEST/DRn/SPEAKER/*.WAV or drn-speaker/*.wav (the first is"
    )
    corpus(tmp_path / "b", train=0, upper=False)
    refused(tmp_path / "b", "holds TEST but no TRAIN")
    flat(corpus(tmp_path / "c", train=1, test=1), 1)
    refused(tmp_path / "c", "holds TRAIN or TEST and drn-speaker folders too")
    speaker(corpus(tmp_path / "d", train=1, test=1) / "test" / "dr1" / "F0000", ("sx9",))
    refused(tmp_path / "d", "TRAIN/DR1/F0000/SA1.WAV and test/dr1/F0000/sx9.wav put a speaker into two splits")
    flat(tmp_path / "e" / "one", 1)
    flat(tmp_path / "e" / "two", 1)
    refused(tmp_path / "e", "one/dr1-f0000/sa1.wav and two/dr1-f0000/sa1.wav are the same sentence")
