"""Compare our loops over time with the same loops in JAX: `python -m benchmarks.jax_peers`. It needs the extra `jax`.

Each loop runs forward and backward on the same numbers, and all outputs and gradients are compared first. JAX
compiles the forms in `loops`, of which the fastest is taken. Everything runs on one thread. Times are processor
seconds, measured in turn in this process. A ratio is JAX's time divided by ours.
"""

import importlib.util
import os
import statistics
import sys

from benchmarks.measure import Ratio

THREADS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def main() -> int:
    if importlib.util.find_spec("jax") is None:
        print("JAX peers: left out, the jax extra is not installed (pip install -e '.[jax]')")
        return 0
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {THREADS}".strip()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # XLA counts the cores that a process may use
    from benchmarks.jax_peers import cases  # reads the settings above

    missed = 0
    for case in cases.ALL:
        ours, theirs, form = case.measure()
        ratio = Ratio.of(ours, theirs)
        required = f"; required: at least {case.least:g}" if case.least else ""
        mine, other = (1e3 * statistics.median(times) for times in (ours, theirs))
        print(
            f"{case.name}: {mine:.1f} ms, JAX {other:.1f} ms ({form}), "
            f"ratio {ratio.median:.2f} (medians of {len(ours)} pairs, {ratio.low:.2f} to {ratio.high:.2f}{required})",
            flush=True,
        )
        missed += case.least is not None and ratio.misses(case.least)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
