"""The URI of a tracking store: a SQLite file or the address of a server. MLflow is not imported, so this is quick."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from driftwork.values import expanded
from launch.tracker import login

DEFAULT = "sqlite:///runs/mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"
"""Environment variable that sets another default, as for MLflow's own commands."""

_SQLITE = "sqlite:///"
_MISREAD = re.compile(r"\?|%[0-9A-Fa-f]{2}")
"""Parts of a path that SQLAlchemy reads as the beginning of options, or as the code of another character."""


def _checked(uri: str) -> str:
    uri = login.taken_from(uri)
    is_file = uri.startswith(_SQLITE) and len(uri) > len(_SQLITE)
    if not is_file and not uri.startswith(("http://", "https://")):  # MLflow itself no longer supports plain folders
        raise ValueError("must be sqlite:///FILE, http://HOST:PORT, https://HOST or null")
    return f"{_SQLITE}{expanded(uri.removeprefix(_SQLITE))}" if is_file else uri


StoreUri = Annotated[str, AfterValidator(_checked)]


def default() -> str:
    """Return the default store of commands. Raises `DriftworkError` if the environment variable is not a store."""
    given = os.environ.get(VARIABLE)
    if not given:
        return DEFAULT
    try:
        uri = _checked(given)
    except ValueError as error:
        raise DriftworkError(f"{VARIABLE}={given}: {error}; unset it, or give tracking.uri=") from None
    os.environ[VARIABLE] = uri  # MLflow reads it too, and may print it
    return uri


class DefaultStore(Config):
    """Tracking store of a command about no run in particular."""

    uri: StoreUri | None = Field(default_factory=default)
    """Tracking store, as `sqlite:///FILE` or `http://HOST:PORT`. By default it is the store of new runs: the one that
    MLFLOW_TRACKING_URI names, or else `sqlite:///runs/mlflow.db`. Null uses no store."""


def database(uri: str) -> Path | None:
    """Return the absolute path of the SQLite file; None for a server. The path is taken literally, without quoting.

    Raises:
        DriftworkError: MLflow would read the path, perhaps that of the working folder, as another one.
    """
    if not uri.startswith(_SQLITE):
        return None
    file = Path(uri.removeprefix(_SQLITE)).expanduser().resolve()
    sign = _MISREAD.search(str(file))
    if sign:
        raise DriftworkError(
            f"tracking store {file}: MLflow misreads a path with '{sign[0]}'; "
            f"give tracking.uri=sqlite:///FILE with another path"
        )
    return file


def relative(uri: str | None) -> Path | None:
    """Return the path of a SQLite file that depends on the working folder; None for every other store."""
    path = Path((uri or "").removeprefix(_SQLITE)).expanduser() if (uri or "").startswith(_SQLITE) else None
    return None if path is None or path.is_absolute() else path


def of(file: Path) -> str:
    """Return the address of a store in a SQLite file."""
    return f"{_SQLITE}{file}"


def absolute(uri: str) -> str:
    """Return `uri` with an absolute path of a SQLite file, so that a later change of directory has no effect."""
    file = database(uri)
    return uri if file is None else of(file)


def existing(uri: str) -> str:
    """Return `absolute(uri)`. Raises `DriftworkError` for a missing SQLite file, which MLflow would create."""
    file = database(uri)
    if file is not None and not file.is_file():
        raise DriftworkError(
            f"{file}: no tracking store here; start a training run to make one, or give tracking.uri=sqlite:///FILE"
        )
    return absolute(uri)


def artifact_root(file: Path) -> str:
    """Return the folder of artifacts, beside the database and not in the working directory."""
    return (file.parent / "artifacts").as_uri()
