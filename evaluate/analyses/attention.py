"""Which residues the name of a protein attends to, and whether they are the annotated ones: the paper's Fig. 3.

Beside the trained model: the same untrained, the trained one given another protein's name, and position alone.

Legend: N proteins, L residues of one protein, S seeds of a model, B resamples.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64

from amma.evaluate.analyses.annotated_sites import AnnotatedSites
from amma.evaluate.analyses.attention_page import lead_of, sections_of
from amma.evaluate.analyses.attention_proteins import Chosen, Looked, Scores, shown_proteins
from amma.evaluate.analyses.attention_rankings import ranking_rows
from amma.evaluate.analyses.attention_results import (
    AttentionConfig,
    AttentionReport,
    AttentionResults,
    FocusRow,
    LeftOut,
    ProteinFigures,
    RowOf,
)
from amma.evaluate.analyses.attention_structure import Painted, Trace, find_proteins, paint, write_text
from amma.evaluate.analyses.folder import Write
from amma.evaluate.analyses.report import AnalysisInputs, provenance_of
from amma.evaluate.analyses.residue_attention import (
    ResidueAttention,
    View,
    collect_attention,
    correlation,
    evenness,
    position_profiles,
)
from amma.evaluate.analyses.residue_ranking import Ranking, chance_of, rank_residues
from amma.evaluate.analyses.subject import AnalysisSubject, HeldOut
from amma.evaluate.controls.baselines import untrained_models
from amma.evaluate.metrics.bootstrap import draw_resamples
from amma.evaluate.report.estimates import Summary
from amma.manifests.console import progress
from amma.manifests.quarantine import Rejection, write_quarantine
from amma.manifests.table import MODALITIES, Manifest
from amma.train.data.validation_split import read_clusters
from amma.train.model.masking import generator_for
from amma.train.run.arithmetic import arithmetic

TABLE, QUARANTINE = "attention.parquet", "quarantine.jsonl"
SHUFFLES = 3
"""Names of other proteins that each protein is given, if there are so many others."""
COUNTER = -5
"""Random numbers here are `generator_for(seed, COUNTER)`: apart from all others."""


def other_names(number: int, seed: int) -> list[Int64[np.ndarray, " N"]]:
    """For each shuffle the place of the protein whose name each one is given; never its own, never twice the same."""
    order = generator_for(seed, COUNTER).permutation(number)
    shuffles = []
    for shift in range(1, min(SHUFFLES, number - 1) + 1):
        other_N = np.empty(number, dtype=np.int64)
        other_N[order] = np.roll(order, shift)
        shuffles.append(other_N)
    return shuffles


def attention_of(
    config: AttentionConfig, subject: AnalysisSubject, chosen: Chosen
) -> dict[RowOf, list[list[ResidueAttention]]]:
    """For each kind of model its seeds, and for each seed the attention of each protein."""
    number = len(chosen.proteins)
    own_N = np.arange(number)
    fresh = untrained_models(subject.trained)
    model = subject.trained.model
    views: dict[RowOf, list[View]] = {
        "trained": [View(model, own_N)],
        "untrained": [View(fresh(seed), own_N) for seed in range(config.untrained_seeds)],
        "shuffled pairs": [View(model, other_N) for other_N in other_names(number, config.seed)],
    }
    with progress("attention", number, unit="proteins") as advance:
        found = iter(
            collect_attention(
                subject.store,
                chosen.rows_N,
                chosen.is_name,
                [view for of in views.values() for view in of],
                residue_tokens=config.residue_tokens,
                device=next(model.parameters()).device,
                advance=advance,
            )
        )
    return {of: [next(found) for _ in members] for of, members in views.items()}


def focus_rows(found: Mapping[RowOf, Sequence[Sequence[ResidueAttention]]]) -> tuple[FocusRow, ...]:
    """Where attention goes, for each kind of model."""
    trained = found["trained"][0]
    rows = []
    for of, seeds in found.items():
        alike = [
            [r for a, b in zip(each, trained, strict=True) if (r := correlation(a.residue_L, b.residue_L)) is not None]
            for each in seeds
        ]
        rows.append(
            FocusRow(
                of=of,
                num_seeds=len(seeds),
                shares={
                    modality: Summary.of([fmean(protein.shares[modality] for protein in each) for each in seeds])
                    for modality in MODALITIES
                },
                evenness=Summary.of([fmean(evenness(protein.residue_L) for protein in each) for each in seeds]),
                like_trained=Summary.of([fmean(r) for r in alike]) if of != "trained" and all(alike) else None,
            )
        )
    return tuple(rows)


def analyse_attention(
    config: AttentionConfig,
    subject: AnalysisSubject,
    held_out: HeldOut,
    chosen: Chosen,
    sites: AnnotatedSites | None,
    *,
    listed: Sequence[str] | None = None,
    threads: int | None = None,
) -> tuple[AttentionReport, dict[str, Write]]:
    """The report, and by name the files besides: the table, and with a manifest structures and a quarantine."""
    started = time.monotonic()
    num = len(chosen.proteins)
    origin, cluster_N = "each protein by itself", np.arange(num)
    if config.clusters:
        clusters = read_clusters(Path(config.clusters), [protein.id for protein in chosen.proteins])
        origin, cluster_N = clusters.origin, clusters.number
    with arithmetic(threads, torch.device(config.device)):
        found = attention_of(config, subject, chosen)
        scores: dict[RowOf, list[Scores]] = {
            of: [[protein.residue_L for protein in each] for each in seeds] for of, seeds in found.items()
        }
        scores["position only"] = [position_profiles(scores["trained"][0])]
        rankings = _rankings(chosen, scores) if sites is not None else {}
        weight_BN = draw_resamples(cluster_N, config.bootstrap) if config.bootstrap else None
        shown = shown_proteins(config, chosen, listed)
        painted = _paint(config, chosen, scores["trained"][0], shown)
        model = subject.trained.model
        results = AttentionResults(
            family=model.config.family,
            layer=len(model.encoder.layers),
            num_heads=model.config.num_heads,
            residue_tokens=config.residue_tokens,
            sites=None if sites is None else sites.facts,
            num_shuffles=len(found["shuffled pairs"]),
            num_resamples=config.bootstrap,
            clusters=origin,
            num_clusters=len(np.unique(cluster_N)),
            chance=fmean(of.precision for of in rankings["chance"][0]) if rankings else None,
            rows=ranking_rows(rankings, weight_BN),
            focus=focus_rows(found),
            proteins=tuple(_figures(chosen, place, scores, rankings, painted) for place in range(num)),
            shown=tuple(chosen.proteins[place].id for place in shown),
            left_out=chosen.left_out,
            without_structure=tuple(
                LeftOut(id=each.id, code=each.code, reason=each.reason)
                for each in painted.values()
                if isinstance(each, Rejection)
            ),
        )
        traces: dict[int, Trace] = {p: each.trace for p, each in painted.items() if isinstance(each, Painted)}
        report = AttentionReport(
            title="Which residues a protein's name attends to",
            lead=lead_of(results),
            config=config.model_dump(mode="json"),
            inputs=AnalysisInputs.of(subject),
            proteins=held_out.facts,
            sections=sections_of(config, results, held_out.facts, chosen.proteins, scores, shown, traces),
            results=results,
            provenance=provenance_of(subject, started=started, device=config.device),
        )
    files: dict[str, Write] = {TABLE: partial(write_attention, proteins=chosen.proteins, scores=scores)}
    if config.manifest is not None:
        for each in painted.values():
            if isinstance(each, Painted):
                files[each.file] = partial(write_text, text=each.text)
        rejections = [each for each in painted.values() if isinstance(each, Rejection)]
        files[QUARANTINE] = partial(write_quarantine, rejections=rejections)
    return report, files


def _rankings(chosen: Chosen, scores: Mapping[RowOf, Sequence[Scores]]) -> dict[RowOf, list[list[Ranking]]]:
    """For each kind of scores, and for chance, its seeds, and for each seed the figures of each protein."""
    annotated = [protein.annotated_L for protein in chosen.proteins if protein.annotated_L is not None]
    found: dict[RowOf, list[list[Ranking]]] = {
        of: [[rank_residues(*pair) for pair in zip(each, annotated, strict=True)] for each in seeds]
        for of, seeds in scores.items()
    }
    return found | {"chance": [[chance_of(annotated_L) for annotated_L in annotated]]}


def _figures(
    chosen: Chosen,
    place: int,
    scores: Mapping[RowOf, Sequence[Scores]],
    rankings: Mapping[RowOf, Sequence[Sequence[Ranking]]],
    painted: Mapping[int, Painted | Rejection],
) -> ProteinFigures:
    protein, drawn = chosen.proteins[place], painted.get(place)
    return ProteinFigures(
        id=protein.id,
        num_residues=len(scores["trained"][0][place]),
        num_name_tokens=protein.num_name_tokens,
        num_annotated=protein.num_annotated,
        num_beyond=protein.num_beyond,
        precision={of: fmean(each[place].precision for each in seeds) for of, seeds in rankings.items()},
        auroc={of: fmean(each[place].auroc for each in seeds) for of, seeds in rankings.items()},
        structure=drawn.file if isinstance(drawn, Painted) else None,
    )


def _paint(
    config: AttentionConfig, chosen: Chosen, trained: Scores, shown: Sequence[int]
) -> dict[int, Painted | Rejection]:
    """By place in `chosen`, each shown protein's structure; empty without a manifest."""
    if config.manifest is None:
        return {}
    manifest = Manifest(Path(config.manifest))
    ids = [chosen.proteins[place].id for place in shown]
    rows = find_proteins(manifest, ids)
    return {
        place: paint(manifest, rows.get(id), id, chosen.proteins[place].sequence, trained[place])
        for place, id in zip(shown, ids, strict=True)
    }


def write_attention(path: Path, proteins: Sequence[Looked], scores: Mapping[RowOf, Sequence[Scores]]) -> None:
    """Write the attention to each residue as Parquet: one row a residue, counted from 1.

    `untrained` is that of the first seed, `shuffled` that of the first other name; `annotated` is null without sites.
    """
    metadata = {"amma": json.dumps({"format": "attention", "version": "1.0"})}
    kinds: dict[str, RowOf] = {"trained": "trained", "untrained": "untrained", "shuffled": "shuffled pairs"}
    fields = [("id", pa.string()), ("residue", pa.int32()), ("letter", pa.string())]
    fields += [(name, pa.float32()) for name in kinds]
    schema = pa.schema([*fields, ("annotated", pa.bool_())], metadata=metadata)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for place, protein in enumerate(proteins):
            columns = [scores[of][0][place].astype(np.float32) for of in kinds.values()]
            length = len(columns[0])
            annotated = [None] * length if protein.annotated_L is None else protein.annotated_L.tolist()
            letters = list(protein.sequence[:length])
            first = [pa.array([protein.id] * length), pa.array(range(1, length + 1), pa.int32()), pa.array(letters)]
            table = [*first, *map(pa.array, columns), pa.array(annotated, pa.bool_())]
            writer.write_table(pa.table(table, schema=schema))
