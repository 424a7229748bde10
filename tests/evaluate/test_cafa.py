"""The oracles: the `cafaeval` package on OBO files, and plain loops over sets on small ones.

Shapes: N proteins, M of training, K terms of the task, T thresholds.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.evaluate.metrics.cafa import CafaFigures, cafa_curve, information_accretion
from amma.evaluate.tasks.ontology import EC_ROOT, Ontology
from amma.manifests.errors import InputError

TOLERANCE = 1e-9
"""Of every comparison here: both sides sum float64, in another order."""


NAMESPACES = ("molecular_function", "biological_process")


def cafa_figures(*args: Any, **options: Any) -> CafaFigures:
    return cafa_curve(*args, **options).best()


@dataclass(frozen=True)
class Case:
    ontology: Ontology
    obo: Path
    terms: tuple[str, ...]
    score_NK: Any
    target_NK: Any
    train_MK: Any


def random_obo(rng: np.random.Generator, num_terms: int) -> str:
    """Two namespaces of a root and a random DAG, some terms with an alternative id, some parts of the other one's."""
    stanzas = ["format-version: 1.2\ndata-version: test\nontology: go\n"]
    for space, namespace in enumerate(NAMESPACES):
        for number in range(num_terms):
            term = space * 1000 + number
            lines = [f"[Term]\nid: GO:{term:07}\nname: term {term}\nnamespace: {namespace}"]
            if number % 4 == 1:
                lines.append(f"alt_id: GO:{term + 500:07}")
            above = rng.choice(number, size=min(number, int(rng.integers(1, 4))), replace=False) if number else []
            for place, parent in enumerate(sorted(above)):
                parent_id = f"GO:{space * 1000 + parent:07}"
                lines.append(f"relationship: part_of {parent_id}" if place % 2 else f"is_a: {parent_id} ! term")
            if number % 7 == 3:
                lines.append(f"relationship: part_of GO:{(1 - space) * 1000:07} ! the other root")
                lines.append(f"relationship: regulates GO:{space * 1000 + num_terms - 1:07}")
            stanzas.append("\n".join(lines) + "\n")
    return "\n".join([*stanzas, "[Typedef]\nid: part_of\nname: part of\n"])


def random_case(folder: Path, seed: int, *, num_terms: int = 40, num_proteins: int = 60) -> Case:
    """Scores with ties and zeros, terms under alternative ids and unknown ones, proteins that lack this or that."""
    rng = np.random.default_rng(seed)
    obo = folder / "go.obo"
    obo.write_text(random_obo(rng, num_terms))
    known = [space * 1000 + number for space in (0, 1) for number in range(num_terms)]
    chosen = sorted(rng.choice(known, size=len(known) // 2, replace=False).tolist())
    # Some under their alternative id, one under both, some that no ontology has, one root.
    terms = [f"GO:{term + 500:07}" if term % 8 == 1 else f"GO:{term:07}" for term in chosen]
    terms = sorted({*terms, "GO:0000005", "GO:0000505", "GO:0000000", "GO:7777777", "XX:1"})
    score_NK = np.round(rng.beta(0.5, 2.0, size=(num_proteins, len(terms))), 2)
    score_NK[rng.random(score_NK.shape) < 0.3] = 0.0
    target_NK = rng.random(score_NK.shape) < 0.1
    score_NK[target_NK] = np.maximum(score_NK[target_NK], np.round(rng.random(int(target_NK.sum())), 2))
    score_NK[:4] = 0.0  # without a prediction
    target_NK[2:8] = False  # without a true term
    target_NK[8] = [term == "GO:0000000" for term in terms]  # the root only
    score_NK[9] = 1.0
    score_NK[10] = 0.5
    if seed % 2:
        score_NK = np.minimum(score_NK, 0.8)  # thresholds above without any prediction
    train_MK = rng.random((90, len(terms))) < 0.08
    train_MK[:, rng.random(len(terms)) < 0.2] = False  # terms that training never saw
    return Case(Ontology.read(obo), obo, tuple(terms), score_NK, target_NK, train_MK)


def plain_ancestors(case: Case, term: str) -> set[str]:
    found = {term}
    for parent in case.ontology.parents[term]:
        found |= plain_ancestors(case, parent)
    return found


def plain_sets(case: Case, namespace: str, true_NK: Any) -> list[set[str]]:
    mapped = case.ontology.map_terms(case.terms, namespace=namespace).found
    rows = []
    for row in true_NK:
        direct = {mapped[term] for term, true in zip(case.terms, row, strict=True) if true and term in mapped}
        rows.append(set().union(*(plain_ancestors(case, term) for term in direct)) if direct else set())
    return rows


def plain_information(case: Case, namespace: str) -> dict[str, float]:
    rows = plain_sets(case, namespace, case.train_MK)
    bits = {}
    for term, above in case.ontology.parents.items():
        having = sum(term in row for row in rows)
        possible = sum(set(above) <= row for row in rows)
        bits[term] = -math.log2(having / possible) if above and having else 0.0
    return bits


def plain_figures(case: Case, namespace: str, tau: float) -> dict[str, float]:
    """All figures at one threshold, by sets."""
    bits = plain_information(case, namespace)
    roots = {term for term, above in case.ontology.parents.items() if not above}
    truths = plain_sets(case, namespace, case.target_NK)
    guesses = plain_sets(case, namespace, case.score_NK >= tau)
    pairs = [(truth - roots, guess - roots) for truth, guess in zip(truths, guesses, strict=True) if truth]

    def weight(terms: set[str]) -> float:
        return sum(bits[term] for term in terms)

    def mean(values: list[float], count: int) -> float:
        return sum(values) / count if count else 0.0

    precisions = [len(t & g) / len(g) for t, g in pairs if g]
    weighted = [weight(t & g) / weight(g) for t, g in pairs if weight(g) > 0]
    return {
        "num_predicted": len(precisions),
        "precision": mean(precisions, len(precisions)),
        "recall": mean([len(t & g) / len(t) for t, g in pairs if t], len(pairs)),
        "weighted_precision": mean(weighted, len(weighted)),
        "weighted_recall": mean([weight(t & g) / weight(t) for t, g in pairs if weight(t) > 0], len(pairs)),
        "remaining": mean([weight(t - g) for t, g in pairs], len(pairs)),
        "misinformation": mean([weight(g - t) for t, g in pairs], len(pairs)),
    }


@pytest.mark.parametrize("seed", range(6))
def test_every_threshold_equals_plain_loops_over_sets(tmp_path: Path, seed: int) -> None:
    case = random_case(tmp_path, seed, num_terms=12, num_proteins=20)
    for namespace in NAMESPACES:
        curve = cafa_curve(
            case.score_NK, case.target_NK, case.terms, case.ontology,
            namespace=namespace, train_target_MK=case.train_MK, tau_step=0.07,
        )  # fmt: skip
        for place, tau in enumerate(curve.tau):
            for name, expected in plain_figures(case, namespace, tau).items():
                assert getattr(curve, name)[place] == pytest.approx(expected, abs=TOLERANCE), (name, tau)


@pytest.mark.parametrize("tau_step", [0.01, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_the_cafa_evaluators(tmp_path: Path, seed: int, tau_step: float) -> None:
    evaluation = pytest.importorskip("cafaeval.evaluation")
    case = random_case(tmp_path, seed)
    (tmp_path / "predictions").mkdir()
    with (tmp_path / "predictions" / "all.tsv").open("w") as handle:
        for n, row in enumerate(case.score_NK):
            handle.writelines(
                f"P{n}\t{term}\t{score!r}\n" for term, score in zip(case.terms, row.tolist(), strict=True)
            )
    with (tmp_path / "truth.tsv").open("w") as handle:
        handle.writelines(f"P{n}\t{case.terms[k]}\n" for n, k in np.argwhere(case.target_NK))
    bits = {**plain_information(case, NAMESPACES[0])}
    for term, value in plain_information(case, NAMESPACES[1]).items():
        bits[term] = bits[term] or value
    (tmp_path / "ia.tsv").write_text("".join(f"{term}\t{value!r}\n" for term, value in bits.items()))
    every, best = evaluation.cafa_eval(
        str(case.obo), str(tmp_path / "predictions"), str(tmp_path / "truth.tsv"),
        ia=str(tmp_path / "ia.tsv"), no_orphans=True, norm="cafa", prop="max", th_step=tau_step, n_cpu=1,
    )  # fmt: skip
    for namespace in NAMESPACES:
        theirs = every.xs(namespace, level="ns").reset_index().set_index("tau")
        args = (case.score_NK, case.target_NK, case.terms, case.ontology)
        curve = cafa_curve(*args, namespace=namespace, train_target_MK=case.train_MK, tau_step=tau_step)
        ours = {
            "n": curve.num_predicted, "pr": curve.precision, "rc": curve.recall, "f": curve.f,
            "pr_w": curve.weighted_precision, "rc_w": curve.weighted_recall, "f_w": curve.weighted_f,
            "ru_w": curve.remaining, "mi_w": curve.misinformation, "s_w": curve.s,
        }  # fmt: skip
        started = curve.num_predicted > 0
        assert np.array_equal(theirs.index.to_numpy(), curve.tau[started])
        for name, value_T in ours.items():
            np.testing.assert_allclose(value_T[started], theirs[name].to_numpy(), rtol=0, atol=TOLERANCE, err_msg=name)

        figures = cafa_figures(*args, namespace=namespace, train_target_MK=case.train_MK, tau_step=tau_step)
        row = best["f"].xs(namespace, level="ns").reset_index().iloc[0]
        weighted = best["f_w"].xs(namespace, level="ns").reset_index().iloc[0]
        assert figures.fmax == pytest.approx(row["f"], abs=TOLERANCE)
        assert figures.fmax_tau == row["tau"]
        assert (figures.precision, figures.recall) == pytest.approx((row["pr"], row["rc"]), abs=TOLERANCE)
        assert figures.weighted_fmax == pytest.approx(weighted["f_w"], abs=TOLERANCE)
        assert figures.weighted_fmax_tau == weighted["tau"]
        assert figures.s_min == pytest.approx(theirs["s_w"].min(), abs=TOLERANCE)
        assert figures.s_min_tau == theirs["s_w"].idxmin()
        assert figures.num_proteins == round((theirs["n"] / theirs["cov"]).iloc[0])


def test_figures_of_the_cafa_evaluators_own_example_are_its_own(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("cafaeval.evaluation")
    example = Path(evaluation.__file__).parent / "data" / "example"
    obo, namespace = example / "IDPO_disorder_function.obo", "disorder_function"
    if not obo.is_file():
        pytest.skip("this cafaeval was installed without its example")
    truth = [line.split() for line in (example / "ground_truth.tsv").read_text().splitlines()]
    ids, ontology = sorted({id for id, _ in truth}), Ontology.read(obo)
    terms = tuple(sorted(ontology.parents))
    target_NK = np.zeros((len(ids), len(terms)), dtype=bool)
    for id, term in truth:
        target_NK[ids.index(id), terms.index(term)] = True
    bits = information_accretion(target_NK, terms, ontology, namespace=namespace)
    (tmp_path / "ia.tsv").write_text("".join(f"{term}\t{value!r}\n" for term, value in bits.items()))
    every, best = evaluation.cafa_eval(
        str(obo), str(example / "predictions"), str(example / "ground_truth.tsv"),
        ia=str(tmp_path / "ia.tsv"), no_orphans=True, n_cpu=1,
    )  # fmt: skip
    files = sorted((example / "predictions").iterdir())
    assert len(files) == 5
    for file in files:
        score_NK = np.zeros(target_NK.shape)
        for id, term, score in map(str.split, file.read_text().splitlines()):
            if id in ids:
                place = ids.index(id), terms.index(term)
                score_NK[place] = max(score_NK[place], float(score))
        figures = cafa_figures(
            score_NK, target_NK, terms, ontology, namespace=namespace, train_target_MK=target_NK
        )  # fmt: skip
        assert figures.fmax == pytest.approx(best["f"].loc[file.name]["f"].item(), abs=TOLERANCE)
        assert figures.weighted_fmax == pytest.approx(best["f_w"].loc[file.name]["f_w"].item(), abs=TOLERANCE)
        assert figures.s_min == pytest.approx(every.loc[file.name]["s_w"].min(), abs=TOLERANCE)
        assert 0.1 < figures.fmax < 1


def test_terms_outside_the_namespace_are_listed_and_counted_after_propagation(tmp_path: Path) -> None:
    case = random_case(tmp_path, 0)
    figures = cafa_figures(
        case.score_NK, case.target_NK, case.terms, case.ontology,
        namespace=NAMESPACES[0], train_target_MK=case.train_MK,
    )  # fmt: skip
    inside = {term for term in case.terms if term.startswith("GO:0000")}
    assert set(figures.unmatched) == set(case.terms) - inside
    live = set(case.ontology.map_terms(inside).found.values())
    assert figures.num_terms == len(set().union(*(plain_ancestors(case, term) for term in live))) - 1
    assert 0 < figures.num_informative < figures.num_terms


def test_blocks_of_proteins_do_not_change_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(tmp_path, 1)

    def figures() -> CafaFigures:
        return cafa_figures(
            case.score_NK, case.target_NK, case.terms, case.ontology,
            namespace=NAMESPACES[1], train_target_MK=case.train_MK,
        )  # fmt: skip

    whole = figures()
    monkeypatch.setattr("amma.evaluate.metrics.cafa.ROWS_AT_ONCE", 7)
    again = figures()
    for name in CafaFigures.__dataclass_fields__:
        assert getattr(again, name) == pytest.approx(getattr(whole, name), abs=TOLERANCE), name


def test_information_accretion_is_the_surprise_given_all_parents() -> None:
    ontology = Ontology.of_ec(["1.1.1.1", "1.1.1.2", "2.1.1.1", "3.1.1.1"])
    terms = ("1.1.1.1", "1.1.1.2", "2.1.1.1", "3.1.1.1")
    target = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    bits = information_accretion(target, terms, ontology, namespace="ec")
    assert bits["1.-.-.-"] == pytest.approx(math.log2(5 / 4))  # the protein without a label is not counted
    assert bits["2.-.-.-"] == pytest.approx(math.log2(5))
    assert bits["1.1.1.1"] == pytest.approx(math.log2(4 / 3))
    assert bits["1.1.1.2"] == pytest.approx(2.0)
    assert bits["1.1.-.-"] == bits["2.1.1.1"] == bits[EC_ROOT] == 0.0
    assert bits["3.-.-.-"] == bits["3.1.1.1"] == 0.0  # never seen: no estimate, no weight


def test_ec_numbers_have_cafas_figures_too() -> None:
    terms = ("1.1.1.1", "1.1.1.2", "2.1.1.1")
    target = np.eye(3, dtype=bool)
    score = np.array([[0.0, 0.9, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.9]])
    figures = cafa_figures(score, target, terms, Ontology.of_ec(terms), namespace="ec", train_target_MK=target)
    # The first protein has the right class, sub-class and sub-sub-class, and the wrong last digit: 3 of 4.
    assert figures.fmax == pytest.approx(11 / 12)
    assert figures.fmax_tau == pytest.approx(0.01)
    assert figures.num_terms == 9
    perfect = cafa_figures(target * 0.5, target, terms, Ontology.of_ec(terms), namespace="ec", train_target_MK=target)
    assert (perfect.fmax, perfect.weighted_fmax, perfect.s_min) == (1.0, 1.0, 0.0)


def test_nothing_predicted_gives_zero_and_no_threshold() -> None:
    terms = ("1.1.1.1", "2.1.1.1")
    target = np.eye(2, dtype=bool)
    figures = cafa_figures(
        np.zeros((2, 2)), target, terms, Ontology.of_ec(terms), namespace="ec", train_target_MK=target
    )
    assert (figures.fmax, figures.fmax_tau, figures.weighted_fmax_tau) == (0.0, None, None)
    assert (figures.s_min, figures.s_min_tau) == (None, None)
    nobody = cafa_figures(
        np.full((2, 2), 0.5), ~np.ones((2, 2), bool), terms, Ontology.of_ec(terms),
        namespace="ec", train_target_MK=target,
    )  # fmt: skip
    assert (nobody.num_proteins, nobody.fmax, nobody.s_min) == (0, 0.0, None)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5, np.inf])
def test_scores_that_are_no_probabilities_are_refused(bad: float) -> None:
    terms = ("1.1.1.1", "2.1.1.1")
    score = np.array([[0.1, 0.2], [0.3, bad]])
    target = np.eye(2, dtype=bool)
    with pytest.raises(ValueError, match="protein 1, term 1"):
        cafa_figures(score, target, terms, Ontology.of_ec(terms), namespace="ec", train_target_MK=target)


def test_an_ontology_of_other_terms_is_refused_by_name() -> None:
    target = np.eye(2, dtype=bool)
    with pytest.raises(InputError, match=r"none of the 2 terms .* 'molecular_function' \(GO:1, GO:2"):
        cafa_figures(
            target * 0.5, target, ("GO:1", "GO:2"), Ontology.of_ec(["1.1.1.1"]),
            namespace="molecular_function", train_target_MK=target,
        )  # fmt: skip
    with pytest.raises(ValueError, match="tau_step"):
        cafa_figures(
            target * 0.5, target, ("1.1.1.1", "2"), Ontology.of_ec(["1.1.1.1", "2"]),
            namespace="ec", train_target_MK=target, tau_step=1.0,
        )  # fmt: skip
