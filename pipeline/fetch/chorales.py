"""The Bach chorales of music21's corpus as MIDI files: real music for users without files of their own.

Files keep music21's names, `bwv227.3.mid`. The MIDI reader treats the part after the last dot as a version, so that all
chorales of one work are one song: a motet sets the same tune several times, and a tune must not be in two splits.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from driftwork.errors import DriftworkError
from driftwork.files import aside, writing
from driftwork.progress import progress

DONE = "README.txt"
ABOUT = """Bach chorales from the corpus of music21 (https://www.music21.org), written as MIDI by driftwork.
The music is in the public domain; the encodings come with music21, under the terms that it states.
"""


def write_chorales(folder: Path) -> int:
    """Write the chorales to `folder` as .mid files and return their number (352). If all exist, nothing is written.

    Raises `DriftworkError` when music21 is not installed or `folder` cannot be written.
    """
    if (folder / DONE).exists():
        return _count(folder)
    try:
        from music21.corpus import chorales
    except ModuleNotFoundError:
        raise DriftworkError("music21 is not installed; run pip install -e '.[demo]' for it and its chorales") from None
    names = list(chorales.Iterator(numberingSystem="bwv", returnType="filename"))
    with writing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        workers = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))  # callers have threads
        with workers as pool, progress("chorales", len(names)) as advance:
            for _ in pool.map(partial(_write, folder), names, chunksize=4):
                advance()
        with aside(folder / DONE) as temporary:
            temporary.write_text(ABOUT, encoding="utf-8")
    return _count(folder)


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.mid"))


def _write(folder: Path, name: str) -> None:
    from music21 import corpus, repeat

    path = folder / f"{Path(name).name}.mid"
    if path.exists():
        return
    # one of them, bwv277, has repeat signs that match nothing: it is left out
    with suppress(repeat.ExpanderException), aside(path) as temporary:
        corpus.parse(name).write("midi", temporary)
