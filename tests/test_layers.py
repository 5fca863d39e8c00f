"""The arrows between the packages, and the one module that each heavy package is touched in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"models": {"models"}, "pipeline": {"pipeline", "models"}, "launch": {"launch", "pipeline", "models"}}
HEAVY = {
    "ray": {"pipeline/cluster.py"},
    "webdataset": {"pipeline/shards.py"},
    "deepspeed": {"launch/training/engine.py"},
    "mlflow": {"launch/tracker/mlflow_store.py", "launch/served.py"},  # MLflow runs the second, which raises its error
    "fsspec": {"pipeline/storage.py"},
    "s3fs": set(),  # by fsspec alone
    "torchdiffeq": {"models/ode.py"},
    "torchsde": {"models/sde.py"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way_and_heavy_packages_have_one_door(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        for name in imported(path):
            top = name.split(".")[0]
            if top in MAY_IMPORT:
                assert top in MAY_IMPORT[package], f"{path} imports {name}"
            if top in HEAVY:
                assert str(path.relative_to(ROOT)) in HEAVY[top], f"{path} imports {name}"


def test_what_is_served_needs_models_alone():
    """MLflow copies it without the rest."""
    ours = {name for name in imported(ROOT / "launch/served.py") if name.split(".")[0] in MAY_IMPORT}
    assert {name.split(".")[0] for name in ours} == {"models"}


def test_package_files_are_empty_so_that_importing_one_module_loads_no_other():
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("__init__.py"):
            if path != ROOT / "launch/__init__.py":
                assert path.read_text() == ""


def test_the_one_package_file_that_is_not_empty_loads_nothing():
    """It mends the search path of `python -m launch.x`, so that nothing can be imported from the working folder."""
    assert set(imported(ROOT / "launch/__init__.py")) == {"os.path", "sys"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("modules", "without"),
    [
        (  # in one process, for torch takes seconds to load
            "launch.train, launch.evaluate, launch.sweep, pipeline.stream",
            ["ray", "deepspeed", "mlflow", "fsspec"],
        ),
        ("pipeline.prepare", ["torch", "deepspeed", "mlflow", "fsspec"]),
        ("models.registry", ["ray", "deepspeed", "mlflow", "webdataset"]),
    ],
)
def test_a_half_runs_without_what_only_the_other_needs(modules, without):
    block = "".join(f"sys.modules['{name}'] = None; " for name in without)
    subprocess.run([sys.executable, "-c", f"import sys; {block}import {modules}"], cwd=ROOT, check=True, timeout=120)
