"""Equal content under two names is in one split, and counts once."""

import json
import struct
from contextlib import nullcontext

import numpy as np
import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from driftwork.files import sha256
from pipeline.prepare.build import build_shard
from pipeline.prepare.duplicates import digest, escaped, joined
from pipeline.prepare.plan import make_plan
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.sequence import SPLITS, Item, Sequence
from pipeline.shards.manifest import MANIFEST, read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.split import split_of
from tests.datasets import quarantined
from tests.pipeline.prepare.preparing import CONFIG, config, contents
from tests.pipeline.readers import acclaim
from tests.pipeline.readers.midi_bytes import corpus, song
from tests.pipeline.readers.speech import flat, riff, sphere, voice

TIMIT, MOCAP = CONFIG.with_name("timit.yaml"), CONFIG.with_name("mocap.yaml")
pytestmark = [pytest.mark.usefixtures("without_ray"), pytest.mark.process]


def item(name, split=None):
    return Item(name, name.split(".")[0], (name,), split)


def homes(folder):
    """Map each source file to (split, group) of its sequences."""
    manifest = read_manifest(folder)
    found = {}
    for shard in manifest.shards:
        with (folder / shard.file).open("rb") as handle:
            for index in range(shard.samples):
                start, size = shard.span(index)
                handle.seek(start)
                about = json.loads(handle.read(size)[512:].split(b"\0", 1)[0])
                assert read_sample(handle, shard, index, manifest.spec).group == about["group"]
                found[about["source"]] = (shard.split, about["group"])
    return found


def same_notes(seed):
    """Return `song(seed)` in other bytes: with a text, and with its tempo at another place."""
    data = song(seed)
    event = b"\0\xff\x01\x05hello"
    size = struct.unpack_from(">I", data, 18)[0]
    return data[:18] + struct.pack(">I", size + len(event)) + event + data[22:]


def test_groups_with_equal_content_are_joined():
    a, b, c, d1, d2, e = map(item, ("a.mid", "b.mid", "c.mid", "d.1.mid", "d.2.mid", "e.mid"))
    assert joined([(e, "x"), (a, "y"), (b, "z")], "here") == {}
    assert joined([(e, "x"), (c, "x")], "here") == {"e": "c"}
    chain = [(d2, "1"), (b, "2"), (c, "1"), (d1, "2"), (a, "9"), (e, "3")]  # b = d.1 and c = d.2, so b, c and d are one
    for turn in range(len(chain)):
        assert joined(chain[turn:] + chain[:turn], "here") == {"c": "b", "d": "b"}
    assert joined([(d1, "1"), (d2, "1")], "here") == {}  # versions of a song may be equal


def test_joined_groups_are_the_connected_components():
    """The reference is a search through the graph of groups and contents."""
    rng = np.random.default_rng(0)
    pairs = [(item(f"{rng.integers(60):02d}.{n}.mid"), str(rng.integers(80))) for n in range(100)]
    parts = {name: {name} for name in {i.group for i, _ in pairs}}
    for i, content in pairs:
        for j, other in pairs:
            if content == other:
                whole = parts[i.group] | parts[j.group]
                parts |= dict.fromkeys(whole, whole)
    assert joined(pairs, "here") == {group: min(part) for group, part in parts.items() if group != min(part)}


def test_escaped_names_stay_different():
    names = ["a\\b", "a\\\\b", "Bj\udcf6rk", "Bj\\udcf6rk", "two\nlines", "two\\nlines", "Björk"]
    assert len(set(map(escaped, names))) == len(names)
    assert all(name.isprintable() for name in map(escaped, names))


def test_same_content_in_two_given_splits_is_refused():
    with pytest.raises(
        DriftworkError, match=r"^here: a.wav and b.wav have the same content, .* two splits; remove one of them"
    ):
        joined([(item("a.wav", None), "1"), (item("b.wav", "test"), "1")], "here")


def test_digest_covers_values_and_shape():
    def sequence(values, key="a"):
        return Sequence(key, key, np.arange(len(values)) / 5, values, np.ones(len(values), np.bool_))

    rolls = np.random.default_rng(0).random((3, 4, 128)) < 0.5
    other = rolls.copy()
    other[2, 3, 127] ^= True
    assert digest([sequence(rolls[0]), sequence(rolls[1])]) == digest(
        [sequence(rolls[0], "b"), sequence(rolls[1], "c")]
    )
    flat = rolls.reshape(-1, 128)
    several = [[rolls[0]], [rolls[0], rolls[1]], [flat], [rolls.reshape(-1, 64)], [other.reshape(-1, 128)],
               [flat.astype(np.float32)]]  # fmt: skip
    assert len({digest(map(sequence, values)) for values in several}) == len(several)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Write forty songs, and six files under other names: copies, one with other bytes, and equal bad files."""
    folder = corpus(tmp_path_factory.mktemp("raw"), 40)
    splits = {f"Artist {n % 3}/Title {n}": split_of(f"Artist {n % 3}/Title {n}", 0.2, 0.2) for n in range(40)}
    train = next(name for name in sorted(splits) if splits[name] == "train")
    test = next(name for name in sorted(splits) if splits[name] == "test")
    number = int(train.split()[-1])
    (folder / "A").mkdir()
    (folder / "A/of a train song.mid").write_bytes(song(number))
    (folder / f"{test}.copy.mid").write_bytes(song(int(test.split()[-1])))
    (folder / "Zz").mkdir()
    (folder / "Zz/other bytes.mid").write_bytes(same_notes(int(test.split()[-1])))
    for name in ("Artist 0/bad.mid", "Artist 1/bad.mid"):
        (folder / name).write_bytes(b"no music")
    return folder, train, test


def test_duplicates_share_split_and_group(raw, tmp_path, capsys):
    folder, train, test = raw
    manifest = prepare(config(folder, tmp_path / "out"))
    assert manifest.joined == {train: "A/of a train song", f"{test}.copy": test, "Zz/other bytes": test}
    found = homes(tmp_path / "out")
    assert len({found[f"{name}.mid"] for name in (test, f"{test}.copy", "Zz/other bytes")}) == 1
    assert found[f"{test}.mid"] == ("test", test)
    assert found[f"{train}.mid"] == found["A/of a train song.mid"]
    assert found[f"{train}.mid"][1] == "A/of a train song"
    assert found[f"{train}.mid"][0] == split_of("A/of a train song", 0.2, 0.2)
    for name, (split, group) in found.items():
        assert split == split_of(group, 0.2, 0.2), name
    assert len(quarantined(tmp_path / "out")) == 2  # equal unreadable files are not joined
    assert "3 groups have the same content as another group" in (tmp_path / "out/DATACARD.md").read_text()
    said = capsys.readouterr().out
    assert "3 groups have the same content as another group" in said
    for split in SPLITS:
        count = len({group for home, group in found.values() if home == split})
        assert (f"warning: the {split} split has {count} groups, under 10" in said) == (count < 10)


def test_no_content_is_in_two_splits(raw, tmp_path):
    """No two sequences of different splits are equal when read back."""
    folder, _, _ = raw
    manifest = prepare(config(folder, tmp_path / "out"))
    seen = {}
    for shard in manifest.shards:
        with (tmp_path / "out" / shard.file).open("rb") as handle:
            for index in range(shard.samples):
                values = read_sample(handle, shard, index, manifest.spec).values.tobytes()
                assert seen.setdefault(values, shard.split) == shard.split
    assert set(seen.values()) == set(SPLITS)


def test_other_songs_keep_their_splits(raw, tmp_path):
    folder, train, test = raw
    alone = corpus(tmp_path / "alone", 40)
    prepare(config(alone, tmp_path / "before"))
    prepare(config(folder, tmp_path / "after"))
    before, after = homes(tmp_path / "before"), homes(tmp_path / "after")
    assert {name: home for name, home in before.items() if after[name] != home}.keys() <= {f"{train}.mid"}


def test_data_without_duplicates_keep_their_hash(tmp_path):
    """The expected hash is from before duplicates were joined. With another hash, existing runs would refuse the data
    set."""
    overrides = ["title=speech", "licence=none", "files_per_shard=4"]
    raw = flat(tmp_path / "raw", 6)
    manifest = prepare(load(PrepareConfig, TIMIT, [f"source={raw}", f"out={tmp_path / 'out'}", *overrides]))
    assert manifest.hash == "d8e36f61480382e58def535b495def3828298e4020c328f4505d95639aef205b"
    assert sha256(tmp_path / "out" / MANIFEST) == manifest.hash
    assert b"joined" not in manifest.encode()
    assert "Duplicates" not in (tmp_path / "out/DATACARD.md").read_text()


def test_speakers_of_one_recording_are_joined(tmp_path):
    """SPHERE and RIFF files have different bytes but the same samples."""
    raw = flat(tmp_path / "raw", 6)
    (copied,) = (raw / "dr1-f0000").glob("sa1.wav")
    riff(raw / "dr4-f0030" / "sx99.wav", voice(24000, seed=0))
    assert copied.read_bytes() == sphere(voice(24000, seed=0))
    manifest = prepare(load(PrepareConfig, TIMIT, [f"source={raw}", f"out={tmp_path / 'out'}"]))
    assert manifest.joined == {"dr4-f0030": "dr1-f0000"}
    groups = homes(tmp_path / "out")
    assert len({home for name, home in groups.items() if name.startswith(("dr1-f0000", "dr4-f0030"))}) == 1


def test_equal_walks_in_two_splits_are_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/07.asf").write_text(acclaim.cmu())
    for number in (1, 2, 28, 31):
        (tmp_path / f"raw/07_{number:02d}.amc").write_text(acclaim.walk(12, seed=min(number, 30)))
    ours = load(PrepareConfig, MOCAP, [f"source={tmp_path / 'raw'}", f"out={tmp_path / 'out'}", "dataset.frames=12"])
    assert prepare(ours).joined == {}
    (tmp_path / "raw/07_32.amc").write_text(acclaim.walk(12, seed=1))
    with pytest.raises(DriftworkError, match=r"07_01.amc and 07_32.amc have the same content") as caught:
        prepare(ours.model_copy(update={"out": tmp_path / "again"}))
    assert str(tmp_path / "raw") in str(caught.value)


def test_joined_walks_keep_their_keys(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/07.asf").write_text(acclaim.cmu())
    for number in (1, 2, 28, 31):
        (tmp_path / f"raw/07_{number:02d}.amc").write_text(acclaim.walk(12, seed=max(number, 2)))
    overrides = [f"source={tmp_path / 'raw'}", f"out={tmp_path / 'out'}", "dataset.frames=12"]
    manifest = prepare(load(PrepareConfig, MOCAP, overrides))
    assert manifest.joined == {"07_02": "07_01"}
    (shard,) = manifest.of("train")
    with (tmp_path / "out" / shard.file).open("rb") as handle:
        walks = [read_sample(handle, shard, index, manifest.spec) for index in range(2)]
    assert [walk.group for walk in walks] == ["07_01", "07_01"]
    assert sorted(walk.key[:5] for walk in walks) == ["07_01", "07_02"]


def test_killed_attempt_keeps_its_joins(raw, tmp_path, monkeypatch):
    folder, _, _ = raw
    ours = config(folder, tmp_path / "out")
    reference = prepare(config(folder, tmp_path / "reference"))
    built, limit = [], 0

    def build(job, plans):
        entries = []
        for plan in plans:
            if len(built) == limit:
                raise KeyboardInterrupt
            built.append(plan.file)
            entries.append(build_shard(job, plan))
        return entries

    monkeypatch.setattr("pipeline.prepare.prepare._workers", lambda config: nullcontext(build))
    shards = len(reference.shards)
    for stop in (3, shards + 2):  # before and after the joins are known
        built, limit = [], stop
        with pytest.raises(KeyboardInterrupt):
            prepare(ours)
    built, limit = [], 10 * shards
    assert prepare(ours).hash == reference.hash
    assert len(built) == shards  # none again by the first plan
    assert contents(tmp_path / "out") == contents(tmp_path / "reference")


def test_second_run_and_repair_keep_joins(raw, tmp_path, capsys):
    folder, _, _ = raw
    manifest = prepare(config(folder, tmp_path / "out"))
    before = contents(tmp_path / "out")
    prepare(config(folder, tmp_path / "out"))
    assert "already prepared" in capsys.readouterr().out
    for shard in manifest.shards:
        (tmp_path / "out" / shard.file).unlink()
    assert prepare(config(folder, tmp_path / "out")).hash == manifest.hash
    assert contents(tmp_path / "out") == before


def test_plan_moves_only_joined_groups():
    items = [item(f"{n}.mid") for n in range(50)]
    recipe = config(None, "out").recipe
    plain = {i.name: plan.split for plan in make_plan(items, recipe, {}) for i in plan.items}
    assert plain == {i.name: split_of(i.group, recipe.val, recipe.test) for i in items}
    joins = {"7": "12", "31": "12", "gone": "12"}
    plans = make_plan(items, recipe, joins)
    merged = {i.name: (plan.split, i.group) for plan in plans for i in plan.items}
    assert merged == {i.name: (plain["12.mid"], "12") if i.group in joins else (plain[i.name], i.group) for i in items}
