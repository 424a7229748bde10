"""Compare two finished reports on the same test proteins: is one model better, and where?"""

import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from amma.evaluate.comparison.results import (
    ClusterFacts,
    Comparison,
    ComparisonProvenance,
    ProteinPair,
    SideFacts,
    TermPair,
    Wins,
)
from amma.evaluate.comparison.side import Side, check_comparable, on_common, other_settings, read_side
from amma.evaluate.metrics.paired import compare as compare_scores
from amma.evaluate.report.estimates import Difference, Summary
from amma.manifests.console import say
from amma.manifests.files import sha256_of_file
from amma.train.data.validation_split import Clusters, read_clusters

PACKAGES = ("amma", "numpy", "pyarrow")
ROUNDING = 1e-9
"""Figures closer than this are a tie."""


def compare_reports(
    a: Path,
    b: Path,
    *,
    clusters: Path | None = None,
    num_resamples: int = 1000,
    common: bool = False,
    across_protocols: bool = False,
) -> Comparison:
    """Compare the trained models of two report folders.

    Raises `InputError` for what is no report, `UsageError` naming what differs between the two that must not: task,
    labels, splits, terms, test proteins (unless `common`), protocol (unless `across_protocols`).
    """
    started = time.monotonic()
    first, second = read_side(a), read_side(b)
    check_comparable(first, second, across_protocols=across_protocols, common=common)
    others = other_settings(first, second)
    first, second, only_first, only_second = on_common(first, second)
    path = clusters or _shared_clusters(first, second)
    drawn = _clusters(path, first.ids)
    paired = compare_scores(first.scores, second.scores, first.target_NK, drawn.number, num_resamples)
    names = {each.term: each.name for each in first.report.terms}
    ap_a_K, ap_b_K = first.term_ap_K, second.term_ap_K
    f_a_N, f_b_N = first.protein_f_N, second.protein_f_N
    labelled = np.flatnonzero(first.target_NK.any(axis=1))
    known = np.flatnonzero(first.target_NK.any(axis=0))
    return Comparison(
        task=first.report.task.name,
        num_proteins=len(first.ids),
        a=_facts(first, only_first),
        b=_facts(second, only_second),
        fmax=Difference.of(paired.fmax),
        aupr=Difference.of(paired.aupr),
        num_resamples=num_resamples,
        clusters=ClusterFacts(
            num_clusters=len(np.unique(drawn.number)),
            origin=drawn.origin,
            sha256=sha256_of_file(path) if path else None,
        ),
        term_wins=_wins(ap_a_K[known], ap_b_K[known]),
        protein_wins=_wins(f_a_N[labelled], f_b_N[labelled]),
        terms=tuple(
            TermPair(term=term, name=names.get(term), num_test=int(number), a=_known(one), b=_known(other))
            for term, number, one, other in zip(
                first.terms, first.target_NK.sum(axis=0), ap_a_K.tolist(), ap_b_K.tolist(), strict=True
            )
        ),
        proteins=tuple(
            ProteinPair(id=first.ids[n], num_terms=int(first.target_NK[n].sum()), a=float(f_a_N[n]), b=float(f_b_N[n]))
            for n in labelled.tolist()
        ),
        others=others,
        provenance=ComparisonProvenance(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            platform=platform.platform(),
            a=str(a),
            b=str(b),
            clusters=str(path) if path else None,
        ),
    )


def _shared_clusters(a: Side, b: Side) -> Path | None:
    """The table of clusters that both reports were made with, if it is still there and what it was."""
    of_a, of_b = a.clusters(), b.clusters()
    if of_a is None or of_b is None or of_a[1] != of_b[1]:
        return None
    say(f"clusters are those of both reports: {of_a[0]}")
    return of_a[0]


def _clusters(path: Path | None, ids: Sequence[str]) -> Clusters:
    if path is not None:
        return read_clusters(path, ids)
    say(
        "WARNING: every protein is a cluster of its own, so related ones make intervals too narrow and p too small. "
        "Give --clusters."
    )
    return Clusters(np.arange(len(ids)), "each protein by itself")


def _facts(side: Side, num_only_here: int) -> SideFacts:
    return SideFacts(
        report_sha256=side.report_sha256,
        protocol=side.report.config.protocol,
        num_seeds=len(side.scores),
        fmax=Summary.of(side.fmax),
        aupr=Summary.of(side.aupr),
        num_only_here=num_only_here,
        random_encoders=side.report.inputs.random_encoders,
    )


def _wins(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> Wins:
    ahead, behind = int((a > b + ROUNDING).sum()), int((b > a + ROUNDING).sum())
    return Wins(a=ahead, b=behind, ties=len(a) - ahead - behind)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
