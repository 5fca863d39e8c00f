"""Raw files that are found, for every data set with files: below links, beside macOS files, or a single one."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.mocap import Mocap, MocapConfig
from pipeline.readers.raw_files import listing
from pipeline.readers.rotating_mnist import RotatingMnist, RotatingMnistConfig
from pipeline.readers.timit import Timit, TimitConfig
from tests.pipeline.prepare.preparing import CONFIG, config
from tests.pipeline.readers import acclaim
from tests.pipeline.readers.midi_bytes import corpus, song
from tests.pipeline.readers.speech import flat


def walks(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "07.asf").write_text(acclaim.cmu())
    for number in (1, 2, 28, 31):
        (folder / f"07_{number:02d}.amc").write_text(acclaim.walk(12, seed=number))
    return folder


def arrays(folder):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    savemat(folder / "walks.mat", {name: rng.normal(size=(2, 12, 50)) for name in ("Xtr", "Xval", "Xtest")})
    return folder


def digits(folder):
    folder.mkdir(parents=True, exist_ok=True)
    shape = (30).to_bytes(4, "big")
    side = (28).to_bytes(4, "big")
    (folder / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + shape + 2 * side + bytes(30 * 784))
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + shape + bytes([3] * 30))
    return folder


SETS = {
    "lakh": (Midi(MidiConfig()), lambda folder: corpus(folder, 4)),
    "timit": (Timit(TimitConfig()), lambda folder: flat(folder, 4)),
    "mocap": (Mocap(MocapConfig(frames=12)), walks),
    "mat": (Mocap(MocapConfig(frames=12)), arrays),
    "mnist": (RotatingMnist(RotatingMnistConfig()), digits),
}
every_set = pytest.mark.parametrize(("reader", "fill"), SETS.values(), ids=SETS)


def files(items):
    return {file for item in items for file in item.files}


@every_set
def test_linked_folders_are_followed(tmp_path, reader, fill):
    fill(tmp_path / "elsewhere/deep")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/link").symlink_to("../elsewhere")
    direct, linked = reader.find(tmp_path / "elsewhere"), reader.find(tmp_path / "raw")
    assert files(linked) == {f"link/{file}" for file in files(direct)}
    for one, other in zip(direct, linked, strict=True):
        pairs = zip(reader.read(tmp_path / "elsewhere", one), reader.read(tmp_path / "raw", other), strict=True)
        assert all(np.array_equal(a.values, b.values) for a, b in pairs)


@every_set
def test_link_loops_end_the_search(tmp_path, reader, fill):
    raw = fill(tmp_path / "raw")
    expected = reader.find(raw)
    (raw / "deeper").mkdir()
    (raw / "loop").symlink_to(raw)
    (raw / "deeper/up").symlink_to("..")
    (raw / "one").symlink_to("two")
    (raw / "two").symlink_to("one")
    assert reader.find(raw) == expected
    found = listing(raw)
    assert found.loops == ("deeper/up", "loop")
    assert found.dead == ("one", "two")


@every_set
def test_unlistable_folder_is_named(tmp_path, monkeypatch, reader, fill):
    raw = fill(tmp_path / "raw")
    (raw / "closed/inner").mkdir(parents=True)

    def refused(path, whole=os.scandir):
        if Path(path).name == "inner":  # root may list any folder
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DriftworkError) as caught:
        reader.find(raw)
    assert str(caught.value).startswith(f"source={raw}: closed/inner: cannot be listed: Permission denied; make")


@every_set
def test_macos_files_are_ignored(tmp_path, reader, fill):
    raw = fill(tmp_path / "raw")
    expected = reader.find(raw)
    shutil.copytree(raw, raw / "__MACOSX")
    for path in [path for path in raw.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert reader.find(raw) == expected
    there = {path.relative_to(raw) for path in raw.rglob("*") if path.is_file()}
    ours = {path for path in there if "__MACOSX" in path.parts or path.name[:2] == "._" or path.name == ".DS_Store"}
    assert set(listing(raw).ignored) == {path.as_posix() for path in ours}


def test_listing_is_sorted_and_complete(tmp_path):
    """The reference is the tree itself, with names that are not UTF-8 and a folder that is linked twice."""
    for name in ("b/x.mid", "a/y.mid", "a.mid", "c/d/e/z.mid", "c.d/w", os.fsdecode(b"Bj\xf6rk/q.mid")):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(b"")
    plain = {path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    assert set(listing(tmp_path / "raw").files) == plain
    (tmp_path / "raw/l1").symlink_to("c")
    (tmp_path / "raw/b/l2").symlink_to("../c/d")
    found = listing(tmp_path / "raw")
    assert set(found.files) == plain | {"l1/d/e/z.mid", "b/l2/e/z.mid"}
    assert list(found.files) == sorted(found.files)
    assert (found.ignored, found.loops, found.dead) == ((), (), ())


def test_mutually_linked_folders_are_listed_quickly(tmp_path):
    """Thirty folders with links to all can be reached by 30! paths, of which 30 + 30 x 30 are followed."""
    folders = [tmp_path / f"raw/{n:02d}" for n in range(30)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.mid").write_bytes(b"")
        for other in folders:
            (folder / f"to {other.name}").symlink_to(other)
    found = listing(tmp_path / "raw")
    assert len(found.files) == 30 + 30 * 29
    assert len(found.loops) == 30 + 30 * 29 * 30


@pytest.mark.process
@pytest.mark.usefixtures("without_ray")
def test_left_out_files_are_reported(tmp_path, capsys):
    raw = corpus(tmp_path / "raw", 20)
    (raw / "__MACOSX").mkdir()
    for name in ("._Title 0.mid", ".DS_Store", "__MACOSX/a.mid"):
        (raw / name).write_bytes(b"\0\5\x16\7")
    (raw / "loop").symlink_to(raw)
    (raw / "gone").symlink_to(tmp_path / "not mounted")
    (raw / "lost.mid").symlink_to(tmp_path / "not there.mid")
    manifest = prepare(config(raw, tmp_path / "out"))
    assert (manifest.items, manifest.unreadable) == (21, 1)
    said, card = capsys.readouterr().out, (tmp_path / "out/DATACARD.md").read_text()
    for text in (said, card):
        assert "3 macOS resource files ignored" in text
        assert "loop is a link to a folder that is listed already; not followed" in text
        assert "gone is a link without a target" in text
        assert "lost.mid is a link" not in text  # it is in the quarantine
    prepare(config(corpus(tmp_path / "plain", 20), tmp_path / "other"))
    assert "Left out" not in (tmp_path / "other/DATACARD.md").read_text()


@pytest.mark.process
@pytest.mark.usefixtures("without_ray")
def test_ignored_files_change_no_hash(tmp_path):
    """A folder copied by macOS is the same data set."""
    raw = corpus(tmp_path / "raw", 20)
    before = prepare(config(raw, tmp_path / "before"))
    (raw / ".DS_Store").write_bytes(b"")
    (raw / "Artist 0/._Title 0.mid").write_bytes(b"")
    assert prepare(config(raw, tmp_path / "after")).hash == before.hash
    assert prepare(config(raw, tmp_path / "before")).hash == before.hash


@pytest.mark.process
@pytest.mark.usefixtures("without_ray")
def test_one_midi_file_is_a_data_set(tmp_path, monkeypatch):
    (tmp_path / "Mix #1.mid").write_bytes(song(1))
    (tmp_path / "other.mid").write_bytes(song(2))
    monkeypatch.chdir(tmp_path)
    manifest = prepare(config(Path("Mix #1.mid"), tmp_path / "out", "val=0", "test=0"))
    assert list(manifest.inputs) == ["Mix #1.mid"]
    assert prepare(config(Path("Mix #1.mid"), tmp_path / "out", "val=0", "test=0")).hash == manifest.hash
    with pytest.raises(DriftworkError, match="leave the val split empty"):
        prepare(config(Path("Mix #1.mid"), tmp_path / "whole"))


@pytest.mark.process
@pytest.mark.usefixtures("without_ray")
def test_one_file_of_motion_is_a_data_set(tmp_path):
    for raw, names in ((arrays(tmp_path / "mat") / "walks.mat", {"walks.mat"}),
                       (walks(tmp_path / "amc") / "07_01.amc", {"07_01.amc", "07.asf"})):  # fmt: skip
        out = tmp_path / raw.stem
        overrides = [f"source={raw}", f"out={out}", "dataset.frames=12"]
        manifest = prepare(load(PrepareConfig, CONFIG.with_name("mocap.yaml"), overrides))
        assert manifest.inputs.keys() == names
        assert manifest.unreadable == 0
    whole = load(PrepareConfig, CONFIG.with_name("mocap.yaml"), [f"source={tmp_path / 'mat'}", f"out={tmp_path / 'o'}",
                                                                 "dataset.frames=12"])  # fmt: skip
    assert prepare(whole).hash == prepare(whole.model_copy(update={"source": tmp_path / "mat/walks.mat"})).hash


@pytest.mark.parametrize(
    ("reader", "name", "said"),
    [
        (SETS["lakh"][0], "a.txt", "its name does not end in .mid or .midi or .kar or .rmi"),
        (SETS["mocap"][0], "a.txt", "its name does not end in .amc or .asf or .mat"),
        (SETS["mocap"][0], "07.asf", "no .amc or .mat file"),
        (SETS["timit"][0], "sa1.wav", "is a single file; give the folder that holds TRAIN|TEST"),
        (SETS["mnist"][0], "train-images-idx3-ubyte", "is a single file; give the folder that holds images and labels"),
    ],
)
def test_unsuitable_single_file_is_refused(tmp_path, reader, name, said):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DriftworkError) as caught:
        reader.find(tmp_path / name)
    assert str(caught.value).startswith(f"source={tmp_path / name}: {said}")


def test_neither_file_nor_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mid")
    with pytest.raises(DriftworkError, match=r"pipe.mid: is neither folder nor file"):
        SETS["lakh"][0].find(tmp_path / "pipe.mid")
    with pytest.raises(DriftworkError, match="no such folder or file"):
        SETS["lakh"][0].find(tmp_path / "absent.mid")
