"""Start Python processes that run this code, whatever files lie in the folder they are started in.

`python -m module` puts the working folder before everything else that is imported: a user's own `launch.py` or
`torch.py` there would be executed in the place of the module of that name.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `launch`, `pipeline` and `models`."""


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python with `arguments`, without the working folder in its path."""
    return [sys.executable, "-P", *arguments]


def search_path() -> dict[str, str]:
    """Return the environment variables by which a process, and each that it starts, finds this code first.

    Folders that the user has put into PYTHONPATH follow. An empty entry, which stands for the working folder and is
    mostly left by an accident (`PYTHONPATH=$PYTHONPATH:/more`), is dropped.
    """
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *others]), "PYTHONSAFEPATH": "1"}
