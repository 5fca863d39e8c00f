"""The compiled vector functions against double precision, and the cache on disk."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.solvers import compiled
from models.solvers.packing import LANES, pack, pad, padded
from tests.places import ROOT

EPS = np.finfo(np.float32).eps
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)


def magnitudes():
    """Return numbers of both signs, from the smallest that matter to those at which all functions reach their
    limits."""
    positive = np.logspace(-30, 2.5, 40_000)
    return np.concatenate([-positive, positive, SPECIAL]).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        (compiled.TANH, np.tanh),
        (compiled.ELU, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
        (compiled.RELU, lambda x: np.maximum(x, 0)),
    ],
    ids=["tanh", "elu", "relu"],
)
def test_activations_match_double_precision(kind, exact):
    """The bounds count roundings; |r| <= 0.35.

    - e^r - 1 = r + r^2 p(r) is off by less than 2 eps. The sum is rounded by eps / 2. The term r^2 p is at most a
      quarter of it and has 6 roundings. r has an error of half a unit in n ln 2.
    - Multiplying by 2^n and adding 2^n - 1 contribute 1 eps.
    - tanh = -m / (m + 2) has at most the relative error of m, and two roundings: 4 eps."""
    x = magnitudes()
    found = x.copy()
    compiled.activate(found, kind)
    np.testing.assert_allclose(found, exact(x.astype(np.float64)), rtol=4 * EPS, atol=np.finfo(np.float32).tiny)


@pytest.mark.parametrize("kind", [compiled.TANH, compiled.ELU, compiled.RELU])
def test_slopes_match_finite_differences(kind):
    x = np.linspace(-4, 4, 1000).astype(np.float32)  # even number of points: none at the kink of relu
    a, slope = x.copy(), np.empty_like(x)
    compiled.activate(a, kind)
    compiled.slopes(a, slope, kind)
    h = np.float32(2**-9)
    up, down = x + h, x - h
    compiled.activate(up, kind)
    compiled.activate(down, kind)
    # The third derivative of each is at most 2, so that the difference is off by 2 h^2 / 6, and by 8 eps / (2 h).
    near_kink = np.abs(x) <= h
    np.testing.assert_allclose(
        slope[~near_kink], ((up - down) / (2 * h))[~near_kink], rtol=0, atol=float(h) ** 2 / 3 + 8 * EPS / (2 * h)
    )


@compiled.jit
def add_product(y, A, x):
    compiled.add_product(y, A, x)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 30), (16, 16), (30, 30), (100, 33)])
def test_product_matches_double_precision(rows, columns):
    g = np.random.default_rng(0)
    matrix, x, y = (g.standard_normal(shape).astype(np.float32) for shape in ((rows, columns), rows, columns))
    out = pad(torch.from_numpy(y)).numpy()
    add_product(out, pack(torch.from_numpy(matrix)).numpy(), pad(torch.from_numpy(x)).numpy())
    exact = y + x.astype(np.float64) @ matrix
    bound = EPS * (rows + 1) * (np.abs(y) + np.abs(x) @ np.abs(matrix))  # a rounding of each partial sum
    assert (np.abs(out[:columns] - exact) <= bound).all()
    assert (out[columns:] == 0).all()
    assert len(out) == padded(columns)
    assert len(out) % LANES == 0


CHILD = """
import hashlib
import torch
from models.solvers import compiled, recurrence_kernels
from tests.models.conftest import make_batch, small
model, batch = small("vsdn_vae").float(), make_batch()
batch = batch._replace(values=batch.values.float())
model(batch, 1.0).loss.sum().backward()
gradients = b"".join(p.grad.numpy().tobytes() for p in model.parameters() if p.grad is not None)
print(sum(recurrence_kernels.backward.stats.cache_hits.values()), hashlib.sha256(gradients).hexdigest())
"""


def child(**environment):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )


def result(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    hits, values = out.split()
    return int(hits), values


@pytest.mark.process
@pytest.mark.slow
def test_ranks_share_a_fresh_cache(tmp_path):
    """Two processes compile at once; a third loads the result. All compute the same gradients to the last bit, without
    which a run that is resumed would differ from one that was not interrupted."""
    together = [child(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    first = [result(process) for process in together]
    later = result(child(NUMBA_CACHE_DIR=str(tmp_path)))
    assert later[0] == 1
    assert {values for _, values in (*first, later)} == {later[1]}


@pytest.mark.process
@pytest.mark.slow
def test_loops_work_without_a_cache_folder(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    hits, _ = result(child(NUMBA_CACHE_DIR=str(blocked / "x"), NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator"))
    assert hits == 0
