"""The last collectives of a rank that waits for another one."""

import json
import os
import subprocess
import sys

import pytest

from launch.job import collectives
from tests.places import ROOT

RANK = """
import sys, time
from pathlib import Path
import torch, torch.distributed as dist
from launch.job import collectives
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
dist.all_reduce(torch.ones(3, 2))
if rank == 0:
    work = dist.all_reduce(torch.ones(5), async_op=True)
    time.sleep(0.5)
    print(collectives.written(folder / "0.json"), flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_collective_that_waits_is_named(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_FR_BUFFER_SIZE": "10", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    line = ranks[0].stdout.readline().strip()
    for rank in ranks:
        rank.kill()
        rank.communicate()
    *_, before, last = line.partition("; all:")[0].split(": ")[1].split(", ")
    assert before.endswith("of 6 numbers (ended)")
    assert last.endswith("of 5 numbers (not ended)")
    assert "reduce" in last
    assert line.endswith(str(tmp_path / "0.json"))
    assert len(json.loads((tmp_path / "0.json").read_text())["entries"]) >= 2


def test_nothing_is_written_without_collectives(tmp_path, monkeypatch):
    for record in ("", '{"version": "2.10"}', '{"entries": []}'):
        monkeypatch.setattr(collectives, "_record", lambda record=record: record)
        assert collectives.written(tmp_path / "0.json") == ""
    assert not list(tmp_path.iterdir())
