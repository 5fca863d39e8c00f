"""Synthetic speech for tests: SPHERE files field by field, RIFF files by the standard library, whole corpora."""

import wave

import numpy as np

FIELDS = {
    "database_id": "-s5 TIMIT",
    "utterance_id": "-s8 cjf0_sa1",
    "channel_count": "-i 1",
    "sample_rate": "-i 16000",
    "sample_min": "-i -2191",
    "sample_n_bytes": "-i 2",
    "sample_byte_format": "-s2 01",
    "sample_sig_bits": "-i 16",
}
"""Header fields of a TIMIT file, which names no coding."""


def voice(count, seed=0):
    """Return samples [count] int16 that include both ends of the range."""
    samples = np.random.default_rng(seed).integers(-32768, 32768, count).astype(np.int16)
    samples[:2] = (-32768, 32767)[:count]
    return samples


def sphere(samples, *, size=1024, line=None, end=b"end_head\n", order="<i2", **changed):
    """Return the bytes of a SPHERE file with some header fields `changed`; None leaves a field out."""
    fields = FIELDS | {"sample_count": f"-i {len(samples)}"} | changed
    lines = "".join(f"{name} {value}\n" for name, value in fields.items() if value is not None)
    header = b"NIST_1A\n" + (line or b"%7d\n" % size) + lines.encode() + end
    return header.ljust(size) + samples.astype(order).tobytes()


def riff(path, samples, *, rate=16000, channels=1, width=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def speaker(folder, sentences=("sa1", "sx2"), *, seconds=1.5, suffix=".wav", seed=0):
    """Write a speaker's folder of SPHERE files with the usual files beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, sentence in enumerate(sentences):
        samples = voice(int(16000 * seconds), seed=100 * seed + number)
        (folder / f"{sentence}{suffix}").write_bytes(sphere(samples))
        (folder / f"{sentence}.phn").write_text("0 2400 h#\n")
    return folder


def flat(root, speakers=6):
    """Write a sample of the corpus in NLTK's layout."""
    for n in range(speakers):
        speaker(root / f"dr{n % 8 + 1}-f{n:03d}0", seed=n)
    return root


def corpus(root, *, train=10, test=4, upper=True):
    """Write the corpus in the LDC's layout, with the same speakers in upper or lower case."""
    for half, numbers in (("train", range(train)), ("test", range(train, train + test))):
        for n in numbers:
            place, suffix = f"{half}/dr{n % 8 + 1}/f{n:03d}0", ".wav"
            if upper:
                place, suffix = place.upper(), ".WAV"
            speaker(root / place, ("SA1", "SX2") if upper else ("sa1", "sx2"), suffix=suffix, seed=n)
    return root
