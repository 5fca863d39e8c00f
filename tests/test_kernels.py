"""Models compute the same on older processors; `make test-kernels` runs more of these tests."""

import pytest

from tests import kernels


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("kernel", ["default", "avx2"])
def test_models_pass_with_older_kernels(kernel):
    if not kernels.available(kernel):
        pytest.skip(f"this processor has no {kernel}")
    done = kernels.run(kernel, 1, "-m", "not slow", "-k", "not finite_differences and not law", "tests/models")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.split()[1] == kernel.upper()
