import pytest
import torch


@pytest.fixture
def deterministic():
    """Fill new memory with NaN, so that it does not hold the results of an earlier trial."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
