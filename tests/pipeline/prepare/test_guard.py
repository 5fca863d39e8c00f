"""A parser that crashes, hangs or exhausts memory costs one file."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from driftwork.errors import DriftworkError
from pipeline.prepare import guard as module
from pipeline.prepare.guard import Guard, Limits
from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.mocap import Mocap, MocapConfig
from pipeline.sequence import Item, UnreadableError
from tests.pipeline.readers import acclaim
from tests.pipeline.readers.midi_bytes import song
from tests.pipeline.readers.readers import Misbehaves
from tests.places import ROOT

pytestmark = pytest.mark.process

LIMITS = Limits(seconds=0.5, mib=512)
REASONS = {
    "crash": "the parser crashed (signal 11)",
    "spin": "took longer than 0.5 s",
    "sleep": "took longer than 0.5 s",
    "memory": "needed more than 512 MiB of memory",
    "exit": "the parser ended its process (code 3)",
    "mistake": "the parser failed: KeyError: 'key'",
    "stack": "the parser failed: RecursionError: maximum recursion depth exceeded",
}


def item(name: str) -> Item:
    return Item(name, "group", (name,))


def same(one, other) -> bool:
    return all(
        a.key == b.key and a.group == b.group and a.about == b.about
        and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a[2:5], b[2:5], strict=True))
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip


@pytest.fixture
def guard(tmp_path):
    made = Guard(Misbehaves(MidiConfig()), tmp_path, LIMITS)
    yield made
    made.close()


def test_guard_reads_like_its_reader(tmp_path, guard):
    """One child reads all good files."""
    names = ["a.mid", "shout.mid", os.fsdecode(b"Bj\xf6rk.mid")]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(song(number, notes=400))
    (tmp_path / "bad.mid").write_bytes(song(1)[:60])
    (tmp_path / "35.asf").write_text(acclaim.cmu())
    (tmp_path / "35_01.amc").write_text(acclaim.walk(20))
    assert same(guard.read(item(names[0])), Midi(MidiConfig()).read(tmp_path, item(names[0])))
    child = guard._child
    for name in names[1:]:
        assert same(guard.read(item(name)), Midi(MidiConfig()).read(tmp_path, item(name)))
    with pytest.raises(UnreadableError, match="truncated: track 1 of 1 ends early"):
        guard.read(item("bad.mid"))
    assert guard._child is child
    walks = Mocap(MocapConfig())
    (walk,) = walks.find(tmp_path)
    guarded = Guard(walks, tmp_path, LIMITS)
    assert same(guarded.read(walk), walks.read(tmp_path, walk))
    guarded.close()


def test_each_failure_costs_one_file(tmp_path, guard):
    good = song(1)
    for name in (*REASONS, "fine"):
        (tmp_path / f"{name}.mid").write_bytes(good)
    wanted = Midi(MidiConfig()).read(tmp_path, item("fine.mid"))
    for name, reason in REASONS.items():
        with pytest.raises(UnreadableError) as caught:
            guard.read(item(f"{name}.mid"))
        assert str(caught.value).startswith(reason)
    assert same(guard.read(item("fine.mid")), wanted)


def test_file_is_read_again_in_fresh_child(tmp_path, guard):
    for name in ("first.mid", "innocent.mid"):
        (tmp_path / name).write_bytes(song(1))
    guard.read(item("first.mid"))
    before = guard._child.process.pid
    assert guard.read(item("innocent.mid"))
    assert guard._child.process.pid != before


def test_killed_child_costs_no_file(tmp_path, guard):
    (tmp_path / "a.mid").write_bytes(song(1))
    guard.read(item("a.mid"))
    os.kill(guard._child.process.pid, signal.SIGKILL)
    assert guard.read(item("a.mid"))


def test_child_dies_with_its_parent(tmp_path):
    (tmp_path / "sleep.mid").write_bytes(song(1))
    program = f"""
import threading, time
from pathlib import Path
from tests.pipeline.prepare.test_guard import *
guard = Guard(Misbehaves(MidiConfig()), Path({str(tmp_path)!r}), Limits(100, 512))
guard._child = child = module._Child(guard.reader, guard.source, guard.limits)
print(child.process.pid, flush=True)
guard.read(item("sleep.mid"))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 600
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)


def test_child_that_cannot_start_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_name", lambda thing: "pipeline.nowhere:Reader")
    with pytest.raises(DriftworkError, match=r"does not start: .*\(code 1\); free memory, or"):
        Guard(Midi(MidiConfig()), tmp_path, LIMITS).read(item("a.mid"))


def test_reader_without_files_needs_no_child(tmp_path):
    class Simulated:
        def read(self, source, item):
            return [item.name]

    assert Guard(Simulated(), None, LIMITS).read(Item("film", "film", ())) == ["film"]
