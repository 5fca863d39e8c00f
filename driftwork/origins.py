"""Find the origin of each value of a config: a default, its base file, its file, or the command line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from driftwork.config_base import Config, Override, apply, build, config_file, layers, merge, with_names_of_today
from driftwork.settings import sections
from driftwork.values import holds_paths, read_yaml, union_members

DEFAULT, COMMAND_LINE = "default", "command line"


class Resolved(NamedTuple):
    config: Config
    """The config, with a placeholder for each `missing` value."""
    origins: Mapping[str, Any]
    """Nested mapping like the config, whose leaves name the layer that a value, or a whole section, comes from."""
    missing: frozenset[str]
    """Keys of texts and paths that the command line must still give."""

    def origin(self, key: str) -> str:
        """Return where the value of a dotted key comes from."""
        node: Any = self.origins
        for word in key.split("."):
            if not isinstance(node, Mapping):
                break
            node = node.get(word, DEFAULT)
        return ", ".join(dict.fromkeys(_leaves(node)))


def read(cls: type[Config], path: str, *overrides: str) -> Resolved:
    """Read a config as `config_base.load` does, but allow missing texts and paths."""
    return resolve(cls, layers(config_file(path)), (COMMAND_LINE, overrides))


def resolve(
    cls: type[Config], files: Sequence[tuple[str, Mapping[str, Any]]], *overrides: tuple[str, Sequence[Override]]
) -> Resolved:
    """Merge named files, as `config_base.layers` reads them, and apply named groups of overrides to the result.

    Raises:
        DriftworkError: a file or an override is wrong. A missing text or path is not an error.
    """
    raw: dict[str, Any] = {}
    origins: dict[str, Any] = {}
    for where, layer in files:
        raw, origins = merge(raw, layer), merge(origins, _marked(layer, where))
    for where, given in overrides:
        for override in given:
            apply(raw, override)
            apply(origins, _marked_override(override, where))
    missing = _missing(cls, raw)
    for key in missing:
        apply(raw, (key, key))
    return Resolved(build(cls, raw, where=files[-1][0]), _with_names_of_today(cls, origins), missing)


def _leaves(node: Any) -> Iterator[str]:
    if not isinstance(node, Mapping):
        yield str(node)
        return
    for inner in node.values():
        yield from _leaves(inner)


def _marked(layer: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {key: _marked(value, where) if isinstance(value, dict) else where for key, value in layer.items()}


def _marked_override(override: Override, where: str) -> tuple[str, Any]:
    """Return an override with `where` instead of its value, or of each value of a section."""
    if isinstance(override, tuple):
        key, value = override
    else:
        key, _, text = override.partition("=")
        try:
            value = read_yaml(text)
        except ValueError:
            value = text
    return key, _marked(value, where) if isinstance(value, dict) else where


def _missing(cls: type[Config], raw: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of texts and paths that `raw` lacks for a config."""
    try:
        cls.model_validate(raw)
    except ValidationError as error:
        absent = {".".join(map(str, item["loc"])) for item in error.errors() if item["type"] == "missing"}
        texts = {
            setting.key
            for section in sections(cls)
            for setting in section.settings
            if holds_paths(setting.field.annotation) or str in union_members(setting.field.annotation)
        }
        return frozenset(absent & texts)
    return frozenset()


def _with_names_of_today(cls: type[Config], origins: dict[str, Any]) -> dict[str, Any]:
    """Return `origins` with earlier names of fields replaced, as `Config` reads them."""
    top = {"": origins}
    for section in sections(cls):
        if section.renamed:
            *parents, last = ["", *section.key.split(".")] if section.key else [""]
            holder: Any = top
            for word in parents:
                holder = holder.get(word, {}) if isinstance(holder, dict) else {}
            if isinstance(holder, dict) and isinstance(holder.get(last), dict):
                holder[last] = with_names_of_today(holder[last], section.renamed)
    return top[""]
