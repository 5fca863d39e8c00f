"""The settings that a config class holds, by the dotted keys under which they can be typed.

A config that is nested in another is a section. Where it is a union of configs that differ by `name`, each member is a
section of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from driftwork.values import items_of, union_members


class Computed:
    """Placeholder for a default that depends on the environment."""


class Setting(NamedTuple):
    key: str
    """Dotted key, as it is typed; `files[].path` for a field of each item of a list."""
    field: FieldInfo
    value: Any
    """The default, or the value in a given config; `PydanticUndefined` for a required setting without either."""


class Section(NamedTuple):
    key: str
    """Dotted key; empty for the config itself."""
    members: tuple[str, ...]
    """Values of the section's `name` that have these settings; empty where there is no choice."""
    about: str
    """Text of the field that holds the section; empty for the config itself."""
    null: bool
    """Whether the section is null by default, or in the given config."""
    settings: tuple[Setting, ...]
    renamed: Mapping[str, str]
    """Map from earlier names of fields to their current names."""


def sections(cls: type[BaseModel], config: BaseModel | None = None) -> list[Section]:
    """Return the sections of a config class, each before those nested in it.

    With `config`, a union contributes only the member that `config` has."""
    return list(_sections(cls, config, "", (), "", null=False))


def keys(cls: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Map the dotted key of each section and setting to the union members that have it; empty if all have it."""
    found: dict[str, tuple[str, ...]] = {}
    for section in sections(cls):
        for key in (section.key, *(setting.key for setting in section.settings)):
            found[key] = found.get(key, ()) + section.members
    return {key: members for key, members in found.items() if key and "[]" not in key}


def configs_of(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the config classes that a field's value, or an item of it, may be: those of the registry that the field is
    annotated with (`driftwork.registry`), or else those of its type."""
    registered = [config for registry in field.metadata for config in getattr(registry, "configs", ())]
    return registered or configs_in(field.annotation)


def configs_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the config classes that a value of this type may be, or that the items of a list of this type may be."""
    kinds = [*union_members(annotation), *items_of(annotation)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def names_of(cls: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of `name` that select this member of a union."""
    field = cls.model_fields.get("name")
    literal = field is not None and get_origin(field.annotation) is Literal
    return tuple(map(str, get_args(field.annotation))) if field is not None and literal else ()


def _sections(
    cls: type[BaseModel], given: BaseModel | None, key: str, members: tuple[str, ...], about: str, *, null: bool
) -> Iterator[Section]:
    plain: list[Setting] = []
    nested: list[Iterator[Section]] = []
    for name, field in cls.model_fields.items():
        word = field.alias or name
        path = f"{key}.{word}" if key else word
        default = Computed() if field.default_factory is not None else field.get_default()
        value = getattr(given, name) if given is not None else default
        classes = configs_of(field)
        listed = any(kind in classes for kind in items_of(field.annotation))
        if listed or not classes:
            plain.append(Setting(path, field, value))
        inner = value if isinstance(value, BaseModel) else None
        for one in classes if inner is None or len(classes) == 1 else [type(inner)]:
            names = names_of(one) if len(classes) > 1 else ()
            text = f"Each item of `{path}`." if listed else field.description or ""
            place = f"{path}[]" if listed else path
            nested.append(_sections(one, inner, place, names, text, null=value is None))
    if names_of(cls):  # the name decides on the others
        plain.sort(key=lambda setting: setting.key.rpartition(".")[2] != "name")
    yield Section(key, members, about, null, tuple(plain), getattr(cls, "renamed", {}))
    for section in nested:
        yield from section
