from collections import Counter

import pytest

from pipeline.sequence import Item
from pipeline.split import assign, split_of


def items(groups):
    return [Item(f"{group}.mid", str(group), ()) for group in groups]


def test_split_depends_on_the_name_alone():
    # frozen: another result would move songs between the splits of existing data sets
    expected = ["val", "test", "test", "train", "val", "test", "train", "test", "train", "train", "train", "val"]
    assert [split_of(f"song {i}", 0.3, 0.3) for i in range(12)] == expected


def test_fractions_hold_on_average():
    counts = Counter(split_of(str(i), 0.2, 0.1) for i in range(20_000))
    assert counts["val"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_adding_songs_moves_no_other():
    few, many = assign(items(range(100)), 0.1, 0.1), assign(items(range(1000)), 0.1, 0.1)
    assert few == {group: many[group] for group in few}


def test_all_versions_share_a_split():
    versions = [Item(f"a.{i}.mid", "a", ()) for i in range(5)]
    assert list(assign(versions, 0.3, 0.3)) == ["a"]


@pytest.mark.parametrize("count", range(3, 40))
def test_three_songs_fill_every_split(count):
    assert set(assign(items(range(count)), 0.05, 0.05).values()) == {"train", "val", "test"}


@pytest.mark.parametrize("count", range(3, 40))
def test_huge_fractions_leave_train_a_song(count):
    assert set(assign(items(range(count)), 0.49, 0.5).values()) == {"train", "val", "test"}


def test_few_songs_fill_train_first():
    assert set(assign(items(range(1)), 0.3, 0.3).values()) == {"train"}
    assert set(assign(items(range(2)), 0.3, 0.3).values()) == {"train", "val"}


def test_fraction_of_zero_stays_empty():
    assert set(assign(items(range(500)), 0.0, 0.0).values()) == {"train"}
    assert set(assign(items(range(500)), 0.1, 0.0).values()) == {"train", "val"}


def test_given_split_is_kept():
    brought = [Item("x.wav", "speaker", (), split="test"), *items(range(50))]
    splits = assign(brought, 0.1, 0.0)
    assert splits["speaker"] == "test"
    assert {group: splits[group] for group in splits if group != "speaker"} == assign(items(range(50)), 0.1, 0.0)


def test_given_split_gets_no_other_group():
    brought = [Item("x.wav", "speaker", (), split="test"), *items(range(50))]
    splits = assign(brought, 0.1, 0.25)
    assert [group for group in splits if splits[group] == "test"] == ["speaker"]
    assert list(splits.values()).count("val") > 1
