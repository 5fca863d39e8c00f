"""Settings as printed by `--help`, and the origin of their values."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from driftwork import help, origins
from driftwork.config_base import Config, layers
from driftwork.errors import DriftworkError
from tests.driftwork.configs import Concert

GENERAL = """usage: x

Settings, as key=value:

  out  (path; required)
      Folder of the recording.

  tuning  (415|440; default 440)
      Pitch of the A, in hertz.

  takes  (list of sections; default [])
      Further places.

player, with player.name=cello|gamba: The instrument that is played.

  player.name  (cello|gamba; required)
      Which of the two bowed instruments it is.

  player.strings  (integer >= 1; default 4)
      Number of strings that are tuned.

  player.tension  (number > 0; default 60.0)
      Force on each string, in newtons.

player, with player.name=flute: The instrument that is played.

  player.name  (flute; default flute)
      The instrument without strings.

  player.keys  (integer >= 1; default 16)
      Number of keys that a player presses.

hall: The place of the concert.

  hall.seats  (integer; default 50)
      Number of seats in the hall.

  hall.reverb  (list of numbers; default [])
      Reverberation times, in seconds.

  hall.levels  (mapping; default {})
      Loudness of each named source, in decibels.

encore (null by default): Another place for the encore; null means none.

  encore.seats  (integer; default 100)
      Number of seats in the hall.
"""

GIVEN = """usage: x

Settings of c.yaml, with the origin of each value:

  out is required  (path)
      Folder of the recording.

  tuning = 440  (415|440; default)
      Pitch of the A, in hertz.

  takes = []  (list of sections; default)
      Further places.

player, with player.name=cello|gamba: The instrument that is played.

  player.name = gamba  (cello|gamba; base.yaml)
      Which of the two bowed instruments it is.

  player.strings = 6  (integer >= 1; c.yaml)
      Number of strings that are tuned.

  player.tension = 55.0  (number > 0; base.yaml)
      Force on each string, in newtons.

hall: The place of the concert.

  hall.seats = 7  (integer; base.yaml)
      Number of seats in the hall.

  hall.reverb = [1.0, 2.5]  (list of numbers; command line)
      Reverberation times, in seconds.

  hall.levels = {stage: 3.0}  (mapping; c.yaml)
      Loudness of each named source, in decibels.

encore = null: Another place for the encore; null means none."""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Provide a config and its base, which has a setting under its earlier name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("player: {name: gamba, pull: 55}\nhall: {seats: 7}\n")
    Path("c.yaml").write_text("base: base.yaml\nplayer: {strings: 6}\nhall: {levels: {stage: 3}}\n")


def test_settings_in_general_have_type_default_and_text():
    assert help.text("usage: x", help.settings_of(Concert)([])).startswith(GENERAL)


def test_given_config_is_shown_with_origins(files):
    assert help.text("usage: x", help.settings_of_file(Concert, ["c.yaml", "hall.reverb=[1,2.5]"])) == GIVEN


@pytest.mark.parametrize(
    ("overrides", "key", "value", "origin"),
    [
        (["player={name: gamba, pull: 3}"], "player.tension", 3, "command line"),
        (["player={name: gamba}", "player.tension=4"], "player.name", "gamba", "command line"),
        (["player={name: gamba}"], "player.tension", 60, "default"),
        (["player.pull=5"], "player.tension", 5, "command line"),
        (["encore.seats=9"], "encore.reverb", (), "default"),
        ([], "hall.levels", {"stage": 3}, "c.yaml"),
        (["hall.levels.pit=1"], "hall.levels", {"stage": 3, "pit": 1}, "c.yaml, command line"),
    ],
)
def test_upper_layer_gives_value_and_origin(files, overrides, key, value, origin):
    resolved = origins.read(Concert, "c.yaml", *overrides)
    section, name = key.split(".")
    assert getattr(getattr(resolved.config, section), name) == value
    assert resolved.origin(key) == origin


def test_values_of_several_configs_are_listed(files):
    given = [{"player.strings": 3}, {"player.strings": 5}, {"player": {"name": "flute"}}]
    runs = [
        origins.resolve(Concert, layers(Path("c.yaml")), ("grid", list(values.items())), ("command line", ["out=a"]))
        for values in given
    ]
    (top, cello, flute, hall, encore) = help.blocks(help.Part("", Concert, tuple(runs)))
    assert [line.value for line in top.lines] == ["a", "440", "[]"]
    assert [(line.key, line.value, line.origin) for line in cello.lines] == [
        ("player.name", "gamba", "base.yaml"),
        ("player.strings", "3 | 5", "grid"),
        ("player.tension", "55.0", "base.yaml"),
    ]
    assert [(line.key, line.value, line.origin) for line in flute.lines] == [
        ("player.name", "flute", "grid"),
        ("player.keys", "16", "default"),
    ]
    assert (hall.key, encore.title) == ("hall", "encore = null")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["d.yaml"], "d.yaml: no such config file; . holds base.yaml, c.yaml"),
        (["c.yaml", "player.strings=0"], "c.yaml: player.strings=0: input should be greater than or equal to 1"),
        (["c.yaml", "player={strings: 3}"], "c.yaml: 'player.name' is missing; give one of cello, gamba, flute"),
        (["c.yaml", "setas=0"], "unknown key 'setas'; did you mean 'hall.seats' or 'encore.seats'?"),
    ],
)
def test_help_of_wrong_config_names_the_error(files, words, said):
    """Missing values are not reported, since the command line may give them."""
    with pytest.raises(DriftworkError) as caught:
        help.settings_of_file(Concert, words)
    assert said in str(caught.value)


Part = Annotated[float, Field(gt=0, le=1)]


class Kinds(Config):
    flag: bool
    count: int = Field(ge=1, lt=9)
    maybe: float | None = Field(None, gt=0)
    choice: Literal["a", "b"] | int
    parts: tuple[Part, ...]
    pair: tuple[int, float]
    file: Path | None
    place: Path | str
    table: dict[str, int]
    several: Path | tuple[Path, ...]
    numbers: tuple[int, ...] | None


def test_kinds_of_values_are_described():
    assert {name: help.kind(field) for name, field in Kinds.model_fields.items()} == {
        "flag": "true|false",
        "count": "integer >= 1 and < 9",
        "maybe": "number > 0 or null",
        "choice": "a|b or integer",
        "parts": "list of numbers > 0 and <= 1",
        "pair": "[integer, number]",
        "file": "path or null",
        "place": "path or URL",
        "table": "mapping",
        "several": "path or list of paths",
        "numbers": "list of integers or null",
    }


def test_markdown_has_a_table_a_section():
    page = help.markdown(help.settings_of(Concert)([])[0])
    assert page.startswith(
        "| setting | values | default | meaning |\n|---|---|---|---|\n"
        "| `out` | path | required | Folder of the recording. |\n"
        "| `tuning` | 415\\|440 | `440` | Pitch of the A, in hertz. |\n"
    )
    assert (
        "### `player`, with player.name=flute\n\nThe instrument that is played.\n\n"
        "| setting | values | default | meaning |\n|---|---|---|---|\n"
        "| `player.name` | flute | `flute` | The instrument without strings. |\n"
    ) in page
