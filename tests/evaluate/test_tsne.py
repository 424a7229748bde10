import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from amma.evaluate.analyses.embedding import mixing
from amma.evaluate.analyses.tsne_results import TsneReport
from amma.evaluate.cli import app
from amma.evaluate.report.section import Figure
from amma.manifests.errors import AmmaError, InputError, UsageError
from amma.manifests.table import Modality

QUICK = ("--number=12", "--iterations=250", "--threads=1", "--device=cpu")


def call(planted, out: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["tsne", str(planted.run), str(planted.store), str(out), *options])


def read(out: Path) -> TsneReport:
    return TsneReport.model_validate_json((out / "report.json").read_text())


@pytest.fixture(scope="module")
def written(planted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("tsne") / "out"
    return out, call(planted, out, *QUICK, f"--labels={planted.labels}")


def test_figure_4_has_a_panel_for_the_model_and_each_control(written: tuple[Path, Result]) -> None:
    out, result = written
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "config.json", "coordinates.parquet"}
    report = read(out)
    panels = {of.panel: of for of in report.results.panels}
    assert list(panels) == ["trained", "untrained", "encoders' features", "random vectors"]
    assert [of.recall_at_5 is not None for of in panels.values()] == [True, True, False, False]
    assert panels["trained"].outputs == "ℓ outputs"
    assert panels["trained"].components == 11  # of 12 proteins
    assert panels["encoders' features"].components == 6  # text features of the store are so wide
    assert report.results.perplexity == pytest.approx(35 / 3)
    page = " ".join((out / "report.html").read_text().split())
    assert "of 500 asked for" in page
    assert "of 200 asked for" in page
    assert result.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"


def test_coordinates_are_those_of_the_picture_with_their_labels(written: tuple[Path, Result], planted) -> None:
    out, _ = written
    report = read(out)
    rows = pq.read_table(out / "coordinates.parquet").to_pandas()
    assert len(rows) == 4 * 3 * 12
    trained = rows[rows.panel == "trained"]
    points = {m: trained[trained.modality == m][["x", "y"]].to_numpy() for m in Modality}
    assert mixing(points) == pytest.approx(report.results.panels[0].mixing_picture)
    (figure,) = report.sections[0].pieces
    assert isinstance(figure, Figure)
    traces = [trace for trace in figure.data if trace["mode"] == "markers"]
    assert np.allclose(traces[0]["x"], points[Modality.SEQ][:, 0], atol=1e-3)
    classes = dict(line.split("\t")[::2] for line in planted.labels.read_text().splitlines()[1:])
    for name, label in zip(rows.id, rows.label, strict=True):
        assert label == (classes.get(name) or None)
    assert [name for name, _ in traces[0]["customdata"]] == trained[trained.modality == "seq"].id.tolist()


def test_the_same_command_gives_the_same_report_apart_from_provenance(
    planted, written: tuple[Path, Result], tmp_path: Path
) -> None:
    assert call(planted, tmp_path / "again", *QUICK, f"--labels={planted.labels}").exit_code == 0
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (written[0], tmp_path / "again"))
    first.pop("provenance")
    second.pop("provenance")
    assert first == second


def test_figure_1_is_of_raw_features(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "out", *QUICK, "--figure=1", "--components=3", "--perplexity=4")
    assert result.exit_code == 0, result.output
    report = read(tmp_path / "out")
    assert [of.panel for of in report.results.panels] == ["encoders' features", "random vectors"]
    assert {of.components for of in report.results.panels} == {3}
    assert report.results.perplexity == 4
    assert "recall@5" not in [column.title for column in report.sections[1].pieces[0].columns]  # type: ignore[union-attr]


def test_one_pca_for_all_leaves_out_what_shares_no_space(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "out", *QUICK, "--joint-pca")
    assert result.exit_code == 0, result.output
    report = read(tmp_path / "out")
    assert [(of.panel, of.outputs) for of in report.results.panels][:2] == [
        ("trained", "fused outputs"),
        ("untrained", "fused outputs"),
    ]
    assert [of.panel for of in report.results.panels] == ["trained", "untrained", "random vectors"]
    assert report.results.left_out == ("encoders' features: vectors of different widths have no joint PCA",)
    assert "left out: encoders' features" in result.stdout


def test_by_default_the_papers_numbers_of_proteins_are_asked_for(planted, tmp_path: Path) -> None:
    for figure, number, components in (("1", 1000, 100), ("4", 500, 500)):
        plan = json.loads(call(planted, tmp_path / "out", f"--figure={figure}", "--dry-run", "--json").stdout)
        assert (plan["config"]["number"], plan["config"]["components"]) == (number, components)
        assert (plan["config"]["perplexity"], plan["config"]["iterations"]) == (200, 2500)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        (("--figure=1", "--joint-pca"), UsageError, "joint_pca has no effect on figure 1"),
        (("--labels=nowhere.tsv",), InputError, "nowhere.tsv"),
        (("--label-column=family", "--labels={labels}"), InputError, "no column family"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(
    planted, tmp_path: Path, options: tuple[str, ...], kind: type[AmmaError], reason: str
) -> None:
    result = call(planted, tmp_path / "out", *(option.format(labels=planted.labels) for option in options))
    assert isinstance(result.exception, kind)
    assert reason in str(result.exception)
    assert not (tmp_path / "out").exists()
