from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.metrics.cafa import cafa_curve
from amma.evaluate.report.hierarchy import Hierarchy, ontology_facts
from amma.evaluate.tasks.ontology import Ontology
from amma.evaluate.tasks.task import Split, Task

TERMS = ("1.1.1.1", "1.1.1.2", "2.7.1.-", "3.4", "no number")

OBO = """format-version: 1.2
data-version: releases/2026-01-01

[Term]
id: GO:1
name: molecular_function
namespace: molecular_function

[Term]
id: GO:2
name: binding
namespace: molecular_function
alt_id: GO:22
is_a: GO:1

[Term]
id: GO:3
name: obsolete thing
namespace: molecular_function
is_obsolete: true
replaced_by: GO:2

[Term]
id: GO:4
name: a process
namespace: biological_process
"""


@pytest.fixture
def task() -> Task:
    rng = np.random.default_rng(0)
    splits = [
        Split(tuple(map(str, range(n))), np.arange(n), rng.random((n, len(TERMS))) < 0.4, (), 0) for n in (30, 5, 12)
    ]
    return Task("ec", TERMS, *splits)


def test_figures_are_those_of_each_seed_summed_up(task: Task) -> None:
    ontology = Ontology.of_ec(TERMS)
    hierarchy = Hierarchy(task, ontology, 0.05)
    rng = np.random.default_rng(1)
    scores = [rng.random(task.test.target_NK.shape, dtype=np.float32) for _ in range(2)]
    seeds = [
        cafa_curve(
            score_NK,
            task.test.target_NK,
            TERMS,
            ontology,
            namespace="ec",
            train_target_MK=task.train.target_NK,
            tau_step=0.05,
        ).best()
        for score_NK in scores
    ]
    figures, facts = hierarchy.figures(scores), hierarchy.facts()
    assert figures.fmax.values == tuple(seed.fmax for seed in seeds)
    assert figures.weighted_fmax.values == tuple(seed.weighted_fmax for seed in seeds)
    assert figures.s_min is not None
    assert figures.s_min.values == tuple(seed.s_min for seed in seeds)
    assert figures.tau is not None
    assert figures.tau.values == tuple(seed.fmax_tau for seed in seeds)
    # 4 terms with their ancestors: 1, 1.1, 1.1.1 and the two below; 2, 2.7, 2.7.1; 3, 3.4.
    assert (facts.num_terms, facts.tau_step) == (10, 0.05)
    known = task.test.target_NK[:, :4].any(axis=1)
    assert facts.num_proteins == known.sum() < len(known)


def test_perfect_scores_reach_one_and_no_distance(task: Task) -> None:
    figures = Hierarchy(task, Ontology.of_ec(TERMS), 0.01).figures([task.test.target_NK.astype(np.float32)])
    assert (figures.fmax.mean, figures.weighted_fmax.mean) == pytest.approx((1, 1))
    assert figures.s_min is not None
    assert figures.s_min.mean == pytest.approx(0)


def test_where_a_seed_predicts_nothing_its_thresholds_are_undefined(task: Task) -> None:
    nothing = np.zeros(task.test.target_NK.shape, dtype=np.float32)
    figures = Hierarchy(task, Ontology.of_ec(TERMS), 0.01).figures([nothing, nothing + 0.5])
    assert figures.fmax.values[0] == 0 < figures.fmax.values[1]
    assert (figures.tau, figures.s_min) == (None, None)


def test_the_hierarchy_of_ec_numbers_says_what_is_no_number(task: Task) -> None:
    facts = ontology_facts("ec", TERMS, Ontology.of_ec(TERMS))
    assert (facts.kind, facts.namespace) == ("the digits of EC numbers", "ec")
    assert (facts.data_version, facts.sha256) == (None, None)
    assert [(each.term, each.primary, each.how) for each in facts.alternative] == [("3.4", "3.4.-.-", "alt_id")]
    assert facts.unmatched == ("no number",)


def test_an_ontology_is_pinned_and_terms_that_stand_for_others_are_listed(tmp_path: Path) -> None:
    (tmp_path / "go.obo").write_text(OBO)
    ontology = Ontology.read(tmp_path / "go.obo")
    facts = ontology_facts("go-mf", ("GO:2", "GO:22", "GO:3", "GO:4", "GO:5"), ontology)
    assert (facts.kind, facts.data_version) == ("OBO file", "releases/2026-01-01")
    assert facts.sha256 == ontology.sha256
    assert (facts.num_terms, facts.num_obsolete) == (2, 1)
    assert {(each.term, each.primary, each.how) for each in facts.alternative} == {
        ("GO:22", "GO:2", "alt_id"),
        ("GO:3", "GO:2", "replaced_by"),
    }
    assert facts.unmatched == ("GO:4", "GO:5")
