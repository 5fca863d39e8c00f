"""The order of imports between packages, and the only module that imports each heavy package."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.places import ROOT

MAY_IMPORT = {
    "driftwork": {"driftwork"},
    "models": {"models", "driftwork"},
    "pipeline": {"pipeline", "models", "driftwork"},
    "launch": {"launch", "pipeline", "models", "driftwork"},
}
ROOMS = {  # each room imports from itself and from those before it; "" is the modules beside the rooms
    "models": ("solvers", "parts", ""),
    "pipeline": ("", "shards", "reading", "readers", "fetch", "prepare"),
    "launch": (
        "job", "tracker", "checks", "runs", "scoring", "figures", "generation", "prediction", "evaluation", "tables",
        "serving", "planning", "training", "sweeps", "reports", "",
    ),
}  # fmt: skip
DOOR = ROOT / "driftwork/__init__.py"
"""The package file of `driftwork`, which imports `launch.api` when one of its names is first used, and nothing before.
"""
HEAVY = {
    "ray": {"pipeline/prepare/cluster.py"},
    "webdataset": {"pipeline/shards/shard_files.py"},
    "deepspeed": {"launch/training/engine.py"},
    "mlflow": {
        "launch/tracker/mlflow_store.py",
        "launch/serving/served_model.py",
    },  # MLflow runs the second, which raises its error
    "fsspec": {"pipeline/shards/storage.py"},
    "pyarrow": {
        f"pipeline/readers/tables/{name}.py" for name in ("arrow", "dataframes", "newtimes", "returned", "writing")
    },
    "s3fs": set(),  # only fsspec imports it
    "dm_control": {"pipeline/readers/simulated/hopper.py"},
    "numba": {"models/solvers/compiled.py"},
    "triton": {f"models/solvers/gpu/{loop}_triton.py" for loop in ("flow", "gru", "sde")},
    "llvmlite": {"models/solvers/compiled.py"},
    "torchdiffeq": {"models/solvers/ode.py"},
    "torchsde": {"models/solvers/sde.py"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def imported_modules(path):
    """Return the names of the modules that a file imports; `from a import b` is the module `a.b` if it exists."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = ROOT.joinpath(*node.module.split("."), f"{alias.name}.py")
                yield f"{node.module}.{alias.name}" if inner.exists() else node.module


def room(parts):
    return parts[0] if len(parts) > 1 else ""


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        for name in imported(path) if path != DOOR else ():
            top = name.split(".")[0]
            if top in MAY_IMPORT:
                assert top in MAY_IMPORT[package], f"{path} imports {name}"
            if top in HEAVY:
                assert str(path.relative_to(ROOT)) in HEAVY[top], f"{path} imports {name}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_from_a_later_one(package):
    order = ROOMS[package]
    for path in sorted((ROOT / package).rglob("*.py")):
        here = room(path.relative_to(ROOT / package).parts)
        for name in imported_modules(path):
            top, *rest = name.split(".")
            if top == package:
                assert order.index(room(tuple(rest))) <= order.index(here), f"{path} imports {name}"


def test_imports_have_no_circle():
    """Imports inside functions count too."""
    files = {module(path): path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")}
    graph = {name: {other for other in imported_modules(path) if other in files} for name, path in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests", "benchmarks"])
def test_files_and_folders_are_small(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 300, path
    for place in {path.parent for path in (ROOT / folder).rglob("*.py")}:
        modules = [path for path in place.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 15, f"{place} holds {len(modules)} modules"


def test_served_code_needs_only_models():
    """MLflow copies served code without the other packages."""
    ours = {name for name in imported(ROOT / "launch/serving/served_model.py") if name.split(".")[0] in MAY_IMPORT}
    assert {name.split(".")[0] for name in ours} == {"models", "driftwork"}


def test_package_files_are_empty():
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("__init__.py"):
            if path not in (ROOT / "launch/__init__.py", DOOR):
                assert path.read_text() == ""


@pytest.mark.process
def test_public_door_loads_nothing_before_it_is_used():
    script = "import sys; before = set(sys.modules); import driftwork; dir(driftwork); print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "{'driftwork'}"


def test_launch_package_file_imports_nothing():
    """`launch/__init__.py` corrects the import path of `python -m launch.x`, so that nothing is imported from the
    working folder."""
    assert set(imported(ROOT / "launch/__init__.py")) == {"os.path", "sys"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("modules", "without"),
    [
        (  # in one process, since torch takes seconds to load
            "launch.train, launch.evaluate, launch.sweep, pipeline.reading.stream",
            ["ray", "deepspeed", "mlflow", "fsspec", "triton"],
        ),
        ("pipeline.prepare.prepare", ["torch", "deepspeed", "mlflow", "fsspec"]),
        ("models.registry", ["ray", "deepspeed", "mlflow", "webdataset"]),
    ],
)
def test_each_half_runs_without_the_other(modules, without):
    block = "".join(f"sys.modules['{name}'] = None; " for name in without)
    subprocess.run([sys.executable, "-c", f"import sys; {block}import {modules}"], cwd=ROOT, check=True, timeout=120)
