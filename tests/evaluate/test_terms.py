import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from amma.evaluate.report.scored import Scored
from amma.evaluate.report.terms import name_facts, term_records
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tasks.term_names import Origin, TermNames

TERMS = ("1.1.1.1", "9.9.9.9", "GO:1", "GO:2")
NAMES = TermNames(
    TERMS, ("(class: Oxidoreductases)", "", "one", "two"), (Origin.EC_CLASS, Origin.NONE, *[Origin.ONTOLOGY] * 2)
)


def make_split(rng: np.random.Generator, num_proteins: int) -> Split:
    target_NK = rng.random((num_proteins, len(TERMS))) < 0.4
    return Split(tuple(f"p{n}" for n in range(num_proteins)), np.arange(num_proteins), target_NK, (), 0)


def make_task() -> Task:
    rng = np.random.default_rng(0)
    task = Task("ec", TERMS, make_split(rng, 9), make_split(rng, 5), make_split(rng, 12))
    task.test.target_NK[:, 1] = False
    return task


def make_scored(task: Task, name: str, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    valid, test = (rng.random((len(split.ids), len(TERMS)), dtype=np.float32) for split in (task.valid, task.test))
    return Scored.untuned(name, valid, test.round(1), task=task)


def test_every_term_has_its_counts_its_name_and_the_figures_of_three_rows() -> None:
    task = make_task()
    one, other = make_scored(task, "trained", 1), make_scored(task, "trained", 2)
    trained = Scored("trained", one.valid + other.valid, one.test + other.test, one.terms + other.terms)
    untrained, frequency = make_scored(task, "untrained", 3), make_scored(task, "label frequency", 4)
    records = term_records(task, NAMES, trained=trained, untrained=untrained, label_frequency=frequency)
    assert [record.term for record in records] == list(TERMS)
    for k, record in enumerate(records):
        splits = (task.train, task.valid, task.test)
        assert (record.num_train, record.num_valid, record.num_test) == tuple(
            sum(bool(row[k]) for row in split.target_NK) for split in splits
        )
        for result, scored in ((record.trained, trained), (record.untrained, untrained)):
            if not record.num_test:
                assert (result.average_precision, result.fmax) == (None, None)
                continue
            truth = task.test.target_NK[:, k]
            precisions = [average_precision_score(truth, test[:, k]) for test in scored.test]
            assert result.average_precision == pytest.approx(np.mean(precisions), abs=1e-6)
            best = [
                max(
                    2 * (truth & (test[:, k] >= at)).sum() / (truth.sum() + (test[:, k] >= at).sum())
                    for at in test[:, k]
                )
                for test in scored.test
            ]
            assert result.fmax == pytest.approx(np.mean(best), abs=1e-6)
    assert records[1].num_test == 0
    assert records[1].label_frequency.fmax is None
    assert (records[1].name, records[1].name_origin) == (None, None)
    assert (records[2].name, records[2].name_origin) == ("one", "ontology")


def test_names_are_counted_by_their_origin_and_terms_without_one_are_listed() -> None:
    names = TermNames(TERMS, ("a", "", "b", "c"), (Origin.EC_CLASS, Origin.NONE, Origin.ONTOLOGY, Origin.ONTOLOGY))
    facts = name_facts(names)
    assert facts.origins == (("ontology", 2), ("class of the EC number", 1))
    assert facts.unnamed == ("9.9.9.9",)
