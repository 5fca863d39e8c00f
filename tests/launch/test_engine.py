import sys

import pytest
import torch
from safetensors.torch import load_file

from launch import launcher
from tests.datasets import write_rolls

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights after 20 steps at every ZeRO stage, on one rank and on two: {(stage, ranks): tensors}."""
    folder = tmp_path_factory.mktemp("engine")
    write_rolls(folder / "data")
    for world in (1, 2):
        code = launcher.start("tests.launch.ranks", [str(folder / "data"), str(folder)], world, stdout=sys.stderr)
        assert code == 0
    return {
        (stage, world): load_file(folder / f"stage{stage}-of{world}.safetensors")
        for stage in (0, 1, 2)
        for world in (1, 2)
    }


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_one_rank_with_the_whole_batch_trains_as_two_with_half_each(trained, stage):
    one, two = trained[stage, 1], trained[stage, 2]
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage", [1, 2])
def test_what_zero_divides_among_the_ranks_does_not_change_the_result(trained, stage):
    for name, x in trained[0, 2].items():
        torch.testing.assert_close(x, trained[stage, 2][name], rtol=0, atol=1e-5, msg=name)


def test_training_moved_the_weights_and_the_norm_is_that_before_clipping(trained):
    assert trained[0, 1]["norms"].max() > 0.5
    assert trained[0, 1]["norms"].isfinite().all()
