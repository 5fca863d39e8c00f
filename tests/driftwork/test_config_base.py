"""Earlier names of fields, and the keys in error messages."""

import pytest

from driftwork.config_base import build, dump, load
from driftwork.errors import DriftworkError
from tests.driftwork.configs import Cello, Concert, Hall

HEAD = "out: x\nplayer: {name: cello}\n"


def read(folder, text, *overrides):
    (folder / "c.yaml").write_text(text)
    return load(Concert, folder / "c.yaml", overrides)


def test_earlier_name_gives_the_same_config(tmp_path, capsys):
    new = read(tmp_path, "out: x\nplayer: {name: cello, tension: 50}\n")
    assert capsys.readouterr().err == ""
    old = read(tmp_path, "out: x\nplayer: {name: cello, pull: 50}\n")
    read(tmp_path, "out: x\nplayer: {name: gamba, pull: 50}\n")
    assert capsys.readouterr().err == "driftwork: pull is now called tension; the earlier name still works\n"
    assert old == new
    assert "pull" not in dump(old)


def test_other_ranks_do_not_repeat_the_warning(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    read(tmp_path, "out: x\nplayer: {name: cello, pull: 50}\n")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("low", ["pull", "tension"])
@pytest.mark.parametrize("middle", ["pull", "tension"])
@pytest.mark.parametrize("high", ["pull", "tension"])
def test_upper_layer_overrides_under_either_name(tmp_path, low, middle, high):
    (tmp_path / "base.yaml").write_text(f"out: x\nplayer: {{name: cello, {low}: 1, strings: 3}}\n")
    text = f"base: base.yaml\nplayer: {{{middle}: 2, name: cello}}\n"
    assert read(tmp_path, text).player == Cello(name="cello", strings=3, tension=2)
    assert read(tmp_path, text, f"player.{high}=3", "player.strings=5").player.tension == 3
    assert read(tmp_path, text, f"player.{low}=4", f"player.{high}=3").player.tension == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("player.strngs=3", "unknown key 'player.strngs'; did you mean 'player.strings'?"),
        ("strings=3", "unknown key 'strings'; did you mean 'player.strings'?"),
        ("seats=3", "unknown key 'seats'; did you mean 'hall.seats' or 'encore.seats'?"),
        ("reverbs=3", "unknown key 'reverbs'; did you mean 'hall.reverb' or 'encore.reverb'?"),
        ("player.keys=3", "unknown key 'player.keys'; it is a setting of flute, not of cello, gamba"),
        ("player.cello=3", "unknown key 'player.cello' (known here: name, strings, tension)"),
        ("hall.xyz=3", "unknown key 'hall.xyz' (known here: levels, reverb, seats)"),
        ("player.strings=0", "player.strings=0: input should be greater than or equal to 1"),
        ("player.name=oboe", "player.name=oboe: input should be one of 'cello', 'gamba', 'flute'"),
        ("hall.reverb=[1, x]", "hall.reverb=x (item 2): input should be a valid number"),
        ("hall.levels.stage=x", "hall.levels.stage=x: input should be a valid number"),
        ("tuning=432", "tuning=432: input should be 415 or 440"),
        ("takes=[{seats: x}]", "takes.0.seats=x: input should be a valid integer"),
    ],
)
def test_error_names_the_key_as_it_is_typed(tmp_path, override, said):
    with pytest.raises(DriftworkError) as caught:
        read(tmp_path, HEAD, override)
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml: {said}")


def test_null_section_takes_a_dotted_key(tmp_path):
    """A dumped config has null for each section that is not set."""
    dumped = dump(read(tmp_path, HEAD))
    assert "encore: null" in dumped
    assert read(tmp_path, dumped, "encore.seats=7").encore == Hall(seats=7)
    assert read(tmp_path, HEAD, "encore=null", "encore.seats=7").encore == Hall(seats=7)


def test_several_mistakes_are_one_line():
    raw = {"player": {"name": "cello"}, "a": 1, "b": 2, "c": 3}
    with pytest.raises(DriftworkError) as caught:
        build(Concert, raw, where="here")
    assert str(caught.value).startswith("here: 'out' is missing; give it in the file or as out=VALUE; unknown key 'a'")
    assert str(caught.value).endswith(" (and 1 more)")
