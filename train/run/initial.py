"""What a run begins with: channels measured on its proteins, or another run's weights, which must fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from amma.featurize.store.fingerprint import differences
from amma.manifests.console import progress, say
from amma.manifests.errors import CheckpointError, FingerprintError
from amma.train.data.channel_moments import measure_moments
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.data.training_set import TrainingSet
from amma.train.model.config import WITHOUT_EFFECT, ModelConfig
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel
from amma.train.model.standardise import Standardiser
from amma.train.run.checkpoint import MODEL, LoadedModel, load_model
from amma.train.run.config import RunConfig


@dataclass(frozen=True)
class Initial:
    """Weights and standardiser that a run begins with, by name."""

    tensors: Mapping[str, Tensor]


def take_over(config: RunConfig, training_set: TrainingSet) -> tuple[Initial | None, TrainingSet]:
    """What `config.init_from` names, and the training set that knows of it; None and the same set without.

    The proteins that the weights have seen count as seen by this run too, so that no report calls them new; those of
    them that this run validates on are counted. Raises `CheckpointError` if the model has another family or size,
    `FingerprintError` if it was trained on features of other encoders.
    """
    if config.init_from is None:
        return None, training_set
    loaded = load_model(config.init_from)
    _refuse_what_does_not_fit(loaded, config, training_set)
    held_out = [draw.protein for portion in training_set.validation for draw in portion.draws]
    hashes_N = sequence_hashes(training_set.corpus.sequences())
    known = int(loaded.seen.among(hashes_N[held_out]).sum())
    if known:
        say(
            f"{known} of {len(held_out)} validation proteins were trained on in {loaded.path}: validation errors "
            "are too good. Give the same --seed, --validation-fraction and --exclude as there."
        )
    return Initial(loaded.model.state_dict()), replace(
        training_set,
        seen=training_set.seen.union(loaded.seen),
        counts={**training_set.counts, "validation_seen_by_init": known},
        inputs={**training_set.inputs, "init_from": loaded.state["files"][MODEL]["sha256"]},
    )


def fit_standardiser(
    standardiser: Standardiser, training_set: TrainingSet, *, threads: int, stop: Callable[[], bool]
) -> bool:
    """Measure the training proteins' channels; False if it was told to stop meanwhile."""
    proteins_T = training_set.proteins_T
    with progress("measuring channels", len(proteins_T), unit="proteins") as advance:
        moments = measure_moments(training_set.corpus, proteins_T, threads=threads, advance=advance, stop=stop)
    if moments is None:
        return False
    for modality, measured in moments.items():
        standardiser.fit(modality, measured)
    return True


def _refuse_what_does_not_fit(loaded: LoadedModel, config: RunConfig, training_set: TrainingSet) -> None:
    corpus = training_set.corpus
    there, here = _in_use(loaded.model.config), _in_use(config.model)
    different = [
        f"{key} {there[key]} there, {here[key]} here" for key in here if there.get(key, here[key]) != here[key]
    ]
    widths = loaded.model.widths
    if there["family"] != here["family"]:
        with torch.device("meta"):
            fresh = make_model(config.model, corpus.widths)
        theirs, ours = _parts(loaded.model), _parts(fresh)
        for only, where in ((theirs - ours, "there"), (ours - theirs, "here")):
            if only:
                different.append(f"only {where}: {', '.join(sorted(only))}")
    different += [
        f"{modality} features of {widths.get(modality)} channels there, {corpus.widths.get(modality)} here"
        for modality in sorted(widths.keys() | corpus.widths.keys())
        if widths.get(modality) != corpus.widths.get(modality)
    ]
    if different:
        raise CheckpointError(
            f"--init-from {loaded.path}: another model: {'; '.join(different)}. Give its --preset, --family and "
            "other options of the model, or begin without it."
        )
    fields = differences(loaded.store_fingerprint, corpus.fingerprint)
    if fields:
        raise FingerprintError(
            f"--init-from {loaded.path} was trained on features of other encoders: {'; '.join(fields)}. Featurize "
            "these proteins as those were, or begin without it."
        )


def _in_use(config: ModelConfig) -> dict[str, Any]:
    """What decides a model, without the settings that its family does not use."""
    return config.model_dump(exclude=set(WITHOUT_EFFECT[config.family].get("model", ())))


def _parts(model: FusionModel) -> set[str]:
    """What a model is made of, as a message names it: `encoder`, `decoders.func`."""
    parts = set()
    for name, module in model.named_children():
        kinds = [key for key, _ in (*module.named_children(), *module.named_parameters(recurse=False))]
        by_modality = isinstance(module, (nn.ModuleDict, nn.ParameterDict))
        parts |= {f"{name}.{key}" for key in kinds} if by_modality else {name}
    return parts
