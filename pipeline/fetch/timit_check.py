"""Check that a user's folder holds the whole of TIMIT (LDC93S1)."""

from pathlib import Path
from typing import NamedTuple

from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.readers.sphere import MAGIC
from pipeline.readers.timit import CORPUS, Timit, TimitConfig

SPEAKERS = {"train": 462, "test": 168}
SENTENCES = {"train": 4620, "test": 1680}
"""Number of sentences of each half: ten per speaker, 6300 in all."""


class Half(NamedTuple):
    speakers: int
    sentences: int


def check_corpus(root: Path) -> dict[str, Half]:
    """Count the speakers and sentences of `TRAIN` and `TEST`, in either case and at any depth.

    Raises:
        DriftworkError: the counts differ from TIMIT's, a file is neither SPHERE nor RIFF WAVE by its first bytes, or
            `prepare` would refuse the folder.
    """
    found = [match for item in Timit(TimitConfig()).find(root) if (match := CORPUS.fullmatch(item.name))]
    halves = {}
    for half, sentences in SENTENCES.items():
        here = [match for match in found if match["half"].lower() == half]
        speakers = {(match["region"].lower(), match["speaker"].lower()) for match in here}
        halves[half] = Half(len(speakers), len(here))
        if halves[half] != Half(SPEAKERS[half], sentences):
            raise DriftworkError(
                f"from={root}: {half.upper()} has {len(here)} sentences of {len(speakers)} speakers, but TIMIT has "
                f"{sentences} of {SPEAKERS[half]}; give the whole corpus, or run `prepare` on this part"
            )
    for match in found:
        with (root / match.string).open("rb") as handle:
            if not handle.read(len(MAGIC)).startswith((MAGIC, b"RIFF")):
                raise DriftworkError(
                    f"from={root}: {printable(match.string)} is neither NIST SPHERE nor RIFF WAVE; copy it again"
                )
    return halves
