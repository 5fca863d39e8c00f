"""Raw files, shards, manifests and configs damaged at random: `python -m tests.fuzz CASES SEED`.

Every file is read, or refused in one line that names it, and the files beside it are read as usual. There is no
traceback, crash or hang; nothing that could run is loaded, and nothing is written except the result. MIDI files that
are not damaged are read as other readers read them.
"""

import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import midi_frames
from tests.fuzz.prepared import manifests, shards
from tests.fuzz.raw_files import MEDIA, idx, media
from tests.fuzz.settings import configs, grids
from tests.fuzz.tables import tables

GROWTH_MIB = 1024
"""Maximum growth of this process by reading bad files, MiB."""
OTHERS = (idx, shards, manifests, configs, grids, tables)


def everything(folder: Path, cases: int, seed: int, real: bool) -> dict[str, Counter[str]]:
    """Test `cases` of each kind. Raises `AssertionError`, or an error that a reader did not handle."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {kind: media(folder, Random(f"{seed} {kind}"), cases, kind, real) for kind in MEDIA}
    for fuzz in OTHERS:
        name = fuzz.__name__
        (folder / name).mkdir()
        found[name] = fuzz(folder / name, Random(f"{seed} {name}"), cases)
    found["midi frames"] = midi_frames.compare(Random(f"{seed} midi frames"), cases)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < GROWTH_MIB, f"{grown} MiB more"
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for kind, outcome in everything(Path(temporary), int(sys.argv[1]), int(sys.argv[2]), real=True).items():
            print(f"{kind}: {', '.join(f'{n} {what}' for what, n in sorted(outcome.items()))}")
