"""Models compute the same on older processors; `make test-kernels` runs more of these tests."""

import pytest

from tests import kernels

OTHER_BOUNDS = "finite_differences or law or follow or unbiased or prior_term or root_of_the_particles or order_one"
"""Words in the names of long tests whose bounds are standard errors or step sizes, far above rounding."""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("kernel", ["default", "avx2"])
def test_models_pass_with_older_kernels(kernel):
    if not kernels.available(kernel):
        pytest.skip(f"this processor has no {kernel}")
    done = kernels.run(kernel, 1, "-m", "not slow and not process", "-k", f"not ({OTHER_BOUNDS})", "tests/models")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.split()[1] == kernel.upper()
