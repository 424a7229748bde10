"""How far modalities agree on which proteins are alike: the paper's Table 1, and figures that tell more, with controls.

Legend: N proteins, S seeds of an untrained model.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amma.evaluate.analyses.agreement import RECALL_AT, Agreement, Given, Measure, Of, Outputs, ranks, spreads
from amma.evaluate.analyses.alignment_figures import Drawn
from amma.evaluate.analyses.alignment_page import lead_of, sections_of
from amma.evaluate.analyses.alignment_results import (
    ALONE,
    APART,
    TOGETHER,
    AlignmentConfig,
    AlignmentReport,
    AlignmentResults,
)
from amma.evaluate.analyses.report import AnalysisInputs, provenance_of
from amma.evaluate.analyses.subject import AnalysisSubject, HeldOut
from amma.evaluate.analyses.vectors import Vectors, View, alone, collect, lifted, lifts_of, projected, raw, together
from amma.evaluate.controls.baselines import untrained_models
from amma.evaluate.metrics.bootstrap import draw_resamples
from amma.manifests.console import progress
from amma.train.data.validation_split import read_clusters
from amma.train.model.fusion import FusionModel
from amma.train.run.arithmetic import arithmetic

SIZES = (4, 16, 64, 256)
"""Batch sizes that Table 1's figure is shown for, besides the one asked for and all proteins at once."""


@dataclass(frozen=True)
class Kind:
    """Vectors of one kind, of each seed of the model that they are of."""

    of: Of
    given: Given
    outputs: Outputs
    seeds: Sequence[Vectors]

    @property
    def separate_maps(self) -> bool:
        """Whether each modality went through a map of its own last: then directions cannot be compared."""
        return self.outputs in ("features", "projections", "lifted")


def kinds_of_vectors(subject: AnalysisSubject, held_out: HeldOut, *, untrained_seeds: int) -> list[Kind]:
    """Every kind of vectors that the model and its untrained selves give of the proteins; each is read once."""
    model = subject.trained.model
    fresh = untrained_models(subject.trained)
    models: dict[Of, list[FusionModel]] = {
        "untrained": [fresh(seed) for seed in range(untrained_seeds)],
        "trained": [model],
    }
    makers: dict[Given, Callable[[FusionModel], View]] = {"nothing": projected}
    makers |= {TOGETHER: together, ALONE: alone} if model.per_token else {APART: together}
    views: dict[str, View] = {"raw": raw}
    for of, members in models.items():
        for seed, member in enumerate(members):
            views |= {f"{of}/{seed}/{name}": make(member) for name, make in makers.items()}
    device = next(model.parameters()).device
    with progress("vectors", len(held_out.rows), unit="proteins") as advance:
        found = collect(subject.store, held_out.rows, views, device=device, advance=advance)
    kinds = [Kind("encoders' features", "nothing", "features", [found["raw"]])]
    for of, members in models.items():
        for given in makers:
            seeds = [found[f"{of}/{seed}/{given}"] for seed in range(len(members))]
            if given == "nothing":
                kinds.append(Kind(of, given, "projections", seeds))
                continue
            kinds.append(Kind(of, given, "fused" if model.per_token else "Eq. 14", seeds))
            if lifts_of(model) is not None:
                behind = [lifted(member, vectors) for member, vectors in zip(members, seeds, strict=True)]
                kinds.append(Kind(of, given, "lifted", behind))
    return kinds


def drawn(kinds: Sequence[Kind]) -> list[Drawn]:
    """What relation matrices are drawn of: raw features, and the outputs of Table 1 (of the first untrained seed)."""
    outputs = {kind.outputs for kind in kinds}
    last = "lifted" if "lifted" in outputs else "fused" if "fused" in outputs else "Eq. 14"
    shown = [kind for kind in kinds if kind.outputs == "features" or (kind.outputs == last and kind.given != ALONE)]
    return [Drawn(kind.of, kind.seeds[0]) for kind in shown]


def measure(kinds: Sequence[Kind], measured: Measure) -> tuple[Agreement, ...]:
    """All figures of each kind."""
    rows = []
    with progress("agreement", len(kinds), unit="kinds of vectors") as advance:
        for kind in kinds:
            rows.append(
                Agreement(
                    of=kind.of,
                    given=kind.given,
                    outputs=kind.outputs,
                    separate_maps=kind.separate_maps,
                    num_seeds=len(kind.seeds),
                    pairs=measured.pairs(kind.seeds, comparable=not kind.separate_maps),
                    effective_rank=ranks(kind.seeds),
                    spread=spreads(kind.seeds),
                )
            )
            advance(1)
    return tuple(rows)


def analyse_alignment(
    config: AlignmentConfig, subject: AnalysisSubject, held_out: HeldOut, *, threads: int | None = None
) -> tuple[AlignmentReport, Mapping[str, Vectors]]:
    """The report, and by name the vectors that its figures are of (those of the trained model, and raw ones)."""
    started = time.monotonic()
    num = len(held_out.ids)
    origin, cluster_N = "each protein by itself", np.arange(num)
    if config.clusters:
        clusters = read_clusters(Path(config.clusters), held_out.ids)
        origin, cluster_N = clusters.origin, clusters.number
    sizes = tuple(sorted({size for size in (*SIZES, config.batch_size, num) if size <= num}))
    with arithmetic(threads, torch.device(config.device)):
        kinds = kinds_of_vectors(subject, held_out, untrained_seeds=config.untrained_seeds)
        rows = measure(
            kinds,
            Measure(
                batch_size=min(config.batch_size, num),
                other_sizes=sizes,
                seed=config.seed,
                weight_BN=draw_resamples(cluster_N, config.bootstrap) if config.bootstrap else None,
            ),
        )
        results = AlignmentResults(
            family=subject.trained.model.config.family,
            batch_size=min(config.batch_size, num),
            batch_sizes=sizes,
            num_resamples=config.bootstrap,
            clusters=origin,
            num_clusters=len(np.unique(cluster_N)),
            chance={str(k): min(k / num, 1.0) for k in RECALL_AT},
            rows=rows,
        )
        report = AlignmentReport(
            title="Agreement of sequence, structure and function",
            lead=lead_of(results),
            config=config.model_dump(mode="json"),
            inputs=AnalysisInputs.of(subject),
            proteins=held_out.facts,
            sections=sections_of(results, held_out.facts, drawn(kinds)),
            results=results,
            provenance=provenance_of(subject, started=started, device=config.device),
        )
    named = {
        f"{kind.of}, {kind.outputs}" + ("" if kind.given == "nothing" else f", {kind.given}"): kind.seeds[0]
        for kind in kinds
        if kind.of != "untrained"
    }
    return report, named
