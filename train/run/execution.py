"""How the layers of a model are executed in training: compiled or not, with all they compute kept or not.

What layers do to each row by itself is compiled, for any number of rows, so that no batch is compiled for. Attention
stays as it is: how many calls it makes depends on the proteins of a batch.
"""

import torch
from torch import Tensor

from amma.manifests.errors import UsageError
from amma.train.model.family import make_objective
from amma.train.model.fusion import FusionModel
from amma.train.model.transformer import Layer, Transformer
from amma.train.run.config import RunConfig
from amma.train.run.optimizer import make_optimizer
from amma.train.run.ranks import ALONE, Ranks
from amma.train.run.step import Stepper

ROWS = 512
"""Of the first pass. Compiled code is tuned to the rows that it first sees, which may decide the order of additions:
always as many, so that a run that goes on computes as the one that was stopped."""


def make_stepper(model: FusionModel, config: RunConfig, device: torch.device, ranks: Ranks = ALONE) -> Stepper:
    """What takes the steps of a run with `model`, which is on `device`.

    Raises `UsageError` where nothing can be compiled and the run is to be.
    """
    bf16 = config.precision == "bf16"
    prepare_layers(model, device, compiled=config.compile, recomputed=config.checkpoint_activations, bf16=bf16)
    return Stepper(
        model,
        make_optimizer(model, config.optimizer),
        make_objective(config.model.family, config.objective, ranks.gather_rows),
        device=device,
        clip=config.optimizer.clip,
        bf16=bf16,
        ranks=ranks,
    )


def prepare_layers(model: FusionModel, device: torch.device, *, compiled: bool, recomputed: bool, bf16: bool) -> None:
    """Have the layers of `model`, which is on `device`, executed so.

    `recomputed`: for the backward pass each layer keeps its input only. Raises `UsageError` where nothing can be
    compiled.
    """
    for module in model.modules():
        if isinstance(module, Transformer):
            module.recomputes = recomputed
    if compiled:
        _compile(model, device, bf16=bf16)


def _compile(model: FusionModel, device: torch.device, *, bf16: bool) -> None:
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    for layer in layers:
        for name in ("before", "after"):
            setattr(layer, name, torch.compile(getattr(layer, name), dynamic=True))
    read = {module.layers[-1] for module in model.modules() if isinstance(module, Transformer)}
    read.discard(model.encoder.layers[-1])  # of the fusion encoder every row is wanted
    try:
        for layer in layers:
            _run_once(layer, None, device, bf16=bf16)
            if layer in read:
                _run_once(layer, torch.arange(ROWS // 2, device=device), device, bf16=bf16)
    except Exception as error:  # whatever a missing compiler, header or Triton makes of it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        needs = "Triton" if device.type == "cuda" else "a C++ compiler (g++, or the one named in $CXX)"
        raise UsageError(
            f"--compile: nothing could be compiled for {device}: {reason}. It needs {needs} and Python's headers; "
            "run without --compile."
        ) from error


def _run_once(layer: Layer, row_Q: Tensor | None, device: torch.device, *, bf16: bool) -> None:
    """Forwards and backwards at made-up rows; no gradient is left behind."""
    width = layer.attention.output.in_features
    made_up_TW = torch.linspace(-1, 1, ROWS * width, device=device).view(ROWS, width).requires_grad_()
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        x_TW = made_up_TW * 1  # what layers are given was computed too: code for a leaf would not serve it
        query_QHK, key_THK, value_THK = layer.before(x_TW, row_Q)
        mixed_QHK = query_QHK + (key_THK + value_THK)[: len(query_QHK)]
        updated_QW = layer.after(x_TW if row_Q is None else x_TW.index_select(0, row_Q), mixed_QHK)
    torch.autograd.grad(updated_QW.float().sum(), [made_up_TW, *parameters])
