"""A list of the files in a folder with their hashes, which shows whether the folder is intact."""

import json
from pathlib import Path

from driftwork.files import aside, sha256

FILES = "files.json"


def write(folder: Path, hashes: dict[str, str]) -> None:
    """Write the list of relative paths and their SHA-256 into the folder."""
    with aside(folder / FILES) as temporary:
        temporary.write_text(json.dumps(dict(sorted(hashes.items())), indent=1) + "\n")


def damage(folder: Path) -> str:
    """Return how the folder differs from its list, or an empty string."""
    try:
        hashes = json.loads((folder / FILES).read_bytes())
        for name, expected in hashes.items():
            if sha256(folder / name) != expected:
                return f"{name} does not match its SHA-256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, AttributeError):
        return f"{FILES} cannot be read"
    return ""
