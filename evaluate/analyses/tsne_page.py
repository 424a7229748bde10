"""The page of a t-SNE analysis: the panels, and the figures that say what a picture cannot."""

from collections.abc import Iterator, Mapping
from typing import Any

from amma.evaluate.analyses.embedding import NEIGHBOURS, Points
from amma.evaluate.analyses.relation import PAIRS
from amma.evaluate.analyses.subject import HeldOut
from amma.evaluate.analyses.tsne_results import Panel, PanelFigures, TsneConfig, TsneReport, TsneResults
from amma.evaluate.report.section import Cell, Column, Figure, Labelled, Section, Table

WORDS = {"seq": "sequence", "str": "structure", "func": "function"}
COLOURS = {"seq": "#1f5fa8", "str": "#c8702a", "func": "#2f8f6b"}
DECIMALS = 3


def lead_of(config: TsneConfig, results: TsneResults) -> str:
    """What the figures say, in a few sentences."""
    mixed = ", ".join(f"{of.panel} {of.mixing_input:.2f}" for of in results.panels)
    lead = (
        f"Fig. {config.figure} of the paper, beside its controls. How often a point's nearest neighbours are of "
        f"another modality, over how often they would be at random: {mixed}; 1 is fully mixed, 0 is an island for each."
    )
    found = [of for of in results.panels if of.recall_at_5 is not None]
    if found:
        recall = ", ".join(
            f"{of.panel} {min(of.recall_at_5.values()):.3f} to {max(of.recall_at_5.values()):.3f}"
            for of in found
            if of.recall_at_5
        )
        seen = "" if _never_mix(results) else "; all modalities were given to the encoder together"
        lead += (
            " Mixed is not matched: how often a protein's other modality is among the five nearest of its own vector "
            f"is {recall} (chance {results.chance_at_5:.3f}{seen})."
        )
    return lead


def sections_of(
    config: TsneConfig,
    results: TsneResults,
    held_out: HeldOut,
    points: Mapping[Panel, Points],
    labels: Mapping[str, str],
) -> tuple[Section, ...]:
    """All of the page."""
    return (
        Section(
            heading="Pictures",
            paragraphs=tuple(_how(config, results)),
            pieces=(picture(held_out.ids, points, labels, config.label_column if config.labels else None),),
        ),
        _figures(config, results),
        Section(heading="Who was looked at", paragraphs=(held_out.facts.sentence(),)),
    )


def _how(config: TsneConfig, results: TsneResults) -> Iterator[str]:
    over = "all points" if config.joint_pca else "the proteins of its modality"
    scaled = f"each channel mapped to [0, 1] over {over}, then " if config.figure == 4 else ""
    pca = "one PCA of all modalities together" if config.joint_pca else "PCA of each modality by itself"
    fewer = {of.components for of in results.panels}
    clamped = (
        f" (of {config.components} asked for: there are no more proteins or channels)"
        if any(count < config.components for count in fewer)
        else ""
    )
    perplexity = f"{results.perplexity:g}"
    if results.perplexity < config.perplexity:
        perplexity += f" (of {config.perplexity:g} asked for: at most a third of the points)"
    yield (
        f"Means over the tokens of each modality, nothing masked; {scaled}{pca} to "
        f"{', '.join(map(str, sorted(fewer)))} dimensions{clamped}; t-SNE of all points of a panel together, "
        f"perplexity {perplexity}, {config.iterations:,} iterations, begun with PCA, seed {config.seed}."
    )
    if not config.joint_pca:
        yield (
            "A PCA of each modality by itself moves every modality's mean to the same place and turns it to axes of "
            "its own. So modalities lie on top of each other or apart by their sizes, and what lies beside what across "
            "modalities is no finding: random vectors do the same."
            + (" --joint-pca has one min-max and one PCA for all." if config.figure == 4 else "")
        )
    yield (
        "Shuffled pairs have no panel: points do not move when another protein's are called their partners. What "
        "shuffling changes is in the figures below. The last entry of the legend joins each protein's three points."
    )
    yield from (f"Left out: {reason}." for reason in results.left_out)


def picture(
    ids: tuple[str, ...], panels: Mapping[Panel, Points], labels: Mapping[str, str], column: str | None
) -> Figure:
    """The panels side by side, two in a row; hovering tells which protein a point is."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "margin": {"l": 12, "r": 12, "t": 72, "b": 12}}
    layout["legend"] = {"itemsizing": "constant"}
    rows = (len(panels) + 1) // 2
    across = min(len(panels), 2)
    gap = 0.03
    for number, (panel, points) in enumerate(panels.items()):
        suffix = "" if number == 0 else str(number + 1)
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        left, top = (number % 2) / across, 1 - (number // 2) / rows
        bare = {"showticklabels": False, "ticks": "", "showgrid": False, "mirror": True, "showline": True}
        layout[f"xaxis{suffix}"] = {**bare, "anchor": f"y{suffix}", "domain": [left, left + 1 / across - gap]}
        layout[f"yaxis{suffix}"] = {**bare, "anchor": f"x{suffix}", "domain": [top - 1 / rows + 2 * gap, top - gap]}
        layout["annotations"].append(
            {
                "x": left + (1 / across - gap) / 2,
                "y": top - gap,
                "xref": "paper",
                "yref": "paper",
                "text": panel,
                "showarrow": False,
                "xanchor": "center",
                "yanchor": "bottom",
            }
        )
        # Below the points, and only when it is asked for.
        data.append({**_joined(points), **axes, "legendgroup": "joined", "showlegend": number == 0, "legendrank": 2000})
        data += [
            {
                "type": "scatter",
                "mode": "markers",
                "name": WORDS[modality],
                "legendgroup": WORDS[modality],
                "showlegend": number == 0,
                "x": of_N2[:, 0].round(DECIMALS).tolist(),
                "y": of_N2[:, 1].round(DECIMALS).tolist(),
                "customdata": [[name, labels.get(name, "–")] for name in ids],
                "marker": {"size": 5, "color": COLOURS[modality], "opacity": 0.75},
                "hovertemplate": "%{customdata[0]}<br>"
                + WORDS[modality]
                + ("<br>label %{customdata[1]}" if column else "")
                + "<extra></extra>",
                **axes,
            }
            for modality, of_N2 in points.items()
        ]
    named = f" Labels are those of column {column}." if column else ""
    return Figure(
        data=tuple(data),
        layout=layout,
        height=110 + 400 * rows,
        caption=f"t-SNE; one point a protein and modality.{named} Axes of t-SNE have no meaning, nor have sizes of "
        "clusters or distances between them.",
        alt=f"Points of {len(ids)} proteins in {len(panels)} panels: {', '.join(panels)}.",
    )


def _joined(points: Points) -> dict[str, Any]:
    """One line through the points of each protein, with a break after each."""
    x: list[float | None] = []
    y: list[float | None] = []
    for corners in zip(*(of_N2.round(DECIMALS).tolist() for of_N2 in points.values()), strict=True):
        x += [*(corner[0] for corner in corners), None]
        y += [*(corner[1] for corner in corners), None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "one protein's points",
        "x": x,
        "y": y,
        "line": {"color": "#9aa3af", "width": 0.5},
        "hoverinfo": "skip",
        "visible": "legendonly",
    }


def _figures(config: TsneConfig, results: TsneResults) -> Section:
    columns = [Column(title="panel")]
    columns += [Column(title=f"{what}, {where}", decimals=2) for what in ("mixing", "nearness") for where in _WHERE]
    with_recall = any(of.recall_at_5 is not None for of in results.panels)
    if with_recall:
        columns += [Column(title=f"recall@5 {pair}", decimals=3) for pair in PAIRS]
    rows = [(*_cells(of), *(_recalls(of) if with_recall else ())) for of in results.panels]
    shuffled: tuple[Cell, ...] = ("shuffled pairs", None, None, 1.0, 1.0)
    rows.append((*shuffled, *((results.chance_at_5,) * len(PAIRS) if with_recall else ())))
    return Section(
        heading="What a picture cannot say",
        paragraphs=(
            f"Mixing: how often the {NEIGHBOURS} nearest points are of another modality, over how often they would be "
            "at random. Nearness: the mean distance of a protein's own points over that of different proteins' points; "
            "below 1, a protein's modalities lie nearer to each other than to other proteins. Both of what t-SNE was "
            "given, which does not depend on it, and of the picture.",
            *(
                (
                    "Recall@5 is of the vectors before ℓ, min-max and PCA: how often a protein's own vector in the "
                    "other modality is among the five nearest, the mean of both ways."
                    + ("" if _never_mix(results) else _SEEN),
                )
                if with_recall
                else ()
            ),
        ),
        pieces=(Table(columns=tuple(columns), rows=tuple(rows)),),
    )


_WHERE = ("given", "picture")
_SEEN = " Encoded together, tokens attend to each other, and vectors of an untrained model find each other as well."


def _never_mix(results: TsneResults) -> bool:
    """Whether the model gives each modality a vector of its own without a look at the others."""
    return any(of.outputs == "vectors of Eq. 14" for of in results.panels)


def _cells(of: PanelFigures) -> tuple[Cell, ...]:
    label = Labelled(text=of.panel, note=of.outputs)
    return (label, of.mixing_input, of.mixing_picture, of.nearness_input, of.nearness_picture)


def _recalls(of: PanelFigures) -> tuple[Cell, ...]:
    return tuple(None if of.recall_at_5 is None else of.recall_at_5[pair] for pair in PAIRS)


def lines_of(report: TsneReport) -> Iterator[str]:
    """The short table that ends a command."""
    results = report.results
    if report.inputs.random_encoders:
        yield "random encoders: these figures show the machinery, not what proteins have in common"
    recall = f"recall@5, chance {results.chance_at_5:.3f}"
    yield f"{'':24}{'mixing':>9}{'picture':>9}{'nearness':>10}{'picture':>9}  {recall}"
    for of in results.panels:
        recall = "  ".join(f"{pair} {of.recall_at_5[pair]:.3f}" for pair in PAIRS) if of.recall_at_5 else "–"
        numbers = f"{of.mixing_input:9.2f}{of.mixing_picture:9.2f}{of.nearness_input:10.2f}{of.nearness_picture:9.2f}"
        yield f"{of.panel:24}{numbers}  {recall}"
    yield from (f"left out: {reason}" for reason in results.left_out)
