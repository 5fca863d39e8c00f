"""Send a run's messages to the tracker from a separate thread, and keep them on disk while the tracker fails.

A message goes queue -> tracker while the tracker answers, and queue -> spool file while it does not. The spool is sent
first as soon as the tracker answers again, by this process or by the next one that opens the same run.

A message may arrive twice, if it was stored but the response was lost. A repeated message has no effect:

- MLflow drops a metric that repeats an earlier one in step and time;
- a param that exists is not sent;
- tags, files and states replace earlier ones.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock

from driftwork.files import aside

logger = logging.getLogger(__name__)

BATCH = 1000
"""Maximum number of metrics that MLflow accepts in one request."""

Kind = Literal["metric", "params", "tags", "status", "artifact", "model", "dataset"]
_FILES = ("artifact", "model")


class Message(NamedTuple):
    kind: Kind
    body: Any
    """Content of the message, as JSON."""


Deliver = Callable[[Kind, list[Any]], None]
"""Function that sends the bodies of messages of one kind: at most `BATCH` metrics, or one message of another kind."""


class RefusedError(Exception):
    """Error for a message that the tracker will never accept, raised by `deliver`."""


class Outbox:
    """A queue that delivers metrics every `period` seconds, and other messages at once with all earlier ones.

    No method raises if the tracker fails: training continues, and one warning names the file with the messages.
    """

    def __init__(self, deliver: Deliver, spool: Path, *, period: float = 1.0, longest_wait: float = 30.0) -> None:
        self._deliver = deliver
        self._spool = spool
        self._lock = FileLock(spool.with_suffix(".lock"))  # an evaluation may write to a run that trains
        self._period = period
        self._longest_wait = longest_wait
        self._queue: list[Message] = []
        self._queue_lock = threading.Lock()  # held for moments: `add` is on the training path
        self._drain_lock = threading.Lock()  # held while a message is sent: one sender at a time
        self._wait = 0.0  # seconds between tries while the tracker is down; 0 while it is up
        self._next_try = 0.0
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def add(self, *messages: Message) -> None:
        with self._queue_lock:
            self._queue.extend(messages)
        if any(message.kind != "metric" for message in messages):
            self._wake.set()

    def flush(self) -> None:
        """Try to send all messages now; those that fail are in the spool when this returns."""
        self._drain(even_if_down=True)

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._period)
            self._wake.clear()
            self._drain()

    def _drain(self, *, even_if_down: bool = False) -> None:
        with self._drain_lock:
            with self._queue_lock:
                messages, self._queue = self._queue, []
            if self._wait and not even_if_down and time.monotonic() < self._next_try:
                self._keep(messages)
            elif self._spool.exists():
                try:
                    with self._lock:
                        if self._send(_read(self._spool), messages):
                            self._spool.unlink(missing_ok=True)
                except OSError as error:  # the spool or its lock failed; they are tried again
                    self._keep(messages)
                    self._back_off(error)
            else:
                self._send([], messages)

    def _send(self, late: list[Message], messages: list[Message]) -> bool:
        """Send the `late` messages of the spool and the new ones, and return whether all are sent."""
        unsent = sorted(late + messages, key=lambda message: message.kind in _FILES)  # files come last
        sent = 0
        try:
            for kind, bodies in _deliveries(unsent):
                self._hand_over(kind, bodies)
                sent += len(bodies)
        except Exception as error:  # a tracker can raise any error, and none may stop a training run
            if late and sent:
                self._keep(unsent[sent:], in_place_of_all=True)
            else:
                self._keep(messages if late else unsent[sent:])
            self._back_off(error)
            return False
        if self._wait:
            logger.warning("tracking works again; the messages kept in %s were sent", self._spool)
        self._wait = 0.0
        return True

    def _hand_over(self, kind: Kind, bodies: list[Any]) -> None:
        try:
            self._deliver(kind, bodies)
        except RefusedError as error:
            logger.warning("the tracker refuses %s, which is dropped: %s", kind, error)

    def _keep(self, messages: list[Message], *, in_place_of_all: bool = False) -> None:
        """Add to the spool."""
        # The newline goes first: a line torn by a kill then spoils only itself.
        text = "".join("\n" + json.dumps(message) for message in messages)
        if not text:
            return
        try:
            with self._lock:
                if in_place_of_all:
                    with aside(self._spool) as temporary:
                        temporary.write_text(text, encoding="utf-8")
                else:
                    with self._spool.open("a", encoding="utf-8") as file:
                        file.write(text)
        except OSError:  # on a full disk memory is the last resort
            with self._queue_lock:
                self._queue = messages + self._queue

    def _back_off(self, error: Exception) -> None:
        if not self._wait:
            reason = " ".join(str(error).split())[:200]
            logger.warning("tracking fails, training continues; messages are kept in %s: %s", self._spool, reason)
        self._wait = min(max(2 * self._wait, self._period), self._longest_wait)
        self._next_try = time.monotonic() + self._wait


def _deliveries(messages: list[Message]) -> Iterator[tuple[Kind, list[Any]]]:
    for kind, group in groupby(messages, key=lambda message: message.kind):
        bodies = [message.body for message in group]
        size = BATCH if kind == "metric" else 1
        for start in range(0, len(bodies), size):
            yield kind, bodies[start : start + size]


def _read(spool: Path) -> list[Message]:
    """Read the spool; empty if another process has just sent it."""
    messages: list[Message] = []
    for line in spool.read_text(encoding="utf-8", errors="replace").splitlines() if spool.exists() else ():
        try:
            messages.append(Message(*json.loads(line)))
        except (ValueError, TypeError):  # empty, or truncated by a kill in the middle of a write
            continue
    return messages
