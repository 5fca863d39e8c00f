"""The likelihoods that a config names for the channels of a table."""

import pytest
import torch

from driftwork.errors import DriftworkError
from models.parts import likelihood_choice
from models.parts.gain_shape import GainShapeGaussian
from models.parts.likelihoods import Bernoulli, Gaussian, Marginal, TableForm
from models.parts.table_likelihoods import LikelihoodByChannel, StudentT

FRAMES = Marginal(torch.tensor([0.5, 20.0, 0.1, -3.0]), 2.0)
TABLE = FRAMES._replace(
    scale=torch.tensor([0.5, 9.0, 0.3, 1.0]),
    table=TableForm(("on", "pulse", "died", "ph"), (True, False, True, False), static=0),
)


def chosen(name=None, data="gaussian", marginal=TABLE, gain_shape=False, **channels):
    return likelihood_choice.likelihood(name, data, marginal, gain_shape, channels)


def test_binary_channels_of_a_table_take_bernoulli():
    found = chosen()
    assert isinstance(found, LikelihoodByChannel)
    assert [type(part) for part in found.parts] == [Bernoulli, Gaussian]
    assert [at.tolist() for at in found.channels] == [[0, 2], [1, 3]]
    torch.testing.assert_close(found.expectation(found.of_marginal()), TABLE.mean)
    assert isinstance(chosen(data="bernoulli"), Bernoulli)
    assert isinstance(chosen(marginal=FRAMES), Gaussian)
    assert isinstance(chosen(marginal=FRAMES, gain_shape=True), GainShapeGaussian)


def test_named_channels_take_their_likelihood():
    found = chosen("student_t", gaussian=("ph", "on"))
    assert [(type(part), at.tolist()) for part, at in zip(found.parts, found.channels, strict=True)] == [
        (Gaussian, [0, 3]), (StudentT, [1]), (Bernoulli, [2]),
    ]  # fmt: skip


class Whole(Gaussian):
    """A likelihood of whole frames, in the form before tables existed."""

    def log_prob(self, parameters, y):
        return super().log_prob(parameters, y)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"student_t": ("puls",)}, "no channel 'puls'; choose among on, pulse, died, ph"),
        ({"bernoulli": ("pulse",)}, "channel 'pulse' has other values than 0 and 1"),
        ({"student_t": ("ph",), "gaussian": ("pulse", "ph")}, "channel 'ph' has two likelihoods; name it once"),
        ({"gain_shape": True}, "frames of a table have no gain"),
        ({"student_t": ("ph",), "marginal": FRAMES}, "not a table with named channels"),
        ({"name": "bernoulli"}, "it is for bernoulli data"),
        ({"name": "whole"}, "its log_prob takes no mask of channels"),
    ],
)
def test_impossible_likelihood_is_refused(arguments, error, monkeypatch):
    monkeypatch.setitem(likelihood_choice.LIKELIHOODS, "whole", likelihood_choice.Choice(Whole, "gaussian"))
    with pytest.raises(DriftworkError, match=error) as caught:
        chosen(**arguments)
    assert "\n" not in str(caught.value)


def test_likelihood_without_a_mask_serves_whole_frames(monkeypatch):
    monkeypatch.setitem(likelihood_choice.LIKELIHOODS, "whole", likelihood_choice.Choice(Whole, "gaussian"))
    assert isinstance(chosen("whole", marginal=FRAMES), Whole)
