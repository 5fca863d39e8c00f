"""The settings of a command, as text for a terminal and as Markdown for the docs."""

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from driftwork import origins
from driftwork.config_base import Config
from driftwork.origins import Resolved
from driftwork.settings import Computed, Section, Setting, sections
from driftwork.values import union_members

WIDTH = 100
"""Width of the text, in characters."""

_LONGEST = 200
"""Maximum number of printed characters of a list or a mapping."""

_HEAD = """# Settings

Every command with its arguments and settings, as `driftwork COMMAND --help` prints them. This page is written by
`driftwork help --markdown > docs/config.md`, and a test compares it with the code.

A setting is given on the command line as `key=value`, or in a YAML file under the parts of its key. The command line
overrides the file, and the file overrides the one file that it may name as its `base`. `required` stands where there is
no default, and `computed` where the default depends on the environment. `driftwork train CONFIG.yaml --help` shows the
values of a config, and where each comes from; `prepare` and `sweep` do the same.
"""

_WORDS: dict[Any, str] = {bool: "true|false", int: "integer", float: "number", str: "text"}


class Part(NamedTuple):
    """A group of settings that a command takes."""

    title: str
    cls: type[Config]
    given: tuple[Resolved, ...] = ()
    """The config given to --help, or those of all runs of a sweep; empty without one."""


class Line(NamedTuple):
    """Texts that describe one setting."""

    key: str
    kind: str
    """Description of the allowed values."""
    value: str
    """The value as it could be typed; `required` if there is none."""
    origin: str
    """Origin of the value; empty without a given config."""
    about: str


class Block(NamedTuple):
    """Texts that describe one section."""

    key: str
    title: str
    about: str
    lines: tuple[Line, ...]


def settings_of(cls: type[Config]) -> Callable[[list[str]], list[Part]]:
    """Return the help on settings of a command that takes them only as `key=value`."""
    return lambda words: [Part("Settings, as key=value", cls)]


def settings_of_file(cls: type[Config], words: Sequence[str]) -> list[Part]:
    """Return the help on settings of a command that takes a config file and `key=value` words.

    Without `words` the help lists all settings; with `words`, the values that they resolve to."""
    if not words:
        return [Part("Settings, as key=value on the command line or in the config file", cls)]
    return [Part(f"Settings of {words[0]}, with the origin of each value", cls, (origins.read(cls, *words),))]


def blocks(part: Part) -> list[Block]:
    """Return the sections of a part: all possible ones, or those of the given configs with their values."""
    if part.given:
        return list(_given(part))
    return [
        _block(section, [_line(setting, _shown(setting.value), "") for setting in section.settings])
        for section in sections(part.cls)
    ]


def text(usage: str, parts: Sequence[Part]) -> str:
    """Return the help of a command, at most `WIDTH` columns wide unless a word is wider."""
    page = [usage]
    for part in parts:
        page += ["", *_wrapped(f"{part.title}:", 0, 4)]
        for block in blocks(part):
            if block.key:
                page += ["", *_wrapped(f"{block.title}: {block.about}" if block.about else block.title, 0, 4)]
            for line in block.lines:
                page += ["", *_wrapped(_heading(line), 2, 10), *_wrapped(line.about, 6, 6)]
    return "\n".join(page)


def markdown(part: Part) -> str:
    """Return a part as a heading and a table for each section."""
    page = []
    for block in blocks(part):
        page += [f"### {_title(block)}", ""] if block.key else []
        page += [block.about, ""] if block.about else []
        if block.lines:
            page += ["| setting | values | default | meaning |", "|---|---|---|---|"]
            page += [f"| {' | '.join(map(_cell, _columns(line)))} |" for line in block.lines]
            page.append("")
    return "\n".join(page)


def reference(commands: Mapping[str, tuple[str, str, Sequence[Part]]]) -> str:
    """Return a page that describes, shows the usage of, and lists the settings of each command.

    Settings that several commands share are listed once."""
    page = [_HEAD]
    known: dict[type[Config], str] = {}
    for name, (does, usage, parts) in commands.items():
        page += [f"## driftwork {name}", "", does, "", "```", usage, "```", ""]
        for part in parts:
            page += [f"{part.title}:", ""]
            if part.cls in known:
                page += [f"The settings are those of `driftwork {known[part.cls]}`.", ""]
            else:
                known[part.cls] = name
                page.append(markdown(part))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(page)).strip()


def _given(part: Part) -> Iterator[Block]:
    found: dict[tuple[str, tuple[str, ...]], list[tuple[Resolved, Section]]] = {}
    for resolved in part.given:
        for section in sections(part.cls, resolved.config):
            if "[]" not in section.key:
                found.setdefault((section.key, section.members), []).append((resolved, section))
    order = list(dict.fromkeys(key for key, _ in found))
    for _, same in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        there = [(resolved, section) for resolved, section in same if not section.null]
        first = (there or same)[0][1]
        lines = []
        for number, setting in enumerate(first.settings if there else ()):
            origins: dict[str, str] = {}  # by value
            for resolved, section in there:
                value = "required" if setting.key in resolved.missing else _shown(section.settings[number].value)
                origins.setdefault(value, resolved.origin(setting.key))
            lines.append(_line(setting, " | ".join(origins), ", ".join(dict.fromkeys(origins.values()))))
        yield _block(first, lines)


def _block(section: Section, lines: Sequence[Line]) -> Block:
    title = section.key
    if section.members:
        title += f", with {section.key}.name={'|'.join(section.members)}"
    if section.null:
        title += " (null by default)" if lines else " = null"
    return Block(section.key, title, section.about, tuple(lines))


def _line(setting: Setting, value: str, origin: str) -> Line:
    return Line(setting.key, kind(setting.field), value, origin, " ".join((setting.field.description or "").split()))


def _heading(line: Line) -> str:
    if not line.origin:
        default = line.value if line.value == "required" else f"default {line.value}"
        return f"{line.key}  ({line.kind}; {default})"
    if line.value == "required":
        return f"{line.key} is required  ({line.kind})"
    return f"{line.key} = {line.value}  ({line.kind}; {line.origin})"


def _columns(line: Line) -> tuple[str, str, str, str]:
    default = line.value if line.value in ("required", "computed") else f"`{line.value}`"
    return f"`{line.key}`", line.kind, default, line.about


def _title(block: Block) -> str:
    key, _, rest = block.title.partition(block.key)
    return f"{key}`{block.key}`{rest}"


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _wrapped(words: str, first: int, later: int) -> list[str]:
    lines = textwrap.wrap(
        words, WIDTH, initial_indent=" " * first, subsequent_indent=" " * later,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines


def kind(field: FieldInfo) -> str:
    """Describe the values that a field takes, as in `integer >= 1 or null`."""
    return _kind(field.annotation, field.metadata)


def _kind(annotation: Any, metadata: Sequence[Any]) -> str:
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        inner = [part for one in more for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _kind(annotation, [*inner, *metadata])
    members = union_members(annotation)
    if {Path, str} <= set(members):
        members = [member for member in members if member is not str]
        return " or ".join(["path", "URL", *("null" for member in members if member is NoneType)])
    bounds = " and ".join(_bound(one) for one in metadata if isinstance(one, Ge | Gt | Le | Lt))
    words = [_word(member, bounds) for member in members if member is not NoneType]
    return " or ".join([*words, *(["null"] if NoneType in members else [])])


def _word(member: Any, bounds: str) -> str:
    origin, arguments = get_origin(member), get_args(member)
    if origin is Literal:
        return "|".join(map(_shown, arguments))
    if origin in (tuple, list):
        items = [_kind(argument, ()) for argument in arguments if argument is not ...]
        word, _, bounds = items[0].partition(" ")
        return f"list of {word}s {bounds}".rstrip() if ... in arguments else f"[{', '.join(items)}]"
    if origin is dict:
        return "mapping"
    if isinstance(member, type) and issubclass(member, Path):
        return "path"
    if isinstance(member, type) and issubclass(member, BaseModel):
        return "section"
    word = _WORDS.get(member, str(member))
    return f"{word} {bounds}" if bounds and member in (int, float) else word


def _bound(one: Ge | Gt | Le | Lt) -> str:
    match one:
        case Ge():
            return f">= {one.ge}"
        case Gt():
            return f"> {one.gt}"
        case Le():
            return f"<= {one.le}"
        case Lt():
            return f"< {one.lt}"


def _shown(value: Any) -> str:
    """Return a value as it could be typed."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Computed():
            return "computed"
        case Mapping():
            return _cut(f"{{{', '.join(f'{key}: {_shown(inner)}' for key, inner in value.items())}}}")
        case BaseModel():
            return _shown({name: getattr(value, name) for name in type(value).model_fields})
        case list() | tuple():
            return _cut(f"[{', '.join(map(_shown, value))}]")
        case _:
            return "required" if value is PydanticUndefined else str(value) or '""'


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 4]} ..."
