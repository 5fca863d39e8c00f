"""Registry of all models by name. Add a new model here."""

from typing import Annotated

from driftwork.errors import AgreedError, DriftworkError
from driftwork.registry import Named, Registry
from models.base import Model
from models.baseline import BiGruOdeModel, GruOdeConfig, GruOdeModel
from models.ode2vae import Ode2Vae, Ode2VaeConfig
from models.parts.likelihoods import LikelihoodName, Marginal
from models.vsdn import VsdnVae, VsdnVaeConfig
from models.vsdn_sde import VsdnSde, VsdnSdeConfig

MODELS = Registry[Model]("model")
"""Models by name. Each is built from its config, the data's likelihood, and the marginal of the training split."""


def _gru_ode(config: GruOdeConfig, likelihood: LikelihoodName, marginal: Marginal) -> Model:
    kind = BiGruOdeModel if config.name == "bi_gru_ode" else GruOdeModel
    return kind(config, likelihood, marginal)


MODELS.add(VsdnVaeConfig, VsdnVae)
MODELS.add(VsdnSdeConfig, VsdnSde)
MODELS.add(GruOdeConfig, _gru_ode)
MODELS.add(Ode2VaeConfig, Ode2Vae)

ModelConfig = Annotated[Named, MODELS]


def build_model(config: Named, likelihood: LikelihoodName, marginal: Marginal) -> Model:
    """Build the model for data with this likelihood and marginal. Parameters are drawn from torch's global generator.

    Raises:
        DriftworkError: the likelihood does not suit the data, the data are a table and the model accepts none, or a
            parameter has no dimension.
    """
    model: Model = MODELS.make(config, likelihood, marginal)
    single = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if single:
        raise AgreedError(
            f"model.name={config.name}: parameter {single[0]} has no dimension, and DeepSpeed cannot send it to other "
            "ranks; make it a vector of one number, as in nn.Parameter(torch.zeros(1))"
        )
    if marginal.table is not None and not model.reads_entries:
        raise DriftworkError(
            f"model.name={config.name}: it reads whole frames, and these data are a table, whose channels are observed "
            "separately; choose a model with a config configs/train/MODEL_table.yaml"
        )
    return model
