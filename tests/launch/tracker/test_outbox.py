"""The outbox with a simulated tracker that fails, without MLflow."""

import json
import threading
import time

import pytest

from launch.tracker.outbox import BATCH, Message, Outbox, RefusedError

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


class FakeTracker:
    """A tracker that stores messages, and refuses all while `down`."""

    def __init__(self):
        self.down = False
        self.has_disk = True
        self.batches = []

    def __call__(self, kind, bodies):
        if self.down or (kind == "artifact" and not self.has_disk):
            raise ConnectionError("connection refused")
        if bodies == ["nonsense"]:
            raise RefusedError("this is nonsense")
        self.batches.append((kind, bodies))

    @property
    def bodies(self):
        return [body for _, bodies in self.batches for body in bodies]


@pytest.fixture
def tracker():
    return FakeTracker()


def outbox_to(tracker, tmp_path, **settings):
    return Outbox(tracker, tmp_path / "unsent.jsonl", **{"period": 0.01, **settings})


def metrics(*bodies):
    return [Message("metric", body) for body in bodies]


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_sends_by_itself_in_order(tracker, tmp_path):
    outbox = outbox_to(tracker, tmp_path)
    for step in range(5):
        outbox.add(*metrics(step))
    wait_until(lambda: len(tracker.bodies) == 5)
    outbox.close()
    assert tracker.bodies == [0, 1, 2, 3, 4]
    assert not list(tmp_path.iterdir())


def test_only_metrics_are_batched(tracker, tmp_path):
    outbox = outbox_to(tracker, tmp_path, period=60)
    outbox.add(*metrics(1))
    outbox.add(Message("params", "a"))
    wait_until(lambda: tracker.bodies == [1, "a"])
    outbox.close()


def test_close_sends_the_rest_and_ends_thread(tracker, tmp_path):
    threads = threading.active_count()
    outbox = outbox_to(tracker, tmp_path, period=60)
    outbox.add(*metrics(1))
    outbox.close()
    assert tracker.bodies == [1]
    assert threading.active_count() == threads


def test_metrics_are_sent_in_batches(tracker, tmp_path):
    outbox = outbox_to(tracker, tmp_path, period=60)
    outbox.add(Message("tags", "a"), Message("tags", "b"), *metrics(*range(BATCH + 2)))
    outbox.close()
    assert [(kind, len(bodies)) for kind, bodies in tracker.batches] == [
        ("tags", 1), ("tags", 1), ("metric", BATCH), ("metric", 2),
    ]  # fmt: skip


def test_stuck_tracker_delays_no_caller(tmp_path):
    stuck, answer = threading.Event(), threading.Event()

    def deliver(kind, bodies):
        stuck.set()
        answer.wait()

    outbox = outbox_to(deliver, tmp_path)
    outbox.add(*metrics(1))
    assert stuck.wait(5)
    outbox.add(*metrics(2))  # returns, or this test would hang
    answer.set()
    outbox.close()


def test_outage_loses_nothing_and_warns_once(tracker, tmp_path, caplog):
    outbox = outbox_to(tracker, tmp_path, longest_wait=0.05)
    outbox.add(*metrics(0))
    wait_until(lambda: tracker.bodies == [0])
    tracker.down = True
    for step in range(1, 4):
        outbox.add(*metrics(step))
        wait_until(lambda n=step: (tmp_path / "unsent.jsonl").exists()
                   and (tmp_path / "unsent.jsonl").read_text().count("metric") == n)  # fmt: skip
    tracker.down = False
    wait_until(lambda: sorted(set(tracker.bodies)) == [0, 1, 2, 3])
    outbox.close()
    assert not (tmp_path / "unsent.jsonl").exists()
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "tracking fails, training continues", "tracking works again",
    ]  # fmt: skip
    assert "connection refused" in caplog.records[0].message


def test_next_outbox_sends_kept_messages_first(tracker, tmp_path):
    """New messages are sent after the kept ones."""
    tracker.down = True
    first = outbox_to(tracker, tmp_path, period=60)
    first.add(Message("params", {"lr": "0.1"}), *metrics(["loss", float("nan"), 7]), Message("status", ["KILLED", 1]))
    first.close()
    tracker.down = False
    second = outbox_to(tracker, tmp_path, period=60)
    second.add(Message("status", ["RUNNING", 2]))
    second.close()
    (_, [params]), (_, [[key, value, step]]), *statuses = tracker.batches
    assert params == {"lr": "0.1"}
    assert (key, step) == ("loss", 7)
    assert value != value  # NaN goes through the file
    assert statuses == [("status", [["KILLED", 1]]), ("status", [["RUNNING", 2]])]


def test_sent_messages_are_not_kept(tracker, tmp_path):
    """The tracker is down from the second request on."""
    spool = tmp_path / "unsent.jsonl"
    spool.write_text("".join("\n" + json.dumps(["tags", body]) for body in "abc"))
    taken = []

    def deliver(kind, bodies):
        if len(taken) == 2:
            raise ConnectionError
        taken.extend(bodies)

    outbox = outbox_to(deliver, tmp_path, period=60)
    outbox.add(Message("tags", "d"))
    outbox.close()
    assert [json.loads(line)[1] for line in spool.read_text().splitlines() if line] == ["c", "d"]
    outbox_to(tracker, tmp_path, period=60).close()
    assert [*taken, *tracker.bodies] == ["a", "b", "c", "d"]


def test_failing_files_delay_no_other_message(tracker, tmp_path):
    tracker.has_disk = False
    outbox = outbox_to(tracker, tmp_path, period=60)
    outbox.add(Message("artifact", "weights"), *metrics(1))
    outbox.flush()
    outbox.add(*metrics(2))
    outbox.flush()
    assert tracker.bodies == [1, 2]
    tracker.has_disk = True
    outbox.close()
    assert tracker.bodies == [1, 2, "weights"]


def test_refused_message_is_dropped_with_warning(tracker, tmp_path, caplog):
    outbox = outbox_to(tracker, tmp_path, period=60)
    outbox.add(Message("params", "nonsense"), *metrics(1))
    outbox.close()
    assert tracker.bodies == [1]
    assert "this is nonsense" in caplog.text
    assert not (tmp_path / "unsent.jsonl").exists()


def test_two_outboxes_send_kept_messages_once(tmp_path):
    """The second waits while the first sends."""
    (tmp_path / "unsent.jsonl").write_text("\n" + json.dumps(["metric", 1]))
    at_it, go_on, sent = threading.Event(), threading.Event(), []

    def slowly(kind, bodies):
        at_it.set()
        go_on.wait()
        sent.extend(bodies)

    first = outbox_to(slowly, tmp_path)
    assert at_it.wait(5)
    second = outbox_to(lambda kind, bodies: sent.extend(bodies), tmp_path)
    time.sleep(0.1)
    go_on.set()
    first.close()
    second.close()
    assert sent == [1]


def test_unreadable_spool_ends_no_thread(tracker, tmp_path, caplog):
    (tmp_path / "unsent.jsonl").mkdir()
    outbox = outbox_to(tracker, tmp_path, longest_wait=0.02)
    outbox.add(*metrics(1))
    wait_until(lambda: "directory" in caplog.text)
    (tmp_path / "unsent.jsonl").rmdir()
    wait_until(lambda: tracker.bodies == [1])
    outbox.close()


def test_torn_line_spoils_only_itself(tracker, tmp_path):
    spool = tmp_path / "unsent.jsonl"
    spool.write_text("\n" + json.dumps(["metric", 1]) + '\n["metric", [2')
    tracker.down = True
    outbox = outbox_to(tracker, tmp_path, period=60)
    outbox.add(*metrics(3))
    outbox.flush()
    tracker.down = False
    outbox.close()
    assert tracker.bodies == [1, 3]


def test_memory_keeps_messages_on_full_disk(tracker, tmp_path):
    (tmp_path / "file").touch()
    tracker.down = True
    outbox = Outbox(tracker, tmp_path / "file" / "unsent.jsonl", period=60)
    outbox.add(*metrics(1))
    outbox.flush()
    outbox.add(*metrics(2))
    tracker.down = False
    outbox.close()
    assert tracker.bodies == [1, 2]
