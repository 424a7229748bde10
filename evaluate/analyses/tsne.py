"""Pictures of where proteins' modalities lie: the paper's Fig. 1 (raw features) and Fig. 4 (representations).

Legend: N proteins.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from amma.evaluate.analyses.embedding import (
    Points,
    mixing,
    most_perplexity,
    nearness,
    plane,
    random_vectors,
    reduced,
    reduced_jointly,
)
from amma.evaluate.analyses.report import AnalysisInputs, provenance_of
from amma.evaluate.analyses.subject import AnalysisSubject, HeldOut
from amma.evaluate.analyses.tsne_page import lead_of, sections_of
from amma.evaluate.analyses.tsne_results import Panel, PanelFigures, TsneConfig, TsneReport, TsneResults
from amma.evaluate.analyses.vectors import Vectors, View, collect, lifted, lifts_of, raw, together
from amma.evaluate.controls.baselines import untrained_models
from amma.manifests.console import progress
from amma.manifests.labels import read_tsv
from amma.train.model.alignment import recall_at
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import generator_for
from amma.train.run.arithmetic import arithmetic

COORDINATES = "coordinates.parquet"
NUM_SHUFFLES = 8
COUNTER = -5
"""Random numbers here are `generator_for(seed, COUNTER, …)`: apart from all others."""


@dataclass(frozen=True)
class Shown:
    """What a panel is drawn from; `comparable` are the vectors in which directions of two modalities compare."""

    panel: Panel
    outputs: str
    vectors: Vectors
    comparable: Vectors | None = None


@dataclass(frozen=True)
class Drawing:
    """A finished panel."""

    figures: PanelFigures
    points: Points


def analyse_tsne(
    config: TsneConfig, subject: AnalysisSubject, held_out: HeldOut, *, threads: int | None = None
) -> tuple[TsneReport, Mapping[Panel, Points], Mapping[str, str]]:
    """The report, each panel's points, and the label of each protein that has one."""
    with arithmetic(threads, torch.device(config.device)):
        return _analyse(config, subject, held_out)


def _analyse(
    config: TsneConfig, subject: AnalysisSubject, held_out: HeldOut
) -> tuple[TsneReport, Mapping[Panel, Points], Mapping[str, str]]:
    started = time.monotonic()
    labels = read_label_column(Path(config.labels), config.label_column) if config.labels else {}
    labels = {name: labels[name] for name in held_out.ids if labels.get(name)}
    shown, left_out = _drawable(config, vectors_of_panels(config, subject, held_out))
    perplexity = min(config.perplexity, most_perplexity(3 * len(held_out.ids)))
    drawings = []
    with progress("t-SNE", len(shown), unit="panels") as advance:
        for each in shown:
            drawings.append(draw(config, each, perplexity))
            advance(1)
    results = TsneResults(
        perplexity=perplexity,
        panels=tuple(drawing.figures for drawing in drawings),
        left_out=left_out,
        chance_at_5=min(5 / len(held_out.ids), 1.0),
        num_labelled=len(labels),
    )
    points = {drawing.figures.panel: drawing.points for drawing in drawings}
    report = TsneReport(
        title="Where the modalities of a protein lie",
        lead=lead_of(config, results),
        config=config.model_dump(mode="json"),
        inputs=AnalysisInputs.of(subject),
        proteins=held_out.facts,
        sections=sections_of(config, results, held_out, points, labels),
        results=results,
        provenance=provenance_of(subject, started=started, device=config.device, labels=config.labels),
    )
    return report, points, labels


def vectors_of_panels(config: TsneConfig, subject: AnalysisSubject, held_out: HeldOut) -> list[Shown]:
    """Vectors of every panel of the figure; the proteins are read once."""
    trained = subject.trained.model
    models: dict[Panel, FusionModel] = {}
    if config.figure == 4:
        models = {"trained": trained, "untrained": untrained_models(subject.trained)(0)}
    views: dict[str, View] = {"encoders' features": raw}
    views |= {panel: together(model) for panel, model in models.items()}
    device = next(trained.parameters()).device
    with progress("vectors", len(held_out.rows), unit="proteins") as advance:
        found = collect(subject.store, held_out.rows, views, device=device, advance=advance)
    shown = [_of_model(config, panel, model, found[panel]) for panel, model in models.items()]
    shown.append(Shown("encoders' features", "features", found["encoders' features"]))
    first = shown[0]
    noise = random_vectors(first.vectors, generator_for(config.seed, COUNTER, 0))
    shown.append(Shown("random vectors", f"normal, with mean and σ of the channels of: {first.panel}", noise))
    return shown


def _of_model(config: TsneConfig, panel: Panel, model: FusionModel, fused: Vectors) -> Shown:
    if not model.per_token:
        return Shown(panel, "vectors of Eq. 14", fused, fused)
    if config.joint_pca or lifts_of(model) is None:
        return Shown(panel, "fused outputs", fused, fused)
    return Shown(panel, "ℓ outputs", lifted(model, fused), fused)


def _drawable(config: TsneConfig, shown: list[Shown]) -> tuple[list[Shown], tuple[str, ...]]:
    """What can be drawn, and the panels that cannot: one PCA takes vectors of one width."""
    if not config.joint_pca:
        return shown, ()
    kept = [each for each in shown if len({of.shape[1] for of in each.vectors.values()}) == 1]
    gone = [f"{each.panel}: vectors of different widths have no joint PCA" for each in shown if each not in kept]
    return kept, tuple(gone)


def draw(config: TsneConfig, shown: Shown, perplexity: float) -> Drawing:
    """A panel and its figures."""
    reduce = reduced_jointly if config.joint_pca else reduced
    given = reduce(shown.vectors, config.components, scale=config.figure == 4)
    points = plane(given, perplexity=perplexity, iterations=config.iterations, seed=config.seed)
    rng = generator_for(config.seed, COUNTER, 1)
    orders = [rng.permutation(len(next(iter(given.values())))) for _ in range(NUM_SHUFFLES)]
    figures = PanelFigures(
        panel=shown.panel,
        outputs=shown.outputs,
        components=next(iter(given.values())).shape[1],
        mixing_input=mixing(given),
        mixing_picture=mixing(points),
        nearness_input=nearness(given, orders),
        nearness_picture=nearness(points, orders),
        recall_at_5=None if shown.comparable is None else recall_at_5(shown.comparable),
    )
    return Drawing(figures, points)


def recall_at_5(vectors: Vectors) -> dict[str, float]:
    """The mean of both ways, by pair."""
    names = list(vectors)
    return {
        f"{a}-{b}": (recall_at([5], vectors[a], vectors[b])[5] + recall_at([5], vectors[b], vectors[a])[5]) / 2
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    }


def read_label_column(path: Path, column: str) -> dict[str, str]:
    """The text of a column for each id of a table; raises `InputError` if the table lacks one of the two."""
    return {row["id"].strip(): row[column].strip() for _, row in read_tsv(path, required=("id", column))}


def write_coordinates(
    path: Path, ids: tuple[str, ...], panels: Mapping[Panel, Points], labels: Mapping[str, str]
) -> None:
    """Write the points as Parquet: a row for each panel, modality and protein."""
    fields = [("panel", pa.string()), ("id", pa.string()), ("modality", pa.string())]
    fields += [("x", pa.float64()), ("y", pa.float64()), ("label", pa.string())]
    rows = [
        {"panel": panel, "id": name, "modality": str(modality), "x": x, "y": y, "label": labels.get(name)}
        for panel, points in panels.items()
        for modality, of_N2 in points.items()
        for name, (x, y) in zip(ids, of_N2.tolist(), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path, compression="zstd")
