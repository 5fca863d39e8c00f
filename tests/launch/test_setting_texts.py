"""The text below each field of a config, which `--help` and docs/config.md print, stands alone."""

import ast
import importlib
import re

import pytest

from driftwork.values import items_of, union_members
from tests.places import ROOT


def config_classes():
    """Return every config class of the product, with its module's name first."""
    classes = [
        (".".join(path.relative_to(ROOT).with_suffix("").parts), node)
        for package in ("driftwork", "models", "pipeline", "launch")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    names = {"Config"}
    while more := {node.name for _, node in classes if names & {ast.unparse(base) for base in node.bases}} - names:
        names |= more
    return [(module, node.name) for module, node in classes if names & {ast.unparse(base) for base in node.bases}]


UNITS = re.compile(
    r"[Nn]umbers? of|(frames|samples) per second|per update|MiB|their units"
    r"|\b(seconds|bytes|nats|semitones|decibels|pixels|port|version|year)\b"
    r"|\b(fractions?|factor|weight|probability|ratio|seed|exponent|decay|units? of|stage)\b",
    re.IGNORECASE,
)
HOME_MADE = re.compile(
    r"\b(shown|seen|unseen|shares? of|each cell|every cell|the bound|told)\b|costs? nothing|both directions"
)
DANGLING = re.compile(r"(Of|Those|That|Which|As|Than|Below|Above|And|But|Where|Whose|Null|None)\b")


def faults(text, number):
    """Yield the faults of a setting's text that a program can find."""
    if not re.fullmatch(r"[A-Z].*[.]", text) or len(text.split()) < 4 or re.search(r"[.] [a-z]", text):
        yield "is not in full sentences"
    if DANGLING.match(text):
        yield "begins in the middle of a sentence"
    if text.count("(") != text.count(")") or text.count("`") % 2:
        yield "has an open bracket"
    if HOME_MADE.search(text):
        yield "has a home-made term where the field has a word"
    if number and not UNITS.search(text):
        yield "has no unit of its number"


@pytest.mark.parametrize(("module", "name"), config_classes(), ids=lambda part: part.rpartition(".")[2])
def test_text_of_every_setting_stands_alone(module, name):
    for key, field in getattr(importlib.import_module(module), name).model_fields.items():
        text = " ".join((field.description or "").split())
        kinds = {*union_members(field.annotation), *items_of(field.annotation)}
        assert list(faults(text, bool({int, float} & kinds))) == [], f"{module}.{name}.{key}: {text or 'no text'}"


@pytest.mark.parametrize(
    ("text", "number", "fault"),
    [
        ("", False, "full sentences"),
        ("The folder of the data", False, "full sentences"),
        ("folder of the prepared data.", False, "full sentences"),
        ("A new folder.", False, "full sentences"),
        ("Decay of the rate. 1: none. so it stays.", True, "full sentences"),
        ("Of each sequence, or of the prior.", False, "middle of a sentence"),
        ("Decay of the rate (0 is none.", True, "open bracket"),
        ("Whether the decoder reads `frame.", False, "open bracket"),
        ("Fraction of frames that are shown.", True, "home-made"),
        ("KL per frame that costs nothing, in nats.", True, "home-made"),
        ("Longest step of the fixed solver.", True, "unit"),
    ],
)
def test_text_that_breaks_a_rule_is_found(text, number, fault):
    assert fault in " ".join(faults(text, number))
    assert list(faults("Longest step of the solver, in seconds.", True)) == []
