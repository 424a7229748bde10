"""What is evaluated, opened and checked before anything is computed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amma.evaluate.config import FunctionConfig, Protocol
from amma.evaluate.controls.identity import Search
from amma.evaluate.report.included import Included, read_included
from amma.evaluate.tasks.absent import Absent, absent
from amma.evaluate.tasks.ontology import NAMESPACES, Ontology
from amma.evaluate.tasks.task import Task, read_task
from amma.evaluate.tasks.term_names import TermNames, term_names
from amma.evaluate.tuning.readout import check_readout
from amma.evaluate.tuning.sequence_features import SequenceEncoder, open_sequence_encoder
from amma.evaluate.tuning.visible import check_visible
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.location import parse_location
from amma.featurize.store.reader import FeatureStore
from amma.manifests.deepfri import read_identity_cutoffs
from amma.manifests.errors import FingerprintError, InputError
from amma.manifests.labels import SPLITS
from amma.train.data.validation_split import Clusters, read_clusters
from amma.train.run.checkpoint import MODEL, LoadedModel, load_model


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a checkpoint, a store of the same encoders, and a task on its proteins."""

    trained: LoadedModel
    store: FeatureStore
    task: Task
    clusters: Clusters
    """Of the test proteins, in their order."""
    search: Search
    """How relatives of a protein are found, in the training split and among what pretraining saw."""
    names: TermNames
    ontology: Ontology | None
    """What CAFA's figures are computed on: as given, or made of the task's EC numbers; None if there is neither."""
    listed: Mapping[float, frozenset[str]] | None
    """The test proteins left at each identity to training, where a list says so."""
    absent: Mapping[str, tuple[Absent, ...]]
    """For each split its labelled proteins without features, and why."""
    included: tuple[Included, ...]
    """Finished analyses that the report shows along."""
    sequence: SequenceEncoder | None = None
    """What protocol `paper` tunes along."""


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
    check_visible(trained.model, config.finetune.visible)
    task = read_task(
        config.task,
        store,
        labels=Path(config.labels),
        splits=Path(config.splits),
        split_prefix=config.split_prefix,
        unlabelled=config.unlabelled,
    )
    ontology = _ontology(config, task)
    names = term_names(
        config.task,
        task.terms,
        ontology=ontology,
        table=Path(config.term_names) if config.term_names else None,
        labels_path=Path(config.labels),
    )
    sha256 = trained.state["files"][MODEL]["sha256"]
    included = tuple(read_included(Path(folder), checkpoint_sha256=sha256) for folder in config.include)
    return Subject(
        trained=trained,
        store=store,
        task=task,
        clusters=_clusters(config, store, task),
        search=Search.by(config.search),
        names=names,
        ontology=ontology,
        listed=_listed(config, task),
        absent={
            name: absent(store, task.split(name).missing, quarantines=[Path(path) for path in config.quarantines])
            for name in SPLITS
        },
        included=included,
        sequence=_sequence_encoder(config, store, task),
    )


def _sequence_encoder(config: FunctionConfig, store: FeatureStore, task: Task) -> SequenceEncoder | None:
    if config.finetune.protocol is not Protocol.PAPER:
        return None
    return open_sequence_encoder(config, store, np.concatenate([task.split(name).rows for name in SPLITS]))


def _listed(config: FunctionConfig, task: Task) -> dict[float, frozenset[str]] | None:
    """Cut-offs as fractions; raises `InputError` for a list of other proteins, or with columns other than `<30%`."""
    if config.identity_cutoffs is None:
        return None
    left = read_identity_cutoffs(Path(config.identity_cutoffs))
    fractions: dict[float, frozenset[str]] = {}
    for column, ids in left.items():
        if (found := re.fullmatch(r"<\s*([0-9]{1,3})\s*%", column)) is None:
            raise InputError(
                f"{config.identity_cutoffs}: column {column!r} is no cut-off; expected such as '<30%'.",
                code="E_COLUMNS",
            )
        fractions[int(found[1]) / 100] = ids
    if not any(ids.intersection(task.test.ids) for ids in left.values()):
        raise InputError(
            f"{config.identity_cutoffs}: none of the {len(task.test.ids)} test proteins is in it. Give the list "
            "that was published with these splits."
        )
    return dict(sorted(fractions.items()))


def _ontology(config: FunctionConfig, task: Task) -> Ontology | None:
    """Checked now: after hours of tuning is late to learn that it is one of other terms."""
    namespace = NAMESPACES[config.task]
    if config.ontology is None:
        numbers = Ontology.of_ec(task.terms)
        return numbers if namespace == "ec" and numbers.map_terms(task.terms).found else None
    ontology = Ontology.read(Path(config.ontology))
    if not ontology.map_terms(task.terms, namespace=namespace).found:
        raise InputError(
            f"{config.ontology}: none of the {len(task.terms)} terms of task {config.task} is in its namespace "
            f"{namespace!r} ({', '.join(task.terms[:3])}, …; it has {', '.join(ontology.namespaces)}). Give the "
            "ontology that these terms are of."
        )
    return ontology


def _clusters(config: FunctionConfig, store: FeatureStore, task: Task) -> Clusters:
    if config.clusters:
        return read_clusters(Path(config.clusters), task.test.ids)
    number: dict[str, int] = {}
    sequences = store.sequences().take(task.test.rows.tolist())
    number_N = [number.setdefault(sequence, len(number)) for sequence in sequences]
    return Clusters(np.array(number_N, dtype=np.int64), "equal sequences")
