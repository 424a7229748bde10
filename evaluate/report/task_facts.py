"""What a report tells of its task: who takes part in each split, what is predicted, the best that can be reached."""

from collections.abc import Sequence
from dataclasses import asdict

from amma.evaluate.config import FunctionConfig
from amma.evaluate.controls.baselines import ceiling
from amma.evaluate.report.hierarchy import ontology_facts
from amma.evaluate.report.task_results import AbsentProtein, CeilingFacts, SplitFacts, TaskFacts
from amma.evaluate.report.terms import name_facts
from amma.evaluate.subject import Subject
from amma.evaluate.tasks.absent import Absent
from amma.evaluate.tasks.task import Split
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import Modality


def task_facts(config: FunctionConfig, subject: Subject) -> TaskFacts:
    """What is predicted for whom, and the best that can be reached."""
    task, store, ontology = subject.task, subject.store, subject.ontology
    return TaskFacts(
        name=task.name,
        num_terms=len(task.terms),
        unlabelled=config.unlabelled,
        train=_split_facts(task.train, store, subject.absent["train"]),
        valid=_split_facts(task.valid, store, subject.absent["valid"]),
        test=_split_facts(task.test, store, subject.absent["test"]),
        ceiling=CeilingFacts(**asdict(ceiling(task, task.test))),
        names=name_facts(subject.names),
        ontology=None if ontology is None else ontology_facts(task.name, task.terms, ontology),
    )


def _split_facts(split: Split, store: FeatureStore, missing: Sequence[Absent]) -> SplitFacts:
    return SplitFacts(
        num_proteins=len(split.ids),
        num_unlabelled=split.num_unlabelled,
        num_pairs=int(split.target_NK.sum()),
        num_terms=int(split.target_NK.any(axis=0).sum()),
        num_unknown=split.num_unknown,
        num_without_sequence=int((store.length(Modality.SEQ)[split.rows] == 0).sum()),
        num_without_structure=int((store.length(Modality.STR)[split.rows] == 0).sum()),
        missing=tuple(AbsentProtein(**asdict(each)) for each in missing),
    )
