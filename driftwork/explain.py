"""Explain an invalid config in one line: the key as it can be typed, its value, and what is allowed."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from driftwork import settings
from driftwork.values import union_members

_MOST = 3
"""Maximum number of problems, and of suggested keys, in one line."""


def explain(cls: type[BaseModel], error: ValidationError) -> str:
    """Return the first few problems of a config of class `cls`, joined by semicolons."""
    problems = []
    for item in error.errors()[:_MOST]:
        path, members, inside = _typed(cls, item["loc"])
        key, at = _key(path)
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key '{key}'{_meant(cls, path, members)}")
        elif item["type"] == "missing":
            problems.append(f"'{key}' is missing; give it in the file or as {key}=VALUE")
        elif item["type"] == "union_tag_not_found":  # all our unions are told apart by `name`
            problems.append(f"'{key}.name' is missing; give one of {', '.join(settings.keys(cls)[key])}")
        elif item["type"] == "union_tag_invalid":
            tag, known = item["ctx"]["tag"], item["ctx"]["expected_tags"]
            problems.append(f"{key}.name={tag}: input should be one of {known}")
        else:
            reason = item["msg"].removeprefix("Value error, ")
            reason = reason[:1].lower() + reason[1:]
            full = _with_full_keys(reason, key, inside)
            problems.append(full if not key or full != reason else f"{key}{_shown(item['input'])}{at}: {reason}")
    more = error.error_count() - len(problems)
    return "; ".join(problems) + (f" (and {more} more)" if more > 0 else "")


def _with_full_keys(reason: str, key: str, classes: Sequence[type[BaseModel]]) -> str:
    """Replace the settings that a section's own check names, as in `max_step=1`, by the full keys that can be typed."""
    names = "|".join(name for cls in classes for name in cls.model_fields)
    return re.sub(rf"(?<![\w.])({names})(?==|\.\w)", rf"{key}.\1", reason) if key and names else reason


def _typed(
    cls: type[BaseModel], location: Sequence[str | int]
) -> tuple[list[str | int], list[type[BaseModel]], list[type[BaseModel]]]:
    """Translate the `location` of a pydantic error in `cls`.

    Returns:
        The location as it is typed, without the names of union members that pydantic puts into it.
        The config classes that could have its last part as a field.
        The config classes of the value at that place.
    """
    path: list[str | int] = []
    here, classes, annotation, choosing = [cls], [cls], None, False
    for part in location:
        owners = [owner for owner in classes if _field(owner, part) is not None]
        if choosing and not owners and (chosen := [owner for owner in classes if part in settings.names_of(owner)]):
            classes, choosing = chosen, False
        elif owners:
            field = _field(owners[0], part)
            here, annotation = classes, field.annotation
            classes = settings.configs_of(field)
            choosing = len(classes) > 1
            path.append(part)
        elif classes or isinstance(part, int) or any(get_origin(kind) is dict for kind in union_members(annotation)):
            here = classes
            path.append(part)
    return path, here, classes


def _field(cls: type[BaseModel], part: str | int) -> Any:
    return next((field for name, field in cls.model_fields.items() if part in (name, field.alias)), None)


def _key(path: Sequence[str | int]) -> tuple[str, str]:
    """Return the dotted key, and ` (item N)` if the last part is the index of a list."""
    at = f" (item {path[-1] + 1})" if path and isinstance(path[-1], int) else ""
    return ".".join(str(part)[:80] for part in (path[:-1] if at else path)), at


def _shown(value: Any) -> str:
    try:
        text = str(value)
    except ValueError:  # a number of thousands of digits
        return ""
    if isinstance(value, dict | list) and len(text) > 60:
        return ""
    return f"={text[:200]}"


def _meant(cls: type[BaseModel], path: Sequence[str | int], here: Sequence[type[BaseModel]]) -> str:
    """Return a hint on an unknown key: similar keys of the whole config, or else the known keys of its section."""
    key, last = _key(path)[0], str(path[-1])
    known = settings.keys(cls)
    own = [name for owner in here for name in settings.names_of(owner)]
    if known.get(key) and own:
        return f"; it is a setting of {', '.join(known[key])}, not of {', '.join(own)}"
    beside = sorted({field.alias or name for owner in here for name, field in owner.model_fields.items()})
    parent = key.rpartition(".")[0]
    anywhere: dict[str, list[str]] = {}
    for other in known:
        anywhere.setdefault(other.rpartition(".")[2], []).append(other)
    (far, all_alike), (near, alike) = _nearest(last, anywhere, 0.8), _nearest(last, beside, 0.6)
    guesses = []
    if near and alike >= all_alike:
        guesses = [f"{parent}.{near}" if parent else near]
    elif far:
        guesses = anywhere[far]
    if guesses:
        quoted = [f"'{guess}'" for guess in guesses[:_MOST]]
        return f"; did you mean {' or '.join(quoted)}?"
    return f" (known here: {', '.join(beside)})" if beside else ""


def _nearest(word: str, words: Iterable[str], least: float) -> tuple[str, float]:
    """Return the most similar of `words` and its similarity from 0 to 1; an empty word if none reaches `least`."""
    found = difflib.get_close_matches(word, sorted(words), n=1, cutoff=least)
    return (found[0], difflib.SequenceMatcher(None, found[0], word).ratio()) if found else ("", 0.0)
