"""The check that a user's copy of TIMIT is complete."""

import os

import pytest

from driftwork.errors import DriftworkError
from launch import fetch as command


@pytest.fixture(scope="module")
def timit(tmp_path_factory):
    root = tmp_path_factory.mktemp("timit")
    for half, count in (("TRAIN", 462), ("TEST", 168)):
        for number in range(count):
            speaker = root / f"{half}/DR{number % 8 + 1}/F{half[:2]}{number}"
            speaker.mkdir(parents=True)
            for sentence in range(10):
                (speaker / f"SX{sentence}.WAV").write_bytes(b"NIST_1A\n   1024\n")
    return root


def test_whole_timit_is_found_complete(timit, capsys):
    assert command.main(["timit", f"from={timit}"]) == 0
    said = capsys.readouterr().out
    assert "TRAIN: 4620 sentences of 462 speakers\nTEST: 1680 sentences of 168 speakers\ncomplete" in said
    assert command.main(["timit"]) == 0
    assert "https://catalog.ldc.upenn.edu/LDC93S1" in capsys.readouterr().out


def test_lower_case_timit_is_accepted(timit, tmp_path):
    for path in timit.rglob("*.WAV"):
        lower = tmp_path / path.relative_to(timit).as_posix().lower()
        lower.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, lower)
    assert command.main(["timit", f"from={tmp_path}"]) == 0


def test_missing_or_damaged_sentence_is_named(timit):
    one = timit / "TEST/DR1/FTE0/SX3.WAV"
    one.rename(one.with_suffix(".gone"))
    with pytest.raises(DriftworkError, match="TEST has 1679 sentences of 168 speakers, but TIMIT has 1680 of 168"):
        command.main(["timit", f"from={timit}"])
    one.write_bytes(b"<html>")
    with pytest.raises(DriftworkError, match=r"TEST/DR1/FTE0/SX3.WAV is neither NIST SPHERE nor RIFF WAVE"):
        command.main(["timit", f"from={timit}"])
    one.with_suffix(".gone").rename(one)
