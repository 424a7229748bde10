"""What a checkpoint keeps of a run, in host memory: taken from it, and found again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amma.manifests.errors import CheckpointError
from amma.train.data.streams import Mix
from amma.train.run.checkpoint import PREFIX, Checkpoints, Snapshot
from amma.train.run.optimizer import optimizer_tensors


def take_snapshot(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Snapshot:
    """All of it as it is now; on the host the tensors are the ones that training goes on with, so write it first."""
    random = {"rng/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["rng/cuda"] = torch.cuda.get_rng_state(device)
    training = {**optimizer_tensors(model, optimizer), **random}
    return Snapshot(state, _on_host(model.state_dict()), _on_host(training))


def find_snapshot(checkpoints: Checkpoints, mix: Mix) -> tuple[Path, Snapshot] | None:
    """The newest sound checkpoint to go on from, with its folder; None if there is none.

    Raises `CheckpointError` if its streams do not stand where those of `mix` do.
    """
    checkpoints.sweep()
    found = checkpoints.load_newest()
    if found is not None:
        newest, state = found[0], found[1].state
        plan = mix.state(state["step"])
        if state["streams"] != plan:
            raise CheckpointError(
                f"{newest}: at step {state['step']} the streams stood at {state['streams']}, and by the plan of this "
                f"version at {plan}. Use the version of amma that began the run."
            )
    return found


def take_back(checkpoints: Checkpoints, newest: Path, best: dict[str, Any] | None) -> dict[str, Any] | None:
    """Let `newest` be the newest, and point to the `best` that its state names: None if that one's folder is gone.

    To be called when nothing else can fail any more: what lies after `newest` is put aside.
    """
    checkpoints.abandon_after(newest)
    checkpoints.point("latest", newest)
    if best is None:
        return None
    folder = newest.with_name(f"{PREFIX}{best['step']:08d}")
    if not folder.is_dir():
        return None  # it was damaged: the next validation gives a new one
    checkpoints.point("best", folder)
    return best


def restore_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Torch's random numbers go on where the snapshot's tensors say."""
    torch.set_rng_state(tensors["rng/cpu"])
    if device.type == "cuda" and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
