"""Description of an official archive: address, largest size, hash, and the members that are unpacked."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from pipeline.fetch.archive import Limits
from pipeline.fetch.http_get import check_address
from pipeline.fetch.to_table import STATION, STAY, Row, stations, stays


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
    """Folder in the archive whose files are unpacked."""
    into: Below
    """Folder below `to` that the files are unpacked to."""
    suffixes: tuple[str, ...]
    """Endings, in lower case, of the names of the files that are unpacked."""


class Remote(Config):
    path: Below
    """Path of the file below `url`, and below `to`."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Expected SHA-256 of the file. Null stores the hash of the first download and compares later ones with it."""
    max_bytes: int = Field(ge=1)
    """Largest size of the file, in bytes."""
    unpack: Unpack | None = None
    """Members of the archive that are unpacked. Null keeps the file as it is."""


class FetchConfig(Config):
    name: Literal["lakh_clean", "lakh_full", "mnist"]
    """Name of the archive, as in `driftwork fetch NAME`."""
    title: str
    """Name of the data, which is printed."""
    licence: str
    """Terms of use of the data, which are printed."""
    url: Annotated[str, AfterValidator(_address)]
    """Folder on the publisher's server, or on a mirror with the same layout."""
    to: Path
    """Folder that the files are fetched to."""
    files: tuple[Remote, ...] = Field(min_length=1)
    """Files that are fetched."""
    md5_names: bool = False
    """Whether the name of a file is the MD5 of its bytes, which is then checked."""

    def wanted(self) -> tuple[Remote, ...]:
        return self.files


class TableSource(FetchConfig):
    """An archive of series in a format of its own, which is also converted to a CSV file."""

    table: Below
    """Path of the CSV below `to`, which the data set `table` reads."""

    def columns(self) -> Row:
        """Return the header of the CSV file."""
        raise NotImplementedError

    def rows(self, folders: list[Path]) -> Iterator[Row]:
        """Yield the rows of the CSV; `folders` are those that archives were unpacked to."""
        raise NotImplementedError


class PhysionetConfig(TableSource):
    name: Literal["physionet2012"]  # type: ignore[assignment]
    """Name of the archive, as in `driftwork fetch NAME`."""

    def columns(self) -> Row:
        return STAY

    def rows(self, folders: list[Path]) -> Iterator[Row]:
        return stays(folders)


class UshcnConfig(TableSource):
    name: Literal["ushcn"]  # type: ignore[assignment]
    """Name of the archive, as in `driftwork fetch NAME`."""
    first_year: int = 1996
    """First year whose values are written to the CSV."""
    last_year: int = 2000
    """Last year whose values are written to the CSV."""

    def columns(self) -> Row:
        return STATION

    def rows(self, folders: list[Path]) -> Iterator[Row]:
        return stations(self.to / self.files[0].path, self.first_year, self.last_year)


class CmuConfig(FetchConfig):
    name: Literal["cmu"]  # type: ignore[assignment]
    """Name of the archive, as in `driftwork fetch NAME`."""
    subject: int | Literal["all"] = 35
    """Number of the subject whose trials are fetched, or all subjects."""
    trials: dict[int, int]
    """Number of trials of each subject whose trials are numbered from 1 without a gap. These trials are fetched file by
    file."""
    max_bytes: int = Field(ge=1)
    """Largest size of one file that is fetched by itself, in bytes."""

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
    """Name of the corpus, as in `driftwork fetch NAME`."""
    title: str
    """Name of the corpus, which is printed."""
    licence: str
    """Terms of use of the corpus, which are printed."""
    url: Annotated[str, AfterValidator(_address)]
    """Address where a licence is available."""
    source: Path | None = Field(None, alias="from")
    """Your folder of the corpus, which holds TRAIN and TEST. Null prints where to get it."""


SOURCES: dict[str, type[FetchConfig] | type[TimitConfig]] = {
    "lakh_clean": FetchConfig,
    "lakh_full": FetchConfig,
    "cmu": CmuConfig,
    "mnist": FetchConfig,
    "physionet2012": PhysionetConfig,
    "ushcn": UshcnConfig,
    "timit": TimitConfig,
}


def _narrowed(file: Remote, number: str) -> Remote:
    """Return the archive of all subjects narrowed to one of them."""
    if file.unpack is None:
        return file
    unpack = file.unpack.model_copy(
        update={"below": f"{file.unpack.below}/{number}", "into": f"{file.unpack.into}/{number}"}
    )
    return file.model_copy(update={"unpack": unpack})
