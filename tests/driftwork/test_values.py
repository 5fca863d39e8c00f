"""Values of fields, given as typed text."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from driftwork.config_base import Config, load, parse
from driftwork.errors import DriftworkError

HOSTILE = (
    "Mix #1", "2024-11-28", "007", "1e3", "yes", "a: b", "- x", "{a}", "*star", "&and", "!tag", "'quoted'", '"two"',
    "[a]", "key=value", "x\ty", " spaces ", "%20", "@home", "|", "2026-01-01 10:00", "0x1f", "1_000", "12:30:45",
    "a\\b", "Björk",
)  # fmt: skip


class Inner(Config):
    where: Path = Path()
    count: int = 0


class Outer(Config):
    path: Path = Path()
    maybe: Path | None = Path("default")
    text: str = ""
    note: str | None = "default"
    choice: Literal["on", "off"] = "off"
    paths: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    flag: bool = False
    rate: float = 0.0
    size: int | Literal["all"] = 0
    several: Path | tuple[Path, ...] = ()
    named: dict[str, str] = Field({})
    inner: Inner = Inner()
    source: Path | None = None


def one(override):
    return parse(Outer, [override], where="here")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_taken_literally(text):
    for key in ("path", "maybe"):
        assert getattr(one(f"{key}={text}"), key) == Path(text)
    for key in ("text", "note"):
        assert getattr(one(f"{key}={text}"), key) == text
    assert one(f"inner.where={text}").inner.where == Path(text)
    assert one(f"named.a={text}").named == {"a": text}


@pytest.mark.parametrize("text", [text for text in HOSTILE if "'" not in text and '"' not in text])
def test_items_of_lists_are_taken_literally(text):
    assert one(f"texts=[{text}, b]").texts == (text.strip(), "b")
    assert one(f"paths=[a,{text}]").paths == (Path("a"), Path(text.strip()))


def test_quoted_list_items_may_hold_commas():
    assert one("""texts=["a, b", 'c, d',e's, "f \\" g"]""").texts == ("a, b", "c, d", "e's", 'f " g')
    assert one("texts=[]").texts == ()
    assert one("several=[a, b]").several == (Path("a"), Path("b"))
    assert one("several=a, b").several == Path("a, b")
    with pytest.raises(DriftworkError, match="texts=a: input should be a valid tuple"):
        one("texts=a")


def test_other_fields_read_yaml():
    config = parse(Outer, ["numbers=[1, 3e-4]", "flag=yes", "rate=1e-3", "size=all", "inner={count: 3}"], "here")
    assert (config.numbers, config.flag, config.rate, config.size) == ((1.0, 3e-4), True, 1e-3, "all")
    assert config.inner == Inner(count=3)
    assert one("choice=on").choice == "on"  # true in YAML 1.1


def test_null_empties_optional_fields():
    for text in ("", "null"):
        config = parse(Outer, [f"maybe={text}", f"note={text}", f"text={text}"], "here")
        assert (config.maybe, config.note, config.text) == (None, None, text)


def test_home_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "c.yaml").write_text("path: ~/a\nmaybe: ~\npaths: [~/b, c]\ninner: {where: ~/d}\ntext: ~/e\n")
    config = load(Outer, tmp_path / "c.yaml", ["several=~", "source=~/x~y"])
    assert (config.path, config.maybe, config.paths) == (Path("/home/me/a"), None, (Path("/home/me/b"), Path("c")))
    assert (config.inner.where, config.text) == (Path("/home/me/d"), "~/e")
    assert (config.several, config.source) == (Path("/home/me"), Path("/home/me/x~y"))
    assert one("path=~nobody-of-this-name/a").path == Path("~nobody-of-this-name/a")


def test_missing_home_folder_is_reported(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(DriftworkError, match=r"^here: path=~/a: there is no home folder") as caught:
        one("path=~/a")
    assert "\n" not in str(caught.value)


def test_key_may_follow_its_section():
    assert parse(Outer, ["inner={count: 1, where: a}", "inner.count=2"], "here").inner == Inner(count=2, where="a")
    with pytest.raises(DriftworkError, match="'text' is a value, not a section"):
        parse(Outer, ["text=a", "text.b=c"], "here")


def test_dates_in_files_are_text(tmp_path):
    (tmp_path / "c.yaml").write_text("path: 2024-11-28\nnote: 2024-11-28\n")
    assert load(Outer, tmp_path / "c.yaml") == Outer(path=Path("2024-11-28"), note="2024-11-28")
