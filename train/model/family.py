"""The family: which model and which objective each of its members is made of.

To add a member: a `FusionModel` (or one that is there), an `Objective`, a name in `amma.train.model.config`, which says
too which settings it uses, and a line here. Nothing else asks which member it has before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from amma.manifests.table import Modality
from amma.train.model.config import Family, ModelConfig, ObjectiveConfig
from amma.train.model.fusion import FusionModel
from amma.train.model.objective import Gather, Objective, alone


@dataclass(frozen=True, slots=True)
class Member:
    """The classes of a member as `module:Class`; they are imported when one is made."""

    model: str
    objective: str


_AUTOENCODER = Member("amma.train.model.amma:AMMA", "amma.train.model.reconstruction:Reconstruction")

FAMILY: dict[Family, Member] = {
    "asymmetric": _AUTOENCODER,
    "symmetric": _AUTOENCODER,
    "no-auxiliary": _AUTOENCODER,
    "contrastive": Member("amma.train.model.contrastive:Contrastive", "amma.train.model.contrast:Contrast"),
}
"""The first three differ in what their decoders see: `amma.train.model.amma.DECODER_SOURCES`."""


def make_model(config: ModelConfig, widths: Mapping[Modality, int]) -> FusionModel:
    """A model with fresh weights from torch's global generator; `widths` are those of the store's features."""
    model: FusionModel = _load(FAMILY[config.family].model)(config, widths)
    return model


def make_objective(family: Family, config: ObjectiveConfig | None = None, gather: Gather = alone) -> Objective:
    """What a member is trained for; `gather` where its batches are spread over ranks."""
    return objective_class(family)(config, gather)


def objective_class(family: Family) -> type[Objective]:
    """The class of a member's objective, for what is known of it before anything is made."""
    kind: type[Objective] = _load(FAMILY[family].objective)
    return kind


def count_parameters(config: ModelConfig, widths: Mapping[Modality, int]) -> int:
    """Parameters of a model, without its modality embeddings and tokens; no memory is taken for it."""
    with torch.device("meta"):
        model = make_model(config, widths)
    uncounted = {id(parameter) for parameter in model.uncounted_parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in uncounted)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
