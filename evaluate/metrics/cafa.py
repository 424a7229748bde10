"""CAFA's protein-centric figures: Fmax, weighted Fmax and S_min over an ontology, as the CAFA-evaluator has them.

Not the headline figures: here scores and labels are propagated to all ancestors, a protein without a true term in the
namespace takes no part, and thresholds are those of a grid. Equal to the `cafaeval` package (1.3) with
`no_orphans`, normalisation "cafa" and propagation "max"; one thing is done differently there: obsolete terms are not
mapped to what replaces them.

Shapes: N proteins of a split, M of training, K terms of the task, U terms after propagation, T thresholds, R proteins
of one block.

Sources: Jiang et al. 2016 (CAFA2) for precision and recall; Clark & Radivojac 2013 for information accretion,
remaining uncertainty and misinformation; Piovesan et al. 2024 (CAFA-evaluator) for the order of things.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64

from amma.manifests.errors import InputError

TAU_STEP = 0.01
ROWS_AT_ONCE = 256
"""Proteins propagated in one go: bounds working memory without changing any number."""


@runtime_checkable
class Mapped(Protocol):
    """Which term of an ontology each term stands for, and which stand for none."""

    @property
    def found(self) -> Mapping[str, str]:
        """The live term of each term that has one."""

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The others."""


@runtime_checkable
class Hierarchy(Protocol):
    """What these figures need of an ontology; `tasks.ontology.Ontology` is one."""

    @property
    def parents(self) -> Mapping[str, tuple[str, ...]]:
        """The parents of each live term, within its namespace."""

    def map_terms(self, terms: Iterable[str], *, namespace: str | None = None) -> Mapped:
        """The live term that each of `terms` stands for."""

    def closure(self, terms: Iterable[str]) -> tuple[str, ...]:
        """These live terms and all their ancestors, every term after its parents."""


@dataclass(frozen=True, slots=True)
class CafaCurve:
    """The figures at each threshold, ascending; weighted ones and the last three in bits of information accretion.

    `num_predicted` is the number of proteins with a prediction, over whom `precision` is averaged; recall, `remaining`
    uncertainty and `misinformation` are averaged over all `num_proteins`, those with a true term in the namespace.
    """

    tau: Float[np.ndarray, " T"]
    num_predicted: Int64[np.ndarray, " T"]
    precision: Float[np.ndarray, " T"]
    recall: Float[np.ndarray, " T"]
    weighted_precision: Float[np.ndarray, " T"]
    weighted_recall: Float[np.ndarray, " T"]
    remaining: Float[np.ndarray, " T"]
    misinformation: Float[np.ndarray, " T"]
    num_proteins: int
    num_terms: int
    num_informative: int
    unmatched: tuple[str, ...]
    tau_step: float

    @property
    def f(self) -> Float[np.ndarray, " T"]:
        """Harmonic mean of precision and recall, 0 where both are 0."""
        return _harmonic(self.precision, self.recall)

    @property
    def weighted_f(self) -> Float[np.ndarray, " T"]:
        """As `f`, of the weighted ones."""
        return _harmonic(self.weighted_precision, self.weighted_recall)

    @property
    def s(self) -> Float[np.ndarray, " T"]:
        """Semantic distance: √(remaining² + misinformation²)."""
        s_T: Float[np.ndarray, " T"] = np.hypot(self.remaining, self.misinformation)
        return s_T

    def best(self) -> "CafaFigures":
        """Fmax, weighted Fmax and S_min, each at its own threshold."""
        f_T, weighted_f_T = self.f, self.weighted_f
        # The CAFA-evaluator drops thresholds at which nothing is predicted before it looks for the best.
        started_T = self.num_predicted > 0
        s_T = np.where(started_T, self.s, np.inf)
        best, weighted_best, s_best = int(f_T.argmax()), int(weighted_f_T.argmax()), int(s_T.argmin())
        any_started = bool(started_T.any())
        return CafaFigures(
            fmax=float(f_T[best]),
            fmax_tau=float(self.tau[best]) if f_T[best] > 0 else None,
            precision=float(self.precision[best]),
            recall=float(self.recall[best]),
            weighted_fmax=float(weighted_f_T[weighted_best]),
            weighted_fmax_tau=float(self.tau[weighted_best]) if weighted_f_T[weighted_best] > 0 else None,
            s_min=float(s_T[s_best]) if any_started else None,
            s_min_tau=float(self.tau[s_best]) if any_started else None,
            remaining_uncertainty=float(self.remaining[s_best]) if any_started else None,
            misinformation=float(self.misinformation[s_best]) if any_started else None,
            num_proteins=self.num_proteins,
            num_terms=self.num_terms,
            num_informative=self.num_informative,
            unmatched=self.unmatched,
            tau_step=self.tau_step,
        )


@dataclass(frozen=True, slots=True)
class CafaFigures:
    """The best of a `CafaCurve`, each with the lowest threshold at which it is reached.

    A threshold is None where nothing right is predicted at any (its F is 0). `s_min` looks at thresholds with a
    prediction only, and is None without any. `num_terms` counts the terms after propagation, without the root;
    `num_informative` those of them with information accretion above 0. `unmatched` are terms of the task that the
    ontology does not know in this namespace: they took no part.
    """

    fmax: float
    fmax_tau: float | None
    precision: float
    recall: float
    weighted_fmax: float
    weighted_fmax_tau: float | None
    s_min: float | None
    s_min_tau: float | None
    remaining_uncertainty: float | None
    misinformation: float | None
    num_proteins: int
    num_terms: int
    num_informative: int
    unmatched: tuple[str, ...]
    tau_step: float


def cafa_curve(
    score_NK: Float[np.ndarray, "N K"],
    target_NK: Bool[np.ndarray, "N K"],
    terms: Sequence[str],
    ontology: Hierarchy,
    *,
    namespace: str,
    train_target_MK: Bool[np.ndarray, "M K"],
    tau_step: float = TAU_STEP,
) -> CafaCurve:
    """CAFA's figures at thresholds `tau_step`, 2 `tau_step`, … below 1; a term is predicted where its score is ≥ τ.

    Terms of the task are mapped to live terms of `namespace`. A term's score is the largest of its own and its
    descendants', and it is true where one of them is. Terms without parents (the root) are left out, proteins
    without a true term (the root counts) too. Weights are the information accretions of the training labels
    (`information_accretion`). For EC numbers `Ontology.of_ec(terms)` is an ontology of namespace "ec".

    Memory is linear in the number of pairs. Raises `InputError` if the ontology has no term of the task in
    `namespace`, `ValueError` for scores that are no probabilities or a `tau_step` outside (0, 1).
    """
    score_NK = _checked(score_NK)
    if not 0 < tau_step < 1:
        raise ValueError(f"tau_step must lie between 0 and 1, not at {tau_step}")
    graph = _Graph.of(terms, ontology, namespace)
    information_U = graph.information_accretion(train_target_MK)[graph.evaluated_U]
    # As the CAFA-evaluator makes them, to the last bit: a score of 0.3 is below its thirtieth threshold.
    tau_T = np.arange(tau_step, 1, tau_step)
    sums, num_proteins = _Sums(len(tau_T)), 0
    for start in range(0, len(score_NK), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        true_UR = graph.propagate(target_NK[rows])
        known_R = true_UR.any(axis=0)
        num_proteins += int(known_R.sum())
        score_UR = graph.propagate(score_NK[rows][known_R])[graph.evaluated_U]
        level_RU = np.searchsorted(tau_T, score_UR.T, side="right")
        sums.add(level_RU, true_UR[graph.evaluated_U][:, known_R].T, information_U)
    return CafaCurve(
        tau=tau_T,
        num_predicted=sums.num_predicted_T,
        precision=sums.precision_T / np.maximum(sums.num_predicted_T, 1),
        recall=sums.recall_T / max(num_proteins, 1),
        weighted_precision=sums.weighted_precision_T / np.maximum(sums.num_informed_T, 1),
        weighted_recall=sums.weighted_recall_T / max(num_proteins, 1),
        remaining=sums.remaining_T / max(num_proteins, 1),
        misinformation=sums.misinformation_T / max(num_proteins, 1),
        num_proteins=num_proteins,
        num_terms=int(graph.evaluated_U.sum()),
        num_informative=int((information_U > 0).sum()),
        unmatched=graph.unmatched,
        tau_step=tau_step,
    )


def information_accretion(
    target_MK: Bool[np.ndarray, "M K"], terms: Sequence[str], ontology: Hierarchy, *, namespace: str
) -> dict[str, float]:
    """IA(t) = −log₂ P(t | its parents), in bits, of every term after propagation of these labels.

    P is the share of proteins with t among those that have all of its parents. It is 0 for the root, and for a term
    that no protein has: what training never saw has no estimate, and the CAFA-evaluator too gives it no weight.
    Raises `InputError` as `cafa_curve`.
    """
    graph = _Graph.of(terms, ontology, namespace)
    return dict(zip(graph.terms, graph.information_accretion(target_MK).tolist(), strict=True))


@dataclass(frozen=True)
class _Graph:
    """The terms after propagation, each after its parents, and where the task's terms are among them."""

    terms: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    places: tuple[tuple[int, int], ...]
    """(column of the task, number here) of every term that was found."""
    unmatched: tuple[str, ...]

    @classmethod
    def of(cls, terms: Sequence[str], ontology: Hierarchy, namespace: str) -> "_Graph":
        mapped = ontology.map_terms(terms, namespace=namespace)
        if not mapped.found:
            raise InputError(
                f"the ontology has none of the {len(terms)} terms of the task in its namespace {namespace!r} "
                f"({', '.join(terms[:3])}, …). Give the ontology that these terms are of."
            )
        order = ontology.closure(mapped.found.values())
        number = {term: place for place, term in enumerate(order)}
        return cls(
            terms=order,
            parents=tuple(tuple(number[parent] for parent in ontology.parents[term]) for term in order),
            places=tuple((k, number[mapped.found[term]]) for k, term in enumerate(terms) if term in mapped.found),
            unmatched=mapped.unmatched,
        )

    @property
    def evaluated_U(self) -> Bool[np.ndarray, " U"]:
        """True for terms with parents: the root is true of everything."""
        return np.array([bool(above) for above in self.parents])

    def propagate(self, value_RK: Any) -> Any:
        """For each term the largest value of itself and its descendants, as (U, R); of booleans, whether one holds."""
        value_UR = np.zeros((len(self.terms), len(value_RK)), dtype=value_RK.dtype)
        for column, place in self.places:
            np.maximum(value_UR[place], value_RK[:, column], out=value_UR[place])
        for place in reversed(range(len(self.terms))):
            for parent in self.parents[place]:
                np.maximum(value_UR[parent], value_UR[place], out=value_UR[parent])
        return value_UR

    def information_accretion(self, target_MK: Bool[np.ndarray, "M K"]) -> Float[np.ndarray, " U"]:
        """Bits, 0 for the root and for what no protein has; see `information_accretion`."""
        num_with_U, num_with_parents_U = np.zeros((2, len(self.terms)))
        for start in range(0, len(target_MK), ROWS_AT_ONCE):
            true_UR = self.propagate(target_MK[start : start + ROWS_AT_ONCE])
            num_with_U += true_UR.sum(axis=1)
            for place, above in enumerate(self.parents):
                if above:
                    num_with_parents_U[place] += true_UR[list(above)].all(axis=0).sum()
        seen_U = self.evaluated_U & (num_with_U > 0)
        bits_U = np.zeros(len(self.terms))
        bits_U[seen_U] = np.log2(num_with_parents_U[seen_U] / num_with_U[seen_U])
        return bits_U


class _Sums:
    """Sums over proteins of what is averaged, for each threshold."""

    def __init__(self, num_thresholds: int) -> None:
        self.num_predicted_T, self.num_informed_T = np.zeros((2, num_thresholds), dtype=np.int64)
        self.precision_T, self.recall_T = np.zeros((2, num_thresholds))
        self.weighted_precision_T, self.weighted_recall_T = np.zeros((2, num_thresholds))
        self.remaining_T, self.misinformation_T = np.zeros((2, num_thresholds))

    def add(
        self,
        level_RU: Int64[np.ndarray, "R U"],
        true_RU: Bool[np.ndarray, "R U"],
        information_U: Float[np.ndarray, " U"],
    ) -> None:
        """Add a block of proteins; `level` is the number of thresholds at which a pair is predicted."""
        num_levels = len(self.recall_T) + 1
        place_RU = np.arange(len(level_RU))[:, None] * num_levels + level_RU

        def at_thresholds(weight_RU: Any) -> Any:
            per_level = np.bincount(place_RU.ravel(), weight_RU.ravel(), minlength=len(level_RU) * num_levels)
            # Those predicted at the t-th threshold are those of level t + 1 and above.
            return per_level.reshape(len(level_RU), num_levels)[:, :0:-1].cumsum(axis=1)[:, ::-1]

        hit_RT, wrong_RT = at_thresholds(true_RU), at_thresholds(~true_RU)
        started_RT = hit_RT + wrong_RT > 0
        self.num_predicted_T += started_RT.sum(axis=0)
        self.precision_T += _ratios(hit_RT, hit_RT + wrong_RT)
        self.recall_T += _ratios(hit_RT, true_RU.sum(axis=1)[:, None])
        bits_RT, wrong_bits_RT = at_thresholds(true_RU * information_U), at_thresholds(~true_RU * information_U)
        all_bits_R1 = (true_RU * information_U).sum(axis=1)[:, None]
        self.num_informed_T += (bits_RT + wrong_bits_RT > 0).sum(axis=0)
        self.weighted_precision_T += _ratios(bits_RT, bits_RT + wrong_bits_RT)
        self.weighted_recall_T += _ratios(bits_RT, all_bits_R1)
        # Sums in another order can differ in the last bit; nothing is left where all is found.
        self.remaining_T += np.maximum(all_bits_R1 - bits_RT, 0).sum(axis=0)
        self.misinformation_T += wrong_bits_RT.sum(axis=0)


def _ratios(part_RT: Any, whole_RT: Any) -> Any:
    """The sum over proteins of part / whole, 0 where the whole is."""
    ratio_RT = np.zeros(part_RT.shape)
    np.divide(part_RT, whole_RT, out=ratio_RT, where=np.broadcast_to(whole_RT > 0, part_RT.shape))
    return ratio_RT.sum(axis=0)


def _harmonic(precision_T: Float[np.ndarray, " T"], recall_T: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    total_T = precision_T + recall_T
    f_T: Float[np.ndarray, " T"] = np.zeros(precision_T.shape)
    np.divide(2 * precision_T * recall_T, total_T, out=f_T, where=total_T > 0)
    return f_T


def _checked(score_NK: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    score_NK = np.asarray(score_NK, dtype=np.float64)
    bad_NK = ~((score_NK >= 0) & (score_NK <= 1))
    if bad_NK.any():
        row, column = np.argwhere(bad_NK)[0]
        raise ValueError(
            f"scores must be probabilities; that of protein {row}, term {column} is {score_NK[row, column]}"
        )
    return score_NK
