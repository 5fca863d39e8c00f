"""Where a tracking store lies: a SQLite file or the address of a server. No MLflow here: it costs nothing to ask."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from models.errors import DriftworkError
from models.values import expanded

_SQLITE = "sqlite:///"


def _checked(uri: str) -> str:
    is_file = uri.startswith(_SQLITE) and len(uri) > len(_SQLITE)
    if not is_file and not uri.startswith(("http://", "https://")):  # MLflow itself has dropped plain folders
        raise ValueError("must be sqlite:///FILE, http://HOST:PORT, https://HOST or null")
    return f"{_SQLITE}{expanded(uri.removeprefix(_SQLITE))}" if is_file else uri


StoreUri = Annotated[str, AfterValidator(_checked)]


def database(uri: str) -> Path | None:
    """The SQLite file, absolute; None for a server."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def absolute(uri: str) -> str:
    """`uri` with the path of a SQLite file made absolute, so that a later change of directory moves nothing."""
    file = database(uri)
    return uri if file is None else f"{_SQLITE}{file}"


def existing(uri: str) -> str:
    """`absolute(uri)`; DriftworkError when it names a SQLite file that is not there, which MLflow would create."""
    file = database(uri)
    if file is not None and not file.is_file():
        raise DriftworkError(
            f"{file}: no tracking store here; a training run makes one, uri=sqlite:///FILE names another"
        )
    return absolute(uri)


def artifact_root(file: Path) -> str:
    """Artifacts lie beside the database, not in the working directory."""
    return (file.parent / "artifacts").as_uri()
