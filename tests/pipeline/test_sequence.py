"""The kind of a data set: its value for older descriptions, and invalid descriptions."""

import pytest

from driftwork.config_base import build
from driftwork.errors import DriftworkError
from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.mocap import Mocap, MocapConfig
from pipeline.readers.rotating_mnist import RotatingMnist, RotatingMnistConfig
from pipeline.readers.simulated.bouncing_balls import BouncingBalls, BouncingBallsConfig
from pipeline.readers.timit import Timit, TimitConfig
from pipeline.sequence import DataSpec

NUMBERS = {"dim": 3, "length": 9, "interval": 0.5, "likelihood": "gaussian", "units": "m"}
KINDS = {
    "notes": Midi(MidiConfig()),
    "speech": Timit(TimitConfig()),
    "motion": Mocap(MocapConfig()),
    "pictures": BouncingBalls(BouncingBallsConfig()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_older_manifest_gets_its_kind(kind):
    spec = KINDS[kind].spec()
    written = spec.model_dump(mode="json")
    assert spec.kind == kind
    assert "kind" not in written
    assert build(DataSpec, written, where="here") == spec


def test_both_data_sets_of_pictures_are_pictures():
    assert RotatingMnist(RotatingMnistConfig()).spec().kind == "pictures"


def test_other_data_have_no_kind():
    assert DataSpec(**NUMBERS).kind is None
    own = DataSpec(**NUMBERS, kind="motion")
    assert own.model_dump(mode="json")["kind"] == "motion"
    assert build(DataSpec, own.model_dump(mode="json"), where="here") == own


@pytest.mark.parametrize("kind", ["notes", "speech", "pictures", "tables"])
def test_incomplete_kind_is_refused(kind):
    with pytest.raises(DriftworkError, match=rf"kind={kind}"):
        build(DataSpec, NUMBERS | {"kind": kind}, where="here")


def test_midi_reader_has_both_names():
    assert [MidiConfig(name=name).name for name in ("midi", "lakh")] == ["midi", "lakh"]
