"""Registries, and the user's own modules that add to them."""

import sys
from importlib import metadata
from typing import Annotated, Literal

import pytest
from pydantic import Field

from driftwork import plugins
from driftwork.config_base import Config, build, dump, parse
from driftwork.errors import DriftworkError
from driftwork.plugins import Plugged
from driftwork.registry import Named, Registry


class RedConfig(Named):
    name: Literal["red", "crimson"] = "red"
    depth: int = Field(1, ge=1)


class BlueConfig(Named):
    name: Literal["blue"] = "blue"


def grown(*members):
    registry = Registry[str]("colour")
    for config in members:
        registry.add(config, lambda config, shade: f"{shade} {config.name}")
    return registry


COLOURS = grown(RedConfig, BlueConfig)


class Paint(Config):
    colour: Annotated[Named, COLOURS]


def test_choice_is_validated_made_and_dumped():
    paint = build(Paint, {"colour": {"name": "crimson", "depth": "3"}}, where="here")
    assert paint.colour == RedConfig(name="crimson", depth=3)
    assert COLOURS.make(paint.colour, "dark") == "dark crimson"
    assert dump(paint) == "colour:\n  name: crimson\n  depth: 3\n"
    assert build(Paint, {"colour": paint.colour}, where="here") == paint


@pytest.mark.parametrize(
    ("colour", "said"),
    [
        ({"name": "green"}, "colour.name=green: input should be one of 'red', 'crimson', 'blue'"),
        ({"name": "red", "dept": 1}, "unknown key"),
        ({"name": "red", "dept": 1}, "did you mean"),
        ({"name": "red", "depth": 0}, "depth=0: input should be greater than or equal to 1"),
        ({"depth": 1}, r"'colour\.name' is missing; give one of red, crimson, blue"),
        ("red", "valid dictionary"),
    ],
)
def test_mistake_names_key_and_choices(colour, said):
    with pytest.raises(DriftworkError, match=said):
        build(Paint, {"colour": colour}, where="here")


def test_choice_added_later_is_known():
    registry = grown(RedConfig, BlueConfig)

    class Wall(Config):
        colour: Annotated[Named, registry]

    class GreenConfig(Named):
        name: Literal["green"] = "green"

    with pytest.raises(DriftworkError, match=r"'blue'$"):
        build(Wall, {"colour": {"name": "green"}}, where="here")
    registry.add(GreenConfig, lambda config: "")
    assert isinstance(build(Wall, {"colour": {"name": "green"}}, where="here").colour, GreenConfig)


def test_taken_name_is_refused():
    class Imposter(Named):
        name: Literal["blue"] = "blue"

    with pytest.raises(DriftworkError, match=r"colour 'blue' exists already, from .*BlueConfig; choose another name"):
        grown(RedConfig, BlueConfig, Imposter)
    assert grown(RedConfig, BlueConfig, BlueConfig).configs == (RedConfig, BlueConfig)


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Write a module into a folder on the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name, text: (tmp_path / f"{name}.py").write_text(text)
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "plugins: there is no module their_paint; put its folder into PYTHONPATH, as in"),
        ("import paint_of_another_shop", "their_paint needs paint_of_another_shop, which is not installed"),
        ("\n\n1 / 0", r"ZeroDivisionError: division by zero \(.*their_paint.py, line 3\)"),
        ("def", r"SyntaxError: .*"),
    ],
)
def test_module_that_cannot_be_imported_is_one_line(on_path, text, said):
    if text is not None:
        on_path("their_paint", text)
    with pytest.raises(DriftworkError, match=said) as caught:
        build(Plugged, {"plugins": ["their_paint"]}, where="here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("typed", ["[their_paint]", "their_paint"])
def test_plugins_can_be_typed_with_and_without_brackets(on_path, typed):
    on_path("their_paint", "")
    assert parse(Plugged, [f"plugins={typed}"], where="here").plugins == ("their_paint",)


@pytest.mark.parametrize("name", ["./my_paint", "my_paint.py/", "my-paint", ""])
def test_path_is_not_a_plugin(name):
    with pytest.raises(DriftworkError, match="is not a module name"):
        build(Plugged, {"plugins": [name]}, where="here")


def test_installed_package_is_imported_without_being_named(tmp_path, on_path, monkeypatch):
    on_path("installed_paint", "MIXED = True")
    package = tmp_path / "paint-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: paint\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[driftwork.plugins]\nours = installed_paint\nlost = lost_paint\n")
    monkeypatch.setattr(plugins, "_import_installed", plugins._import_installed.__wrapped__)
    assert [entry.name for entry in metadata.entry_points(group=plugins.GROUP)] == ["ours", "lost"]
    with pytest.raises(DriftworkError, match="entry point lost of paint: there is no module lost_paint"):
        build(Plugged, {}, where="here")
    (package / "entry_points.txt").write_text("[driftwork.plugins]\nours = installed_paint\n")
    assert build(Plugged, {}, where="here").plugins == ()
    assert __import__("installed_paint").MIXED
