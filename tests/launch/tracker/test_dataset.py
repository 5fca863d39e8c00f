"""The data set of a run in MLflow."""

import json
import subprocess
import sys

import pytest

from launch.tracker.dataset import described
from tests.datasets import write_films, write_rolls
from tests.launch.tracker.test_tracking import client_of


def test_data_set_is_described_by_manifest(tmp_path):
    manifest, sequences = write_rolls(tmp_path / "rolls")
    found = described(manifest, tmp_path / "rolls")
    assert (found["name"], found["digest"]) == ("rolls", manifest.hash[:12])
    assert (found["source_type"], json.loads(found["source"])) == ("local", {"uri": str(tmp_path / "rolls")})
    size = json.loads(found["profile"])
    splits = [sum(key.startswith(split) for key in sequences) for split in ("train", "val", "test")]
    assert [size[f"{split}_sequences"] for split in ("train", "val", "test")] == splits == [29, 6, 7]
    frames = sum(len(sequence.times) for sequence in sequences.values())
    assert (size["frames"], size["hours"]) == (frames, round(frames * 0.2 / 3600, 3))
    assert size["bytes"] == sum(path.stat().st_size for path in (tmp_path / "rolls").glob("*.tar"))
    assert (size["channels"], size["frames_per_second"]) == (128, 5)
    columns = json.loads(found["schema"])["mlflow_colspec"]
    assert {column["name"]: column["type"] for column in columns} == {
        "times": "double", "values": "boolean", "mask": "boolean",
    }  # fmt: skip
    films, _ = write_films(tmp_path / "films")
    assert json.loads(described(films, "s3://bucket/films")["schema"])["mlflow_colspec"][1]["type"] == "float"
    assert described(films, "s3://bucket/films")["source_type"] == "s3"


@pytest.mark.process  # MLflow calls `uname` when it is imported
def test_dataset_schema_is_read_by_mlflow(tmp_path):
    from mlflow.types import Schema

    manifest, _ = write_rolls(tmp_path / "rolls")
    columns = json.loads(described(manifest, tmp_path)["schema"])["mlflow_colspec"]
    assert Schema.from_json(json.dumps(columns)).input_names() == ["times", "values", "mask"]


def test_runs_are_found_by_their_data_set(open_, uri, tmp_path):
    manifest, _ = write_rolls(tmp_path / "rolls")
    about = described(manifest, tmp_path / "rolls")
    with open_(training=True) as tracker:
        tracker.dataset(about)
    with open_():
        pass
    with open_(run_id=tracker.run_id, training=True) as again:
        again.dataset(about)  # a resumed training logs it again
    client = client_of(uri)
    (used,) = client.get_run(tracker.run_id).inputs.dataset_inputs
    assert {key: getattr(used.dataset, key) for key in about} == about
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    experiment = client.get_experiment_by_name("lakh").experiment_id
    for query in ("dataset.name = 'rolls'", f"dataset.digest = '{manifest.hash[:12]}'"):
        assert [run.info.run_id for run in client.search_runs([experiment], query)] == [tracker.run_id]


@pytest.mark.process
def test_data_set_needs_no_pandas(open_, uri, tmp_path):
    with open_() as tracker:
        pass
    code = f"""
import sys
from launch.tracker.mlflow_store import found
run, _ = found({uri!r}, {tracker.run_id!r}, onwards=False)
before = set(sys.modules)
run.deliver("dataset", [dict(name="a", digest="b", source_type="local", source="{{}}", schema="{{}}", profile="{{}}")])
print({{name.partition(".")[0] for name in set(sys.modules) - before}} & {{"pandas", "pyarrow", "datasets", "pyspark"}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr
