"""What is evaluated, opened and checked before anything is computed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amma.evaluate.config import FunctionConfig
from amma.evaluate.controls.identity import Search
from amma.evaluate.tasks.task import Task, read_task
from amma.evaluate.tuning.readout import check_readout
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.location import parse_location
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import FingerprintError
from amma.train.data.validation_split import Clusters, read_clusters
from amma.train.run.checkpoint import LoadedModel, load_model


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a checkpoint, a store of the same encoders, and a task on its proteins."""

    trained: LoadedModel
    store: FeatureStore
    task: Task
    clusters: Clusters
    """Of the test proteins, in their order."""
    search: Search
    """How relatives of the test proteins are found among what pretraining saw."""


def open_model_and_store(checkpoint: Path, store: str, *, device: str = "cpu") -> tuple[LoadedModel, FeatureStore]:
    """Open a checkpoint and a store that goes with it.

    Raises `FingerprintError` naming each field in which the store's encoders differ from those of pretraining.
    """
    opened = FeatureStore(parse_location(store))
    trained = load_model(checkpoint, device=device)
    different = differences(trained.store_fingerprint, opened.fingerprint)
    if different:
        raise FingerprintError(
            f"{store} was not written with the encoders that {trained.path} was trained on (training -> store): "
            f"{'; '.join(different)}. Featurize these proteins with the settings of the pretraining store."
        )
    return trained, opened


def open_subject(config: FunctionConfig) -> Subject:
    """Open and check all inputs, without computing anything.

    Raises `FingerprintError` naming each field in which the store's encoders differ from those of pretraining.
    """
    trained, store = open_model_and_store(Path(config.checkpoint), config.store, device=config.device)
    check_readout(trained.model, config.finetune.readout)
    task = read_task(
        config.task,
        store,
        labels=Path(config.labels),
        splits=Path(config.splits),
        split_prefix=config.split_prefix,
        unlabelled=config.unlabelled,
    )
    return Subject(trained, store, task, _clusters(config, store, task), Search.installed())


def _clusters(config: FunctionConfig, store: FeatureStore, task: Task) -> Clusters:
    if config.clusters:
        return read_clusters(Path(config.clusters), task.test.ids)
    number: dict[str, int] = {}
    sequences = store.sequences().take(task.test.rows.tolist())
    number_N = [number.setdefault(sequence, len(number)) for sequence in sequences]
    return Clusters(np.array(number_N, dtype=np.int64), "equal sequences")
