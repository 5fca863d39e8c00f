"""`tests.fuzz` with a fixed seed and some 400 bad files; `python -m tests.fuzz CASES SEED` runs more."""

from random import Random

import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from pipeline.sequence import DataSpec
from tests.fuzz.__main__ import OTHERS
from tests.fuzz.damage import LAUGHS
from tests.fuzz.raw_files import MEDIA, media
from tests.fuzz.tables import tables

CASES = 48
SEED = 2026


@pytest.mark.process
@pytest.mark.parametrize("kind", MEDIA)
def test_bad_raw_file_costs_only_itself(tmp_path, kind):
    outcome = media(tmp_path, Random(f"{SEED} {kind}"), CASES, kind)
    assert outcome["unreadable"] > CASES / 4, "the damage does not reach the reader"
    assert outcome["good"] >= CASES / 4


@pytest.mark.process
def test_bad_table_is_named_with_its_row(tmp_path):
    outcome = tables(tmp_path, Random(f"{SEED} tables"), 300)
    assert outcome["refused"] > 150, "the damage does not reach the reader"


@pytest.mark.parametrize("target", [fuzz for fuzz in OTHERS if fuzz is not tables], ids=lambda fuzz: fuzz.__name__)
def test_bad_file_is_named_in_one_line(tmp_path, target):
    outcome = target(tmp_path, Random(f"{SEED} {target.__name__}"), CASES)
    assert outcome["refused"] > CASES / 2, "the damage does not reach the reader"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (LAUGHS, r"an alias \(\*name\) is not allowed"),
        ("seed: 0x" + "f" * 5000, "0xffffffffffffffffff... is a number of more than 64 bits"),
        ("title: " + "[" * 5000, "nested too deeply"),
        ("base: /dev/zero", "more than 262144 characters"),
    ],
    ids=["laughs", "huge", "deep", "device"],
)
def test_memory_bomb_config_is_refused(tmp_path, line, reason):
    (tmp_path / "a.yaml").write_text(f"recipe: x\n{line}\n")
    with pytest.raises(DriftworkError, match=reason):
        load(DataSpec, tmp_path / "a.yaml")
