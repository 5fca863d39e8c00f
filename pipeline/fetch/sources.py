"""What `fetch` knows of an official archive: address, largest size, hash, and what is taken of it."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from pipeline.fetch.archive import Limits
from pipeline.fetch.http_get import check_address


def _address(url: str) -> str:
    try:
        check_address(url, url)
    except DriftworkError as error:
        raise ValueError(str(error)) from None
    return url.rstrip("/")


def _relative(path: str) -> str:
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ValueError("must be a path below the folder")
    return path


Below = Annotated[str, AfterValidator(_relative)]


class Unpack(Limits):
    below: Below
    """The folder in the archive that is taken."""
    into: Below
    """The folder below `to` that it becomes."""
    suffixes: tuple[str, ...]
    """Of the files that are taken, in lower case."""


class Remote(Config):
    path: Below
    """Below `url`, and below `to`."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Null: recorded at the first download and held to from then on."""
    max_bytes: int = Field(ge=1)
    unpack: Unpack | None = None


class FetchConfig(Config):
    name: Literal["lakh_clean", "lakh_full", "mnist"]
    title: str
    licence: str
    url: Annotated[str, AfterValidator(_address)]
    """The folder on the publisher's server, or on a mirror of it."""
    to: Path
    """Folder for what is fetched."""
    files: tuple[Remote, ...] = Field(min_length=1)
    md5_names: bool = False
    """A file's name is the MD5 of its bytes, and is checked."""

    def wanted(self) -> tuple[Remote, ...]:
        return self.files


class CmuConfig(FetchConfig):
    name: Literal["cmu"]  # type: ignore[assignment]
    subject: int | Literal["all"] = 35
    """A number, or all of them."""
    trials: dict[int, int]
    """How many trials a subject has, where they are numbered from 1 without a gap: fetched file by file."""
    max_bytes: int = Field(ge=1)
    """Of one such file."""

    def wanted(self) -> tuple[Remote, ...]:
        if self.subject == "all":
            return self.files
        number = f"{self.subject:02d}"
        if self.subject not in self.trials:
            return tuple(_narrowed(file, number) for file in self.files)
        names = [f"{number}.asf", *(f"{number}_{trial:02d}.amc" for trial in range(1, self.trials[self.subject] + 1))]
        return tuple(Remote(path=f"subjects/{number}/{name}", max_bytes=self.max_bytes) for name in names)


class TimitConfig(Config):
    name: Literal["timit"]
    title: str
    licence: str
    url: Annotated[str, AfterValidator(_address)]
    """Where a licence is had."""
    source: Path | None = Field(None, alias="from")
    """The folder that the user brings: it holds TRAIN and TEST."""


SOURCES: dict[str, type[FetchConfig] | type[TimitConfig]] = {
    "lakh_clean": FetchConfig,
    "lakh_full": FetchConfig,
    "cmu": CmuConfig,
    "mnist": FetchConfig,
    "timit": TimitConfig,
}


def _narrowed(file: Remote, number: str) -> Remote:
    """The archive of all subjects, of which one is taken."""
    if file.unpack is None:
        return file
    unpack = file.unpack.model_copy(
        update={"below": f"{file.unpack.below}/{number}", "into": f"{file.unpack.into}/{number}"}
    )
    return file.model_copy(update={"unpack": unpack})
