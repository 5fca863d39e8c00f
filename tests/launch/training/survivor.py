"""The program that test_resume.py starts: `python -m tests.launch.training.survivor DATA OUT` trains like `driftwork
train`, in ranks that die, stop or fail according to a plan. They are forked, so that DeepSpeed is loaded once for all.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from driftwork.command import run
from driftwork.files import aside
from launch import train
from launch.job import launcher
from launch.tracker.tracking import NullTracker
from launch.training import rank as one_rank
from launch.training.engine import Engine, _Files
from launch.training.watchdog import Watchdog
from tests.places import tiny

TINY = str(tiny("vsdn_vae"))
PLAN = "plan.json"
GRACE_S = 5.0
"""Seconds that a rank may take to end when requested."""


def plan(folder, *events):
    """Plan actions for the ranks that train in the folder: each happens once, at its (step, rank)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(json.dumps(events))


class Fate:
    """The planned actions of one rank, which the engine carries out."""

    def __init__(self, folder, rank):
        self.folder, self.rank, self.step = folder, rank, 0

    def due(self, what):
        events = json.loads((self.folder / PLAN).read_text()) if (self.folder / PLAN).exists() else []
        event = [self.step, self.rank, what]
        if event not in events:
            return False
        with aside(self.folder / PLAN) as temporary:
            temporary.write_text(json.dumps([other for other in events if other != event]))
        return True

    def install(self):
        at, step, save = Watchdog.at, Engine.step, _Files.save

        def noting(watch, phase, number=None):
            self.step = self.step if number is None else number
            at(watch, phase, number)

        def stepping(engine, batch, *rest):
            self.step += 1
            if self.due("die"):  # between forward and the vote: the others are on their way into it
                engine.module.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            if self.due("kill launcher"):
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(0.2)
            if self.due("stop"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.due("be told"):
                os.kill(os.getpid(), signal.SIGTERM)
            if self.due("nan"):
                batch = batch._replace(values=batch.values * float("nan"))
            return step(engine, batch, *rest)

        def saving(files, state_dict, path):
            if self.due("full disk"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))  # in the middle of a tensor
            save(files, state_dict, path)
            if self.due("die saving"):
                os.kill(os.getpid(), signal.SIGKILL)

        Watchdog.at, Engine.step, _Files.save = noting, stepping, saving


class Kept(NullTracker):
    """A tracker that writes metrics to a file, which is faster than a store."""

    def __init__(self, folder):
        self.file = folder / "metrics.jsonl"

    def metrics(self, metrics, step, at_ms=None):
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, "at_ms": at_ms, **metrics}) + "\n")


@contextlib.contextmanager
def kept(tracking, *, run_folder, rank=0, **_):
    yield Kept(run_folder) if rank == 0 else NullTracker()


def start(module, arguments, ranks, stdout=None):
    """Replace DeepSpeed's launcher by a process that forks the ranks."""
    return os.waitstatus_to_exitcode(os.waitpid(forked(lambda: launch(arguments, ranks)), 0)[1])


def forked(work):
    child = os.fork()
    if child != 0:
        return child
    code = 1
    for number in (signal.SIGTERM, signal.SIGINT):  # a newly started process does not have the handlers of this one
        signal.signal(number, signal.SIG_DFL)
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def launch(arguments, world):
    port = str(launcher.free_port())
    ranks = {}

    def live(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        Fate(Path(arguments[0]), rank).install()
        return run("train", one_rank.main, arguments)

    for rank in range(world):
        ranks[forked(partial(live, rank))] = rank
    first = 0
    while ranks:
        pid, status = os.wait()
        del ranks[pid]
        code = os.waitstatus_to_exitcode(status)
        if code != 0 and first == 0:
            first = code
            for other in ranks:
                os.kill(other, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
            while ranks and time.monotonic() < deadline:
                time.sleep(0.05)
                for other in [other for other in ranks if os.waitpid(other, os.WNOHANG)[0]]:
                    del ranks[other]
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return first & 0xFF


def drive(folder, *arguments):
    """Run `driftwork train` in this process; its output and that of its ranks go to the folder's log."""
    folder.mkdir(parents=True, exist_ok=True)
    said = os.dup(1), os.dup(2)
    with (folder / "log.txt").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        code = run("train", train.main, [str(argument) for argument in arguments])
        print(f"exit code {code}", flush=True)
    for stream, copy in zip((1, 2), said, strict=True):
        os.dup2(copy, stream)


def main():
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    launcher.start, one_rank.open_run = start, kept
    nan = [13, 1, "nan"]
    for stage in (0, 1, 2):
        new = [TINY, f"data={data}", f"optim.zero_stage={stage}", "train.save_every=3", "hang_after=600"]
        new += ["optim.schedule=cosine", "optim.warmup_steps=4", "optim.ema=0.9", "train.beta=0.5"]
        new += [f"train.accumulate={2 if stage == 1 else 1}"]
        whole, killed, moved = (out / f"{name}-{stage}" for name in ("whole", "killed", "moved"))
        plan(whole, nan)
        drive(whole, *new, f"out={whole}")
        plan(killed, [6, 0, "die saving"], [11, 1, "die"], [14, 0, "kill launcher"], nan)
        drive(killed, *new, f"out={killed}", "restarts=3")
        plan(moved, [5, 1, "be told"], [11, 0, "be told"], nan)
        drive(moved, *new, f"out={moved}")
        drive(moved, f"resume={moved}", "ranks=1")
        drive(moved, f"resume={moved}", "ranks=2")
    hung, full, damaged = (out / name for name in ("hung", "full", "damaged"))
    new = [TINY, f"data={data}", "train.save_every=3"]
    plan(hung, [6, 1, "stop"])
    drive(hung, *new, f"out={hung}", "hang_after=10", "restarts=0")
    plan(full, [6, 1, "full disk"])
    drive(full, *new, f"out={full}", "optim.zero_stage=1")  # where rank 1 has a file of its own to save
    shutil.copytree(out / "whole-1", damaged)
    latest = damaged / "checkpoints/step-0000016/state"
    file = next(latest.glob("zero_pp_rank_1*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    drive(damaged, f"resume={damaged}")


if __name__ == "__main__":
    main()
