"""Strict, frozen configs: defaults < YAML file (with at most one `base:`) < `key=value` overrides.

A config class lives beside the code that it configures and derives from `Config`. An unknown key is an error that
names similar keys, so that a typo never silently becomes a default.
"""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from driftwork.errors import DriftworkError
from driftwork.explain import explain
from driftwork.processes import ROOT
from driftwork.values import Text, expanded, holds_paths, paths_at_home, read_yaml, resolved


class Config(BaseModel):
    """Base of all configs: frozen, without unknown keys. The docstring below a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Map from earlier names of fields, as found in configs of old runs, to current names. `a.b` is field b of a."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_fields_want_it(cls, raw: Any) -> Any:
        """Read typed text, expand `~` in paths, and replace earlier names of fields."""
        if not isinstance(raw, dict):
            return raw
        raw = with_names_of_today(raw, cls.renamed)
        types, paths = _field_types(cls)
        changed = {key: resolved(value, types[key]) for key, value in raw.items() if key in types and _typed(value)}
        for key in paths & raw.keys():
            try:
                changed[key] = paths_at_home(changed.get(key, raw[key]), types[key])
            except ValueError as error:
                raise ValueError(f"{key}={error}") from None
        return {**raw, **changed} if changed else raw


@cache
def _field_types(cls: type[Config]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the type of each field by its name (or alias), and the names of fields that take paths."""
    types = {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
    return types, frozenset(key for key, annotation in types.items() if holds_paths(annotation))


def with_names_of_today(raw: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Replace earlier names of fields. If a field is given under several names, the last one wins, as with layers."""
    if not renamed.keys() & raw.keys():
        return raw
    named: dict[str, Any] = {}
    for key, value in raw.items():
        name = renamed.get(key, key)
        if name != key:
            _warn(f"{key} is now called {name}; the earlier name still works")
        section, dot, field = name.partition(".")
        others = named.get(section)
        named[section] = {**(others if isinstance(others, dict) else {}), field: value} if dot else value
    return named


@cache
def _warn(line: str) -> None:
    """Print a line on stderr once per process, and in only one process of a job."""
    if os.environ.get("RANK", "0") == "0":
        print(f"driftwork: {line}", file=sys.stderr)


def _typed(value: Any) -> bool:
    return isinstance(value, Text) or (isinstance(value, dict) and any(map(_typed, value.values())))


ConfigT = TypeVar("ConfigT", bound=Config)


_MAX_CHARS = 2**18
"""Maximum size of a config file; the longest shipped has some 2,000 characters."""


Override = str | tuple[str, Any]
"""`a.b=value` as it was typed, or the key and a parsed value."""


def load(cls: type[ConfigT], path: str | Path, overrides: Sequence[Override] = ()) -> ConfigT:
    """Read `path`, apply `overrides` and validate the result.

    Raises:
        DriftworkError: the file is missing or malformed, a key is unknown or a value is not allowed.
    """
    path = config_file(path)
    raw: dict[str, Any] = {}
    for _, layer in layers(path):
        raw = merge(raw, layer)
    for override in overrides:
        apply(raw, override)
    return build(cls, raw, where=str(path))


def parse(cls: type[ConfigT], overrides: Sequence[Override], where: str = "") -> ConfigT:
    """Return the config given by `overrides` alone. `where` names their source in error messages; the arguments of a
    command need no name."""
    raw: dict[str, Any] = {}
    for override in overrides:
        apply(raw, override)
    return build(cls, raw, where)


def build(cls: type[ConfigT], raw: Mapping[str, Any], where: str) -> ConfigT:
    """Validate `raw` as `cls`. `where` names the source in error messages."""
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise DriftworkError(_one_line(f"{where}: " * bool(where) + explain(cls, error))) from None


def dump(config: Config) -> str:
    """Return the resolved config as YAML that `load` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flatten(config: Config) -> dict[str, Any]:
    """Return dotted keys with scalar (or list) values, as in `{"model.hidden": 256, ...}`, for a tracker."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    visit("", config.model_dump(mode="json"))
    return flat


def shortened(keys: Collection[str]) -> dict[str, str]:
    """Map each dotted key to its shortest ending that no other key has."""
    labels = {}
    for key in keys:
        words = key.split(".")
        tails = (".".join(words[-n:]) for n in range(1, len(words) + 1))
        own = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in keys) == 1)
        labels[key] = next(own, key)
    return labels


def layers(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the layers of a config, each with its file name: the base file, if there is one, and the file itself."""
    raw = read_mapping(path)
    base = raw.pop("base", None)
    if base is None:
        return [(str(path), raw)]
    file = path.parent / at_home(str(base))
    below = read_mapping(file)
    if "base" in below:
        raise DriftworkError(f"{path}: base {base} has a base itself; one level is the limit, so merge the two bases")
    return [(os.path.normpath(file), below), (str(path), raw)]


def config_file(path: str | Path) -> Path:
    """Return the path of a config. A path `configs/...` that does not exist in the working folder stands for the
    shipped file."""
    typed = at_home(path)
    shipped = ROOT / typed
    return shipped if typed.parts[:1] == ("configs",) and not typed.exists() and shipped.exists() else typed


def at_home(path: str | Path) -> Path:
    """Return a typed path with `~` expanded. Raises `DriftworkError` if there is no home folder."""
    try:
        return expanded(path)
    except ValueError as error:
        raise DriftworkError(_one_line(str(error))) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines, without its base. Raises `DriftworkError` if it is missing or
    malformed."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARS + 1)
        if len(text) > _MAX_CHARS:
            raise ValueError(f"more than {_MAX_CHARS} characters")
        raw = read_yaml(text)
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; {path.parent} holds {', '.join(near)}" if near else ""
        raise DriftworkError(_one_line(f"{path}: no such config file{hint}")) from None
    except (OSError, ValueError) as error:  # ValueError also for a path that contains a NUL
        raise DriftworkError(_one_line(f"{path}: cannot be read as YAML: {error}; correct the file")) from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise DriftworkError(f"{path}: must hold `key: value` lines, not a {type(raw).__name__}")
    return raw


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `above` laid over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        before = merged.pop(key, None)  # so that the order of keys is that of their layers
        merged[key] = merge(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return merged


def apply(raw: dict[str, Any], override: Override) -> None:
    """Apply an override to `raw` in place. Raises `DriftworkError` if it is not of the form key=value."""
    if isinstance(override, tuple):
        key, value = override
    else:
        key, equals, text = override.partition("=")
        value = Text(text)
        if not equals or not key:
            raise DriftworkError(_one_line(f"override '{override}' is not of the form key=value"))
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if isinstance(child, Text):  # a whole section, given before one of its keys
            child = _section(child)
        child = node[parent] = {} if child is None else child  # a dumped config has null for a section that is not set
        if not isinstance(child, dict):
            raise DriftworkError(
                _one_line(f"override of '{key}': '{parent}' is a value, not a section; set it as a whole")
            )
        node = child
    node.pop(last, None)  # the order of keys shows the layer of a value
    node[last] = value


def _section(text: Text) -> Any:
    try:
        return read_yaml(text)
    except ValueError:
        return text


def _one_line(text: str) -> str:
    """Write line ends and other unprintable characters as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
