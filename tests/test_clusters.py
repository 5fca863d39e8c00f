"""Files that users copy from configs/clusters: valid manifests, and scripts that call the right commands."""

import os
import signal
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml

CLUSTERS = Path(__file__).parent.parent / "configs/clusters"


def manifest(name):
    return yaml.safe_load((CLUSTERS / name).read_text())


def pods():
    cluster = manifest("kuberay_prepare.yaml")["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in cluster["workerGroupSpecs"])
    yield manifest("kubernetes_train.yaml")["spec"]["template"]["spec"]


def test_pods_have_no_rights_but_shared_memory():
    for pod in pods():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        (memory,) = [volume for volume in pod["volumes"] if "emptyDir" in volume]
        assert memory["emptyDir"]["medium"] == "Memory"
        assert {"name": memory["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_ray_job_has_token_and_cluster_address():
    job = manifest("kuberay_prepare.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    command = job["spec"]["entrypoint"].split()
    assert command[:2] == ["driftwork", "prepare"]
    assert (CLUSTERS.parents[1] / command[2]).is_file()
    assert "address=auto" in command


def test_training_job_never_has_two_pods():
    job = manifest("kubernetes_train.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_image_contains_all_packages():
    """An image without one of them builds, and fails at its first command."""
    project = tomllib.loads((CLUSTERS.parents[1] / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    lines = [line.split() for line in (CLUSTERS / "Dockerfile").read_text().splitlines()]
    copied = {line[1] for line in lines if line[:1] == ["COPY"] and line[1:2] == line[2:]}
    assert packages | {"configs"} == copied


def test_cluster_file_is_valid_for_ray():
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = manifest("ray.yaml")
    validate_config(prepare_config(cluster))
    for start in (cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in start
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


STANDINS = {
    # Slow between two names, so that a reader that ends after the first one is detected (SIGPIPE, exit 141).
    "scontrol": """if [ "$1" = show ]; then echo n1; sleep 0.2; echo n2; else echo "scontrol $*" >> calls; fi""",
    "driftwork": """
        echo "driftwork $*" >> calls
        trap 'exit 75' TERM
        for argument in "$@"; do [ "$argument" = wait=1 ] && while true; do sleep 0.05; done; done
        exit ${CODE:-0}""",
    "srun": """
        echo "srun $*" >> calls
        stat -c %a "$RAY_AUTH_TOKEN_PATH" >> calls
        wc -c < "$RAY_AUTH_TOKEN_PATH" >> calls""",
}


@pytest.fixture
def job(tmp_path):
    """Start a script as Slurm would, with stand-ins for its commands, each of which records its arguments."""
    (tmp_path / "bin").mkdir()
    for name, does in STANDINS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "4"}

    def start(script, *arguments, **variables):
        environment = {**os.environ, **slurm, **variables, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.Popen(
            ["bash", CLUSTERS / script, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )

    return start


def calls(folder):
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


@pytest.mark.process
def test_slurm_trains_on_all_nodes_and_resumes(job, tmp_path):
    wide = "hostfile=run/hostfile hosts.ssh=srun --overlap --nodes=1 --ntasks=1 --export=ALL --nodelist"
    assert job("slurm_train.sh", "c.yaml", "data=d", "out=run", SLURM_GPUS_ON_NODE="8").wait() == 0
    assert (tmp_path / "run/hostfile").read_text() == "n1 slots=8\nn2 slots=8\n"
    (tmp_path / "run/config.yaml").touch()
    assert job("slurm_train.sh", "c.yaml", "data=d", "out=run", CODE="3").wait() == 3
    assert (tmp_path / "run/hostfile").read_text() == "n1 slots=4\nn2 slots=4\n"
    assert calls(tmp_path) == [f"driftwork train c.yaml data=d out=run {wide}", f"driftwork train resume=run {wide}"]
    nowhere = job("slurm_train.sh", "c.yaml", "data=d")
    assert nowhere.wait() == 2
    assert "give out=RUN" in nowhere.stderr.read()


@pytest.mark.process
def test_slurm_requeues_preempted_training(job, tmp_path):
    leaves = job("slurm_train.sh", "c.yaml", "data=d", "out=run", "wait=1")
    deadline = time.monotonic() + 600
    while not calls(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    leaves.send_signal(signal.SIGTERM)
    assert leaves.wait(60) == 75
    assert calls(tmp_path)[-1] == "scontrol requeue 7"


@pytest.mark.process
def test_slurm_prepares_with_a_job_token(job, tmp_path):
    assert job("slurm_prepare.sh", "c.yaml", "source=s", "out=o").wait() == 0
    ray = "ray symmetric-run --address n1:6379 --min-nodes 2 --num-cpus 4"
    assert calls(tmp_path) == [
        f"srun --nodes=2 --ntasks=2 {ray} -- driftwork prepare c.yaml source=s out=o address=auto",
        "600", "64", "driftwork verify o",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".ray_token*"))
