import pytest
import torch

from models.baseline import GruOdeConfig
from models.batch import Batch
from models.parts.likelihoods import Marginal
from models.registry import build_model
from models.vsdn import VsdnVaeConfig
from models.vsdn_sde import VsdnSdeConfig

SIZES = {"latent": 3, "hidden": 6, "width": 8, "depth": 1}
DEEP = SIZES | {"depth": 2}
WIDE = SIZES | {"latent": 7}
WAVES = SIZES | {"see_last": True, "see_next": True, "gain_shape": True}
CONFIGS = {
    "vsdn_vae": VsdnVaeConfig(name="vsdn_vae", **DEEP, see_last=True, free_nats=0.5, held_out_fraction=0.5),
    "vsdn_vae_res": VsdnVaeConfig(
        name="vsdn_vae_res", **SIZES, max_step=0.15, held_out_fraction=0.5, prior_fraction=0.2, see_gaps=True
    ),
    "vsdn_sde": VsdnSdeConfig(name="vsdn_sde", **DEEP, see_last=True, free_nats=0.1),
    "vsdn_sde_res": VsdnSdeConfig(
        name="vsdn_sde_res", **SIZES, max_step=0.15, samples=2, prior_fraction=0.2, see_gaps=True
    ),
    "vsdn_vae of waves": VsdnVaeConfig(name="vsdn_vae", **WAVES, held_out_fraction=0.5, held_out_beta=0.5),
    "vsdn_sde of waves": VsdnSdeConfig(name="vsdn_sde", **WAVES),
    "gru_ode": GruOdeConfig(name="gru_ode", **DEEP, see_last=True),
    "ode_rnn": GruOdeConfig(name="ode_rnn", **SIZES, max_step=0.15, see_gaps=True),
    "ode_rnn, deep": GruOdeConfig(name="ode_rnn", **SIZES, flow_depth=2, flow_width=5, flow_activation="elu"),
    "bi_gru_ode": GruOdeConfig(name="bi_gru_ode", **DEEP, see_last=True, see_gaps=True),
    "vsdn_vae from neighbours": VsdnVaeConfig(
        name="vsdn_vae", **WIDE, see_gaps=True, see_next=True, held_out_fraction=0.5, from_neighbours=True
    ),
    "bi_gru_ode from neighbours": GruOdeConfig(name="bi_gru_ode", **SIZES, from_neighbours=True),
}
D = 5


@pytest.fixture(params=CONFIGS)
def model(request):
    """Provide each registered model, small, in float64."""
    return small(request.param)


@pytest.fixture(params=[name for name in CONFIGS if not name.startswith("bi_gru_ode")])
def dynamics(request):
    """Provide each model that predicts and has a density."""
    return small(request.param)


def small(name):
    torch.manual_seed(1)
    real = CONFIGS[name].gain_shape or CONFIGS[name].from_neighbours
    likelihood = "gaussian" if real else "bernoulli"
    return build_model(CONFIGS[name], likelihood, Marginal(torch.full((D,), 0.3), 0.45)).double()


@pytest.fixture(params=["regular", "irregular"])
def batch(request):
    return make_batch(irregular=request.param == "irregular")


def make_batch(B=3, T=17, irregular=False, share=0.4, seed=0):
    """Return binary sequences of different lengths, with a random part of the frames observed."""
    g = torch.Generator().manual_seed(seed)
    if irregular:
        times = torch.rand(B, T, generator=g, dtype=torch.float64).mul(0.5).add(0.01).cumsum(1)
        times = times - times[:, :1]
    else:
        times = (torch.arange(T, dtype=torch.float64) * 0.2).expand(B, T).contiguous()
    lengths = torch.tensor([T, T - 4, T - 9])[:B]
    present = torch.arange(T) < lengths[:, None]
    times = torch.minimum(times, times.gather(1, lengths[:, None] - 1))
    observed = present & (torch.rand(B, T, generator=g) < share)
    observed[:, 2] = True
    values = (torch.rand(B, T, D, generator=g) < 0.3).double() * present[..., None]
    return Batch(times, values, present, observed, torch.ones(B), torch.arange(B) * 7919 + 11, tuple("abc"[:B]))
