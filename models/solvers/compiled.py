"""Compile loops by numba, and the vector functions inside them. This is the only module that imports numba.

numba compiles a function at its first call, for the processor it runs on, and keeps the machine code on disk. It gets
no fast-math flag. If it could fuse products and sums, its choice would depend on what it inlines, and a process that
loads the code would differ by a rounding from the one that compiled it. `multiply_add` and the products are fused.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from models.solvers import packing
from models.solvers.packing import LANES

Floats = NDArray[np.float32]

TANH, ELU, RELU = range(3)
_F = TypeVar("_F", bound=Callable[..., Any])


def jit(function: _F, **wrappers: bool) -> _F:
    """Compile a function at its first call, or load it from the cache on disk."""
    # numba looks at one source file, and counts the entries of its index from 1 in each process. This name makes a file
    # of its own for each version of this module and of `packing`, and for each processor that shares a folder.
    function.__qualname__ += f"_{_VERSION}"
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, **wrappers}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder can be written
        return numba.njit(function, **options)


def inner(function: _F) -> _F:
    """Compile a function that only compiled functions call. Without a form for Python it compiles in less time."""
    return jit(function, no_cpython_wrapper=True)


_PROCESSOR = numba.config.CPU_NAME or binding.get_host_cpu_name()
_SOURCES = b"".join(Path(file).read_bytes() for file in (__file__, packing.__file__))
_VERSION = hashlib.sha256(_SOURCES + _PROCESSOR.encode()).hexdigest()[:8]


_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, which its last bits then hold
_LOWEST = np.float32(-87.0)
_ONE, _TWO, _ZERO, _HALF = np.float32(1), np.float32(2), np.float32(0), np.float32(0.5)
_C = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_C0, _C1, _C2, _C3, _C4, _C5 = _C


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, float32, rounded once where the processor can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.FloatType()
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number] * 3), "llvm.fmuladd.f32")
        return builder.call(fma, arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@inner
def expm1(x: np.float32) -> np.float32:
    """Return e^x - 1 for x <= 0, float32. x = n ln 2 + r with |r| <= ln(2) / 2; a polynomial (Cephes) gives e^r - 1."""
    x = _LOWEST if x < _LOWEST else x
    shifted = multiply_add(x, _LOG2E, _ROUND)
    n = shifted - _ROUND
    power = np.int32((np.float32(shifted).view(np.int32) + 127) << 23).view(np.float32)  # 2^n
    r = multiply_add(n, -_LN2_LOW, multiply_add(n, -_LN2_HIGH, x))
    p = _C0
    p = multiply_add(p, r, _C1)
    p = multiply_add(p, r, _C2)
    p = multiply_add(p, r, _C3)
    p = multiply_add(p, r, _C4)
    p = multiply_add(p, r, _C5)
    return multiply_add(power, multiply_add(r * r, p, r), power - _ONE)


@inner
def tanh(x: np.float32) -> np.float32:
    """Return tanh x, as -m / (m + 2) with m = e^(-2 |x|) - 1 and the sign of x."""
    m = expm1(-_TWO * abs(x))
    t = -m / (m + _TWO)
    return -t if x < _ZERO else t


@inner
def sigmoid(x: np.float32) -> np.float32:
    """Return the logistic function of x: 1 / (1 + e) for x > 0 and e / (1 + e) for x <= 0, with e = e^(-|x|)."""
    e = expm1(-abs(x)) + _ONE
    return (e if x <= _ZERO else _ONE) / (_ONE + e)


@jit
def activate(x: Floats, kind: int) -> None:
    """Apply the activation function to the vector x in place."""
    if kind == TANH:
        for i in range(len(x)):
            x[i] = tanh(x[i])
    elif kind == ELU:
        for i in range(len(x)):
            v = x[i]
            x[i] = v if v > _ZERO else expm1(_ZERO if v > _ZERO else v)
    else:
        for i in range(len(x)):
            x[i] = _ZERO if x[i] < _ZERO else x[i]


@jit
def slopes(a: Floats, out: Floats, kind: int) -> None:
    """Write the derivative of the activation function to out, at the point where its value is a."""
    if kind == TANH:
        for i in range(len(a)):
            out[i] = _ONE - a[i] * a[i]
    elif kind == ELU:
        for i in range(len(a)):
            out[i] = (_ZERO if a[i] > _ZERO else a[i]) + _ONE
    else:
        for i in range(len(a)):
            out[i] = _ONE if a[i] > _ZERO else _ZERO


@inner
def copy(out: Floats, x: Floats) -> None:
    """Write the first entries of x to all of out."""
    for i in range(len(out)):
        out[i] = x[i]


@inner
def fill(out: Floats) -> None:
    """Set all entries to 0."""
    for i in range(len(out)):
        out[i] = 0


@inner
def spread(rows: Floats, vector: Floats) -> None:
    """Write the vector to each row."""
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            rows[i, j] = vector[j]


@inner
def add(out: Floats, x: Floats) -> None:
    """Add x to the first entries of out."""
    for j in range(len(x)):
        out[j] += x[j]


@intrinsic
def add_product(typing: Any, y: Any, A: Any, x: Any) -> Any:
    """Add A x to y: y[16 t + l] += sum_j A[t, j, l] x[j], for a packed A [tiles, rows, 16]."""
    return types.void(y, A, x), _product(1)


@intrinsic
def add_products(typing: Any, y: Any, A: Any, x: Any) -> Any:
    """Add A x to y for each of ROWS vectors x and y, [ROWS, n] each."""
    return types.void(y, A, x), _product(ROWS)


ROWS = 8
"""Number of vectors that `add_products` multiplies at once, so that each number of A is loaded once for all."""


def _product(vectors: int) -> Any:
    """Return the code generator of the product for `vectors` vectors.

    The sums of a tile stay in vector registers; loops over arrays would store them after each row. For one vector, four
    sums run side by side."""
    chains = 4 if vectors == 1 else 1

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        y, A, x = (context.make_array(t)(context, builder, v) for t, v in zip(signature.args, arguments, strict=True))
        vector, index = ir.VectorType(ir.FloatType(), LANES), cgutils.intp_t
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        tiles, rows, _ = cgutils.unpack_tuple(builder, A.shape)
        width = builder.mul(tiles, ir.Constant(index, LANES))
        totals = [[cgutils.alloca_once(builder, vector) for _ in range(chains)] for _ in range(vectors)]

        def at(pointer: Any, *terms: Any) -> Any:
            for term in terms:
                pointer = builder.gep(pointer, [term])
            return pointer

        def vector_at(pointer: Any, *terms: Any) -> Any:
            return builder.bitcast(at(pointer, *terms), vector.as_pointer())

        def times(n: Any, factor: int) -> Any:
            return builder.mul(n, ir.Constant(index, factor))

        with cgutils.for_range(builder, tiles) as tile:
            first = times(builder.mul(tile.index, rows), LANES)
            to = [vector_at(y.data, times(tile.index, LANES), times(width, i)) for i in range(vectors)]
            for address, sums in zip(to, totals, strict=True):
                builder.store(builder.load(address, align=4), sums[0])
                for total in sums[1:]:
                    builder.store(ir.Constant(vector, [0.0] * LANES), total)
            with cgutils.for_range(builder, builder.sdiv(rows, ir.Constant(index, chains))) as block:
                for chain in range(chains):
                    row = builder.add(times(block.index, chains), ir.Constant(index, chain))
                    a = builder.load(vector_at(A.data, first, times(row, LANES)), align=4)
                    for i in range(vectors):
                        x_j = builder.load(at(x.data, row, times(rows, i)))
                        one = builder.insert_element(ir.Constant(vector, ir.Undefined), x_j, ir.Constant(index, 0))
                        spread = builder.shuffle_vector(one, one, all_lanes)
                        total = totals[i][chain]
                        builder.store(builder.call(fma, [a, spread, builder.load(total)]), total)
            for address, sums in zip(to, totals, strict=True):
                values = [builder.load(total) for total in sums]
                while len(values) > 1:
                    values = [builder.fadd(u, v) for u, v in zip(values[::2], values[1::2], strict=True)]
                builder.store(values[0], address, align=4)
        return context.get_dummy_value()

    return generate
