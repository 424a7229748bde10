"""AdamW over the model's parameters, and its state by parameter name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amma.manifests.errors import CheckpointError
from amma.train.run.config import OptimizerConfig

STATE = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW keeps of a parameter that ever had a gradient."""


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only.

    The paper says "weight decay 0.05" and not on what. Biases, norms and modality embeddings are vectors, and pulling
    them to zero has no regularising sense; the matrices are more than 99.9 % of the parameters either way.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step, for every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every moment and step counter, as `<what>/<parameter name>`.

    A parameter that never had a gradient (the decoder of a modality that no stream has) has no state yet.
    """
    return {
        f"{what}/{name}": value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, on each parameter's device.

    Raises `CheckpointError` for a tensor that fits no parameter, and where a parameter has a part of its state only.
    """
    by_name = dict(model.named_parameters())
    for key, value in tensors.items():
        what, _, name = key.partition("/")
        parameter = by_name.get(name)
        if parameter is None or (what != "step" and value.shape != parameter.shape):
            raise CheckpointError(
                f"the checkpoint's optimizer state {key!r}, {tuple(value.shape)}, fits no parameter of this model. "
                "It was written by another model; start again in a new folder."
            )
        optimizer.state[parameter][what] = value.to(parameter.device)
    for name, parameter in by_name.items():
        lacking = sorted(STATE - optimizer.state.get(parameter, {}).keys())
        if lacking and len(lacking) < len(STATE):
            raise CheckpointError(
                f"the checkpoint's optimizer state lacks {lacking[0]} of {name}: it is not whole. Use another "
                "checkpoint of this run, or start again in a new folder."
            )
