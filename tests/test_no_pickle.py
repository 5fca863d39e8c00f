"""No code reads pickles, evaluates text, or lets archives extract their own files."""

import ast
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from driftwork.errors import DriftworkError
from driftwork.files import sha256
from pipeline.observe import ObservationConfig
from pipeline.shards.manifest import MANIFEST
from pipeline.shards.verify import verify
from tests.datasets import write_rolls
from tests.places import ROOT

PACKAGES = ("models", "pipeline", "launch", "benchmarks")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "shutil.unpack_archive"}
METHODS = {"extract", "extractall"}
"""Methods of tar and zip files that extract members."""
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def faults(source: str) -> list[str]:
    """Return the calls in a module that could load a pickle, run text, or extract an archive's own paths."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"from {node.module} import")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            needed = NEEDED.get(name)
            if name in CALLS or (name.split(".")[-1] in METHODS and "." in name):
                found.append(name)
            elif (needed and given.get(needed[0]) is not needed[1]) or given.get("allow_pickle", False) is not False:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle", "from pickle import loads", "import joblib", "eval(text)", "yaml.load(text, Loader)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)",
        "np.load(path)", "np.load(path, allow_pickle=True)", "np.lib.format.read_array(f, allow_pickle=True)",
        "tar.extractall(folder)",
        "tarfile.open(path).extract(member)", "shutil.unpack_archive(path)",
    ],
)  # fmt: skip
def test_scan_finds_each_fault(bad):
    assert faults(bad)


def test_no_module_loads_pickles_or_runs_text():
    assert len(SOURCES) > 80
    fine = "model.eval()\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\nnp.save(f, x, allow_pickle=False)"
    assert not faults(fine)
    found = {str(path.relative_to(ROOT)): faults(path.read_text()) for path in SOURCES}
    assert {path: bad for path, bad in found.items() if bad} == {}


class Exploit:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("extension", ["pkl", "pickle", "pth", "pt", "pyd"])
def test_every_reader_of_shards_refuses_a_pickle(tmp_path, extension):
    """The pickle is in the first sample, with a matching manifest."""
    from pipeline.reading.stream import Stream

    data, pwned = tmp_path / "data", tmp_path / "pwned"
    manifest, _ = write_rolls(data, D=4, T=8, train=(1,), val=(1,), test=(1,))
    first, *others = manifest.shards
    path = data / first.file
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    info = tarfile.TarInfo(f"{members[0][0].name.split('.')[0]}.{extension}")
    content = pickle.dumps(Exploit(pwned))
    info.size = len(content)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, inside in [*members, (info, content)]:
            tar.addfile(member, io.BytesIO(inside))
    mended = first.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256(path)})
    manifest = manifest.model_copy(update={"shards": (mended, *others)})
    (data / MANIFEST).write_bytes(manifest.encode())
    stream = Stream(
        data,
        manifest,
        "train",
        ObservationConfig(pattern="regular", ratios=(0.5,)),
        batch_size=1,
        seed=0,
        shuffle=False,
    )
    for read in (lambda: verify(data), lambda: next(stream.epoch(0))):
        with pytest.raises(DriftworkError, match=f"{first.file}: sample 0 is damaged or foreign: member .*{extension}"):
            read()
    assert not pwned.exists()
    pickle.loads(content)
    assert pwned.exists(), "the pickle would have done nothing"
