"""The writer against a tracker that is made to fail, without MLflow."""

import json
import threading
import time

import pytest

from launch.metric_writer import BATCH, MetricWriter


class FakeTracker:
    """Keeps what it is sent; refuses everything while `down`."""

    def __init__(self):
        self.down = False
        self.batches = []

    def __call__(self, points):
        if self.down:
            raise ConnectionError("connection refused")
        self.batches.append(list(points))

    @property
    def steps(self):
        return [point.step for batch in self.batches for point in batch]


@pytest.fixture
def tracker():
    return FakeTracker()


def writer_to(tracker, tmp_path, **settings):
    return MetricWriter(tracker, tmp_path / "unsent.jsonl", **{"period": 0.01, **settings})


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_sends_by_itself_in_order(tracker, tmp_path):
    writer = writer_to(tracker, tmp_path)
    for step in range(5):
        writer.add({"loss": step / 10}, step)
    wait_until(lambda: len(tracker.steps) == 5)
    writer.close()
    assert tracker.steps == [0, 1, 2, 3, 4]
    assert tracker.batches[0][0].value == 0.0
    assert abs(tracker.batches[0][0].timestamp_ms / 1000 - time.time()) < 60


def test_close_sends_what_is_left_and_ends_the_thread(tracker, tmp_path):
    threads = threading.active_count()
    writer = writer_to(tracker, tmp_path, period=60)
    writer.add({"loss": 1.0}, 1)
    writer.close()
    assert tracker.steps == [1]
    assert threading.active_count() == threads


def test_batches_stay_within_the_limit(tracker, tmp_path):
    writer = writer_to(tracker, tmp_path, period=60)
    for step in range(BATCH + 1):
        writer.add({"a": 0.0, "b": 0.0}, step)
    writer.close()
    assert [len(batch) for batch in tracker.batches] == [BATCH, BATCH, 2]


def test_an_outage_costs_nothing_and_warns_once(tracker, tmp_path, caplog):
    writer = writer_to(tracker, tmp_path, longest_wait=0.05)
    writer.add({"loss": 0.0}, 0)
    wait_until(lambda: tracker.steps == [0])
    tracker.down = True
    for step in range(1, 4):
        writer.add({"loss": 0.0}, step)
        wait_until(lambda n=step: (tmp_path / "unsent.jsonl").exists()
                   and (tmp_path / "unsent.jsonl").read_text().count("loss") == n)  # fmt: skip
    tracker.down = False
    wait_until(lambda: sorted(set(tracker.steps)) == [0, 1, 2, 3])
    writer.close()
    assert not (tmp_path / "unsent.jsonl").exists()
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "tracking fails, training goes on", "tracking works again",
    ]  # fmt: skip
    assert "connection refused" in caplog.records[0].message


def test_what_was_not_sent_is_sent_by_the_next_writer(tracker, tmp_path):
    tracker.down = True
    first = writer_to(tracker, tmp_path, period=60)
    first.add({"loss": float("nan"), "kl": 0.25}, 7)
    first.close()
    tracker.down = False
    writer_to(tracker, tmp_path, period=60).close()
    [[loss, kl]] = tracker.batches
    assert loss.key == "loss"
    assert loss.value != loss.value  # NaN goes through the file
    assert (kl.key, kl.value, kl.step) == ("kl", 0.25, 7)


def test_a_line_torn_by_a_kill_spoils_only_itself(tracker, tmp_path):
    spool = tmp_path / "unsent.jsonl"
    spool.write_text("\n" + json.dumps(["loss", 1.0, 1, 0]) + '\n["loss", 2.')
    tracker.down = True
    writer = writer_to(tracker, tmp_path, period=60)
    writer.add({"loss": 3.0}, 3)
    writer.flush()
    tracker.down = False
    writer.close()
    assert tracker.steps == [1, 3]


def test_memory_keeps_what_the_disk_does_not_take(tracker, tmp_path):
    tracker.down = True
    writer = MetricWriter(tracker, tmp_path / "no such folder" / "unsent.jsonl", period=60)
    writer.add({"loss": 0.0}, 1)
    writer.flush()
    writer.add({"loss": 0.0}, 2)
    tracker.down = False
    writer.close()
    assert tracker.steps == [1, 2]
