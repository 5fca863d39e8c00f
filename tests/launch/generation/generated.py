"""Runs with untrained weights, their generated outputs, and independent readers of these."""

import json
import re

import numpy as np
import pretty_midi
from safetensors.torch import save_file

from driftwork.config_base import load
from launch import generate
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.runs.weights import BEST
from pipeline.readers.mocap import MocapConfig
from pipeline.shards.manifest import read_manifest
from tests.places import tiny

MODEL = "model={{name: {}, latent: 4, hidden: 8, width: 16, depth: 1, max_step: {}}}"


def untrained(place, config, data, *overrides):
    """Return a run folder with initial weights."""
    file = tiny(config)
    resolved = load(RunConfig, file, [f"data={data}", f"out={place}", "tracking.uri=null", *overrides])
    run_folder.create(resolved)
    manifest = read_manifest(data)
    run_folder.remember(place, manifest=manifest.hash)
    save_file(run_folder.model_for(resolved, manifest).state_dict(), place / BEST)
    return place


def made(out, run, *options):
    """Generate outputs of `run`, and return `generated.json`, checked against the folder."""
    assert generate.main([str(run), f"out={out}", *options]) == 0
    record = json.loads((out / "generated.json").read_text())
    assert all((out / entry["file"]).stat().st_size > 0 for entry in record["files"])
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return record


def drawn(record):
    return [entry for entry in record["files"] if entry["draw"] is not None]


def roll(path, rate, frames):
    """Read bool [frames, 128] by pretty_midi; every note must begin and end on a frame."""
    midi = pretty_midi.PrettyMIDI(str(path))
    played = np.zeros((frames, 128), bool)
    for note in [note for instrument in midi.instruments for note in instrument.notes]:
        start, end = note.start * rate, note.end * rate
        assert abs(start - round(start)) < 1e-3 > abs(end - round(end))
        played[round(start) : round(end), note.pitch] = True
        assert round(end) <= frames
    return played


def amc_frames(path, bones):
    """Read an .amc line by line, independently of the project's reader: [frames, numbers]."""
    lines = path.read_text(encoding="ascii").splitlines()
    assert lines[:2] == [":FULLY-SPECIFIED", ":DEGREES"]
    moves = {"root": 6} | {
        name: len(dof.split())
        for name, dof in re.findall(r"\n\s*name (\w+)\n(?:(?!\s*end).*\n)*?\s*dof ([rxyz ]+)\n", bones)
    }
    frames = []
    for line in lines[2:]:
        head, *numbers = line.split()
        if not numbers:
            assert int(head) == len(frames) + 1
            frames.append({})
        else:
            assert head not in frames[-1]
            frames[-1][head] = [float(number) for number in numbers]
    assert all({name: len(row) for name, row in frame.items()} == moves for frame in frames)
    return np.array([[x for row in frame.values() for x in row] for frame in frames])


HONEST = MocapConfig(protocol="honest", frames=1000)
