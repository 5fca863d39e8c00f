"""Small models of tables, and batches whose channels are observed separately."""

import torch

from models.baseline import GruOdeConfig
from models.batch import Batch
from models.ode2vae import Ode2VaeConfig
from models.parts.likelihoods import Marginal, TableForm
from models.registry import build_model
from models.vsdn import VsdnVaeConfig
from models.vsdn_sde import VsdnSdeConfig

D, S, T = 4, 2, 9
SIZES = {"latent": 3, "hidden": 6, "width": 8, "depth": 1, "max_step": 0.3}
SEEING = {**SIZES, "see_last": True, "see_gaps": True}
CONFIGS = {
    "gru_ode": GruOdeConfig(name="gru_ode", **SEEING),
    "gru_ode of a state alone": GruOdeConfig(name="gru_ode", **SIZES),
    "ode_rnn": GruOdeConfig(name="ode_rnn", **SEEING, likelihood="student_t"),
    "bi_gru_ode": GruOdeConfig(name="bi_gru_ode", **SEEING),
    "vsdn_vae": VsdnVaeConfig(name="vsdn_vae", **SEEING, see_next=True, held_out_fraction=0.5),
    "vsdn_vae_res": VsdnVaeConfig(name="vsdn_vae_res", **SEEING, prior_fraction=0.2, free_nats=0.1),
    "vsdn_sde": VsdnSdeConfig(name="vsdn_sde", **SEEING, see_next=True, held_out_fraction=0.5, substeps=2),
    "vsdn_sde_res": VsdnSdeConfig(name="vsdn_sde_res", **SEEING, prior_fraction=0.2),
    "gru_ode from neighbours": GruOdeConfig(name="gru_ode", **SEEING, from_neighbours=True),
    "bi_gru_ode from neighbours": GruOdeConfig(name="bi_gru_ode", **SEEING, from_neighbours=True),
    "vsdn_vae from neighbours": VsdnVaeConfig(
        name="vsdn_vae", **SEEING, see_next=True, held_out_fraction=0.5, from_neighbours=True
    ),
    "vsdn_sde from neighbours": VsdnSdeConfig(name="vsdn_sde", **SEEING, see_next=True, from_neighbours=True),
}
FORECASTERS = {
    "ode2vae": Ode2VaeConfig(
        name="ode2vae", latent=2, field_width=5, encoder_width=6, decoder_width=6, velocity_frames=4, gamma=0.1,
        solver={"max_step": 0.3},
    ),
    "neural_ode": Ode2VaeConfig(
        name="neural_ode", latent=2, field_width=5, encoder_width=6, decoder_width=6, velocity_frames=4,
        variance="none", time_unit=0.5,
    ),
}  # fmt: skip
MARGINAL = Marginal(
    torch.tensor([0.3, 20.0, -1.0, 0.0]), torch.tensor([0.45, 9.0, 0.1, 1.0]), 10,
    TableForm(("alarm", "pulse", "ph", "level"), (True, False, False, False), S),
)  # fmt: skip
"""Moments of a table with a binary channel and two static covariates."""


def small(name, marginal=MARGINAL):
    torch.manual_seed(1)
    return build_model({**CONFIGS, **FORECASTERS}[name], "gaussian", marginal).double()


def make_batch(B=3, share=0.4, seed=0, together=False):
    """Return sequences of different lengths at irregular times. Entries are present with probability 0.8, and a
    fraction of about `share` of these are observed. With `together`, all channels of a frame are observed alike."""
    g = torch.Generator().manual_seed(seed)
    times = torch.rand(B, T, generator=g, dtype=torch.float64).mul(0.5).add(0.01).cumsum(1)
    lengths = torch.tensor([T, T - 2, T - 4])[:B]
    there = torch.arange(T) < lengths[:, None]
    times = times - times[:, :1]
    times = torch.minimum(times, times.gather(1, lengths[:, None] - 1))
    shape = (B, T, 1) if together else (B, T, D)
    present = (torch.rand(shape, generator=g) < (1.1 if together else 0.8)).expand(B, T, D) & there[..., None]
    observed = (torch.rand(shape, generator=g) < share).expand(B, T, D) & present
    observed = observed | (present & (torch.arange(T) == 2)[:, None])
    values = MARGINAL.mean + MARGINAL.scale * torch.randn(B, T, D, generator=g, dtype=torch.float64)
    values[..., 0] = (values[..., 0] > 0.3).double()
    values = torch.where(present, values, 0.0)
    static = torch.randn(B, S, generator=g, dtype=torch.float64)
    keys, seed_of_row = tuple("abc"[:B]), torch.arange(B) * 7919 + 11
    return Batch(times, values, present, observed, torch.ones(B), seed_of_row, keys, keys, static)
