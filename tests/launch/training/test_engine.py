import itertools
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file

from launch.job import launcher
from launch.training.engine import _Files, _without_pickle
from tests import rounding
from tests.datasets import write_rolls
from tests.launch.training.ranks import MODELS, STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Provide the weights after 12 steps, by (model, ZeRO stage, ranks)."""
    folder = tmp_path_factory.mktemp("engine")
    write_rolls(folder / "data")
    for world in (1, 2):
        code = launcher.start(
            "tests.launch.training.ranks", [str(folder / "data"), str(folder)], world, stdout=sys.stderr
        )
        assert code == 0
    weights = {
        key: load_file(folder / "{}-stage{}-of{}.safetensors".format(*key))
        for key in itertools.product(MODELS, STAGES, (1, 2))
    }
    accumulated = {
        key: load_file(folder / "accumulated-stage{}-of{}.safetensors".format(*key))
        for key in itertools.product(STAGES, (1, 2))
    }
    return {**weights, "accumulated": accumulated, "folder": folder}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("model", MODELS)
def test_one_rank_trains_like_two(trained, model, stage):
    one, two = trained[model, stage, 1], trained[model, stage, 2]
    assert one.keys() == two.keys()
    for name in one:
        tolerance = {"rtol": 1e-4, "atol": 0} if name == "norms" else {"rtol": 0, "atol": rounding.ADAM}
        torch.testing.assert_close(one[name], two[name], **tolerance, msg=name)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_train_like_whole_batch(trained, stage, world):
    whole, parts = trained["vsdn_vae", stage, world], trained["accumulated"][stage, world]
    assert whole.keys() == parts.keys()
    for name in whole:
        tolerance = {"rtol": 1e-4, "atol": 0} if name == "norms" else {"rtol": 0, "atol": rounding.ADAM}
        torch.testing.assert_close(parts[name], whole[name], **tolerance, msg=name)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("model", MODELS)
def test_one_rank_and_two_agree_under_autocast(trained, model, stage):
    """Each product of gradients is rounded to bfloat16, by at most u = 2^-9 of itself.

    A network is used twice. Each use has one product for the whole batch, or one on each of two ranks. Later sums are
    in float32."""
    one, two = (
        load_file(trained["folder"] / f"{model}-autocast-stage{stage}-of{world}.safetensors") for world in (1, 2)
    )
    for name, x in one.items():
        if not name.endswith("at most"):
            largest = max(float(found[f"{name} at most"]) for found in (one, two))
            torch.testing.assert_close(x, two[name], rtol=0, atol=2 * 3 * 2.0**-9 * largest, msg=name)


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("model", MODELS)
def test_zero_stage_does_not_change_the_result(trained, model, stage):
    for name, x in trained[model, 0, 2].items():
        if name != "norms":
            torch.testing.assert_close(x, trained[model, stage, 2][name], rtol=0, atol=rounding.ADAM, msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_norm_is_before_clipping(trained, model):
    assert trained[model, 0, 1]["norms"].max() > 0.5
    assert trained[model, 0, 1]["norms"].isfinite().all()


@pytest.mark.parametrize("size", [10, 100_000])
def test_full_disk_gives_its_own_reason(size):
    """torch's writer gives another reason if the disk fills up inside a tensor."""
    files = _Files()
    files.save({"weights": torch.zeros(size)}, "/dev/full")
    assert files.problem == "No space left on device"


class Foreign:
    """An object of a foreign checkpoint, whose code would run when it is read."""

    def __reduce__(self):
        return pytest.fail, ("it ran",)


def test_pickle_in_checkpoint_is_refused(tmp_path):
    torch.save({"optimizer_state_dict": Foreign()}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"), _without_pickle():
        torch.load(tmp_path / "state.pt", weights_only=False)
