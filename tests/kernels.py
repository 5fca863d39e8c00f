"""Run the numerical tests with the kernels of other processors: `python -m tests.kernels [KERNEL ...]`.

torch, MKL and numpy choose their kernels by the processor, and torch divides work by the number of threads; each choice
rounds differently. Environment variables select the kernels of an older processor.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.places import ROOT

NEWEST = "X86_V4 AVX512_ICL AVX512_SPR"
KERNELS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_DISABLE_CPU_FEATURES": f"X86_V3 {NEWEST}",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": NEWEST,
    },
    "best": {},
}
"""Environment variables of each kernel; `best` is the processor's own choice."""
THREADS = (1, 2)
NUMERICAL = (
    "tests/models",
    "tests/launch/training/test_engine.py",
    "tests/launch/scoring/test_estimates.py",
    "tests/launch/serving",
    "tests/launch/generation/test_generate.py",
    "tests/launch/generation/test_media.py",
    "tests/launch/scoring/test_scores.py",
    "tests/launch/evaluation/test_showcase.py",
    "tests/launch/evaluation/test_showcase_speech.py",
    "tests/pipeline/readers/simulated/test_bouncing_balls.py",
    "tests/pipeline/readers/test_mocap.py",
    "tests/pipeline/readers/test_rotating_mnist.py",
    "tests/pipeline/readers/test_skeleton.py",
    "tests/pipeline/shards/test_stats.py",
)
"""Files whose assertions depend on rounding."""
CHILD = """
import sys, pytest, torch
print(torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
sys.exit(pytest.main(sys.argv[1:]))
"""


def available(kernel: str) -> bool:
    """Return whether this processor has the instructions of a kernel."""
    flags = Path("/proc/cpuinfo")  # on Linux only
    return kernel != "avx2" or (flags.exists() and " avx2 " in flags.read_text())


def run(kernel: str, threads: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with these arguments in its own process. The first line of output gives torch's version, the kernels
    and the number of threads."""
    settings = {name for kernel in KERNELS.values() for name in kernel}
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    environment |= KERNELS[kernel] | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", CHILD, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def main(kernels: list[str]) -> int:
    failed = False
    for kernel in filter(available, kernels or KERNELS):
        for threads in THREADS:
            done = run(kernel, threads, "-m", "not ray", *NUMERICAL)
            failed = failed or done.returncode != 0
            if done.returncode != 0:
                print(done.stdout, done.stderr)
            print(f"{kernel}: torch {done.stdout.splitlines()[0]} threads: {done.stdout.splitlines()[-1]}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
