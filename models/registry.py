"""Registry of all models by name. Add a new model here."""

from typing import Annotated

from pydantic import Field

from models.base import Model
from models.baseline import BiGruOdeModel, GruOdeConfig, GruOdeModel
from models.ode2vae import Ode2Vae, Ode2VaeConfig
from models.parts.likelihoods import LikelihoodName, Marginal
from models.vsdn import VsdnVae, VsdnVaeConfig
from models.vsdn_sde import VsdnSde, VsdnSdeConfig

ModelConfig = Annotated[VsdnVaeConfig | VsdnSdeConfig | GruOdeConfig | Ode2VaeConfig, Field(discriminator="name")]


def build_model(config: ModelConfig, likelihood: LikelihoodName, marginal: Marginal) -> Model:
    """Build the model for data with this likelihood and marginal. Parameters are drawn from torch's global
    generator."""
    match config:
        case VsdnVaeConfig():
            return VsdnVae(config, likelihood, marginal)
        case VsdnSdeConfig():
            return VsdnSde(config, likelihood, marginal)
        case GruOdeConfig(name="bi_gru_ode"):
            return BiGruOdeModel(config, likelihood, marginal)
        case GruOdeConfig():
            return GruOdeModel(config, likelihood, marginal)
        case Ode2VaeConfig():
            return Ode2Vae(config, likelihood, marginal)
