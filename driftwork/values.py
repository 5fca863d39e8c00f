"""Values of configs: plain YAML, and the text of overrides, read according to the field's type.

A string or a path is taken literally, with `#`, `: ` and text that looks like a date or a number; everything else is
YAML. `null`, or nothing, is None where a field allows it. A list of strings is `[a, b]`, with quotes around an item
that contains a comma.
"""

import json
import os
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml


class Text(str):
    """A value as it was typed. `Config` reads it according to the type of its field."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """A loader without aliases, since a few lines of them expand to gigabytes, and without numbers over 64 bits."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) is not allowed; put shared settings into a `base:` file")
        return super().compose_node(parent, index)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    value = loader.construct_yaml_int(node)
    if abs(value) >= 2**63:
        raise yaml.YAMLError(f"{node.value[:20]}... is a number of more than 64 bits")
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.yaml_implicit_resolvers = {  # no field is a date, but a folder may be named like one
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """Parse YAML of plain values. Raises `ValueError` with the reason in one line."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # a tag, a date or a long number can raise any error in PyYAML
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def resolved(value: Any, annotation: Any) -> Any:
    """Return `value` with each `Text` in it read according to `annotation`; nested configs read their own."""
    if isinstance(value, Text):
        return _read(str(value), annotation)
    if isinstance(value, dict) and get_origin(annotation) is dict:
        return {key: resolved(inner, get_args(annotation)[1]) for key, inner in value.items()}
    return value


def paths_at_home(value: Any, annotation: Any) -> Any:
    """Return `value` with `~` and `~user` at the start of a path expanded, if `annotation` takes paths.

    Raises `ValueError` if there is no home folder.
    """
    if isinstance(value, list | tuple) and any(map(_is_path, items_of(annotation))):
        return [paths_at_home(item, Path) for item in value]
    if isinstance(value, str | Path) and str(value).startswith("~") and any(map(_is_path, union_members(annotation))):
        return str(expanded(value))
    return value


def expanded(path: str | Path) -> Path:
    """Return `path` with `~` or `~user` at its start expanded; an unknown user's name is left as it is.

    Raises `ValueError` if there is no home folder.
    """
    found = os.path.expanduser(str(path))
    if found.startswith("~") and found.partition("/")[0] == "~":
        raise ValueError(f"{path}: there is no home folder to replace ~; give the whole path")
    return Path(found)


def holds_paths(annotation: Any) -> bool:
    return any(map(_is_path, [*union_members(annotation), *items_of(annotation)]))


def _read(text: str, annotation: Any) -> Any:
    members = union_members(annotation)
    if NoneType in members and text in ("", "null"):
        return None
    kinds = [kind for kind in members if kind is not NoneType]
    if any(map(_lists_text, kinds)) and text.startswith("[") and text.endswith("]"):
        return _items(text[1:-1])
    if all(_is_text(kind) or _lists_text(kind) for kind in kinds):
        return text
    try:
        return read_yaml(text)
    except ValueError:
        return text  # the field's own check reports the problem


def _items(text: str) -> list[str]:
    """Split `a, b` into strings; commas within quotes belong to an item."""
    items, start, quote = [], 0, ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[at - 1] != "\\" else quote
        elif char in "'\"" and not text[start:at].strip():
            quote = char
        elif char == ",":
            items.append(text[start:at])
            start = at + 1
    items.append(text[start:])
    stripped = [item.strip() for item in items]
    return [_unquoted(item) for item in stripped] if any(stripped) else []


def _unquoted(item: str) -> str:
    if len(item) < 2 or item[0] != item[-1] or item[0] not in "'\"":
        return item
    try:
        return str(json.loads(item)) if item[0] == '"' else item[1:-1]
    except ValueError:
        return item[1:-1]


def union_members(annotation: Any) -> list[Any]:
    """Return the types of a union, flattened; for any other type, the type alone."""
    if get_origin(annotation) is Annotated:
        return union_members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in union_members(part)]
    return [annotation]


def items_of(annotation: Any) -> list[Any]:
    """Return the types that the items of a list may have."""
    lists = [member for member in union_members(annotation) if get_origin(member) in (tuple, list)]
    return [kind for member in lists for part in get_args(member) if part is not ... for kind in union_members(part)]


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Path)


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(choice, str) for choice in get_args(kind))
    return kind is str or _is_path(kind)


def _lists_text(kind: Any) -> bool:
    items = items_of(kind)
    return bool(items) and all(map(_is_text, items))
