"""Modules of the user, which register models, data sets, likelihoods, metrics and figures when they are imported.

They are found only by name on the import path: modules that installed packages name in the entry point group
`driftwork.plugins`, and modules that a config lists. No file that is read as data can contain code.
"""

import importlib
import sys
import traceback
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError

GROUP = "driftwork.plugins"


def imported(names: tuple[str, ...]) -> tuple[str, ...]:
    """Import the modules `names`, and return them. Raises `DriftworkError` with the reason and the cure in one line."""
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise DriftworkError(
                f"plugins: '{name}' is not a module name; put its folder into PYTHONPATH and give the name alone"
            )
        _import(name)
    return names


def _listed(value: Any) -> Any:
    """Wrap a single name into a tuple."""
    return (value,) if isinstance(value, str) else value


def _imported_after_installed(names: tuple[str, ...]) -> tuple[str, ...]:
    _import_installed()
    return imported(names)


class Plugged(Config):
    """A config in which plugins may add choices.

    The field comes first, so that its modules are imported before the other fields are validated."""

    plugins: Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_imported_after_installed)] = Field(
        (), validate_default=True
    )
    """Modules that are imported first, as in [my_model, my_data]. They register your own models, data sets,
    likelihoods, metrics and figures. Their folder must be in PYTHONPATH. By default only the plugins of installed
    packages are imported."""


@cache
def _import_installed() -> None:
    for entry in metadata.entry_points(group=GROUP):
        _import(entry.module, f"entry point {entry.name} of {entry.dist.name if entry.dist else 'a package'}: ")


def _import(name: str, origin: str = "plugins: ") -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise DriftworkError(
                f"{origin}there is no module {name}; put its folder into PYTHONPATH, as in "
                "`PYTHONPATH=FOLDER driftwork ...`, or install its package"
            ) from None
        missing = f"{name} needs {error.name}, which is not installed{_line(error)}"
        raise DriftworkError(f"{origin}{missing}; install it") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DriftworkError(f"{origin}{name} cannot be imported: {reason}{_line(error)}; correct it") from None


def code_of(module: str) -> Path:
    """Return the file of an imported module, or the folder of the package that contains it."""
    top = sys.modules[module.partition(".")[0]]
    if top.__file__ is None:
        raise DriftworkError(f"{top.__name__} has no __init__.py, so its code cannot be copied; add one")
    file = Path(top.__file__)
    return file.parent if file.name == "__init__.py" else file


def _line(error: Exception) -> str:
    """Return where the error was raised: the file and line at the end of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
