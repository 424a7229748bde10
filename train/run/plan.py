"""What a run will need: parameters, memory, steps, hours, and how its streams are mixed. Nothing is written."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from amma.train.data.streams import STREAMS, Mix
from amma.train.data.training_set import TrainingSet, prepare_training_set
from amma.train.model.family import count_parameters, make_model
from amma.train.model.fusion import FusionModel
from amma.train.model.transformer import Layer
from amma.train.run.arithmetic import arithmetic, find_device
from amma.train.run.config import RunConfig
from amma.train.run.execution import make_stepper
from amma.train.run.initial import take_over
from amma.train.run.schedule import last_step
from amma.train.run.step_input import prepare_step

MOST_STEPS_LOOKED_AT = 10_000
"""The largest step is looked for among so many of the first epoch's."""


@dataclass(frozen=True)
class Measured:
    """Steps that were really taken: seconds of one, and bytes kept for the backward pass, a token."""

    device: str
    threads: int
    steps: int
    step_seconds: float
    bytes_per_token: float


def plan(config: RunConfig, *, measure: int, step_seconds: float | None = None) -> dict[str, Any]:
    """The plan of a run as plain values; bytes, seconds, hours.

    `measure` steps are taken on the configuration's device, after one to warm up, on the run's own first batches.
    Without any, nothing is said about activations, nor about hours unless `step_seconds` is given. Hours are those of
    the steps: validation and reading that the steps do not hide come on top.
    """
    training_set = prepare_training_set(config)
    try:
        take_over(config, training_set)
        mix = training_set.mix
        steps = last_step(epochs=config.epochs, steps_per_epoch=mix.steps_per_epoch, max_steps=config.max_steps)
        widths = training_set.corpus.widths
        with torch.device("meta"):
            held = sum(parameter.numel() for parameter in make_model(config.model, widths).parameters())
        tokens = _tokens_of_steps(training_set, min(steps, mix.steps_per_epoch, MOST_STEPS_LOOKED_AT))
        measured = _measure(config, training_set, measure) if measure else None
        memory: dict[str, int] = {"weights": 4 * held, "gradients": 4 * held, "adamw": 8 * held}
        if measured is not None:
            memory["activations"] = round(measured.bytes_per_token * int(tokens.max()))
        seconds = step_seconds if step_seconds is not None else measured.step_seconds if measured else None
        return {
            "config": config.model_dump(mode="json"),
            "parameters": count_parameters(config.model, widths),
            "proteins": training_set.counts,
            "mix": _describe_mix(mix, steps),
            "steps_per_epoch": mix.steps_per_epoch,
            "steps": steps,
            "tokens_per_step": {"mean": float(tokens.mean()), "largest": int(tokens.max())},
            "memory_bytes": {**memory, "total": sum(memory.values())},
            "measured": None
            if measured is None
            else {"device": measured.device, "threads": measured.threads, "steps": measured.steps},
            "step_seconds": seconds,
            "hours": None if seconds is None else seconds * steps / 3600,
        }
    finally:
        training_set.corpus.close()


def _describe_mix(mix: Mix, steps: int) -> dict[str, Any]:
    """Of each stream that takes part: batches in the whole run, and how often each of its proteins is drawn."""
    size = mix.config.batch_size
    return {
        "mixing": mix.config.mixing,
        "batch_size": size,
        "streams": {
            str(stream.name): {
                "proteins": len(stream),
                "weight": mix.config.weight(stream.name),
                "batches": batches,
                "epochs": batches * size / len(stream),
            }
            for stream, batches in zip(mix.streams, mix.batches_before(steps), strict=True)
        },
    }


def _tokens_of_steps(training_set: TrainingSet, steps: int) -> Int64[np.ndarray, " steps"]:
    """Tokens of all modalities in each of the first steps; nothing of the features is read."""
    corpus = training_set.corpus
    length = {m: corpus.length(m).astype(np.int64) for m in corpus.widths}
    of_stream = {name: np.sum([length[modality] for modality in has], axis=0) for name, has in STREAMS.items()}
    return np.array(
        [
            sum(
                int(of_stream[portion.stream][draw.protein])
                for portion in training_set.mix.plan(step)
                for draw in portion.draws
            )
            for step in range(steps)
        ],
        dtype=np.int64,
    )


def _measure(config: RunConfig, training_set: TrainingSet, steps: int) -> Measured:
    device = find_device(config.device)
    with arithmetic(config.threads, device) as threads:
        model = make_model(config.model, training_set.corpus.widths).to(device)
        stepper = make_stepper(model, config, device)
        bf16 = config.precision == "bf16"
        seconds, bytes_per_token = [], 0.0
        for step in range(steps + 1):
            given = prepare_step(
                training_set.corpus, training_set.mix.plan(step), step, seed=config.seed, mask=config.masks
            )
            with _kept_bytes(model) as kept, _largest_layer(model) as largest:
                began = time.perf_counter()
                numbers = stepper.take(given).read()
                seconds.append(time.perf_counter() - began)
            num_bytes = sum(kept.values())
            if config.checkpoint_activations:  # one layer at a time has all it computes for the backward pass
                with _kept_bytes(model) as inside, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    largest()
                num_bytes += sum(inside.values())
            bytes_per_token = max(bytes_per_token, num_bytes / numbers.num_tokens)
        return Measured(str(device), threads, steps, sum(seconds[1:]) / steps, bytes_per_token)


@contextmanager
def _kept_bytes(model: FusionModel) -> Iterator[dict[int, int]]:
    """The bytes of every storage that the backward pass needs, by address; the model's own tensors are not among them.

    Portions of a step are counted together, although each one's memory is free before the next begins.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = max(storage.nbytes(), kept.get(storage.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


@contextmanager
def _largest_layer(model: FusionModel) -> Iterator[Callable[[], object]]:
    """A way to run the layer with the most numbers among those of a step again, on what it was given there."""
    found: list[tuple[Layer, tuple[Any, ...]]] = []

    def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(layer, Layer) and (not found or found[0][1][0].numel() < given[0].numel()):
            found[:] = [(layer, given)]

    def again() -> object:
        layer, (x_TW, *where) = found[0]
        return layer(x_TW.detach().requires_grad_(), *where)

    hooks = [layer.register_forward_pre_hook(look) for layer in model.modules() if isinstance(layer, Layer)]
    try:
        yield again
    finally:
        for hook in hooks:
            hook.remove()
