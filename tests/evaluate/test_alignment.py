import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from amma.evaluate.analyses.alignment import analyse_alignment
from amma.evaluate.analyses.alignment_results import ALONE, APART, TOGETHER, AlignmentConfig, AlignmentReport
from amma.evaluate.analyses.relation import PAIRS, PRINTED, relation_cosines
from amma.evaluate.analyses.subject import AnalysisSubject, choose_held_out, open_analysis
from amma.evaluate.cli import app
from amma.evaluate.report.section import Table
from amma.manifests.errors import AmmaError, CheckpointError, InputError, UsageError
from amma.train.model.alignment import debiased_cka
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model

QUICK = ("--number=24", "--untrained-seeds=2", "--bootstrap=50", "--threads=1", "--device=cpu")


def call(planted, out: Path, *options: str, **changed: Path | str) -> Result:
    paths = {"run": planted.run, "store": planted.store, **changed}
    return CliRunner().invoke(app, ["alignment", str(paths["run"]), str(paths["store"]), str(out), *options])


@pytest.fixture(scope="module")
def written(planted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("alignment") / "out"
    return out, call(planted, out, *QUICK)


@pytest.fixture(scope="module")
def report(written: tuple[Path, Result]) -> AlignmentReport:
    return AlignmentReport.model_validate_json((written[0] / "report.json").read_text())


def test_the_folder_and_a_short_table_are_what_a_run_leaves(
    written: tuple[Path, Result], report: AlignmentReport
) -> None:
    out, result = written
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "config.json", "vectors.parquet"}
    lines = result.stdout.splitlines()
    assert lines[0].startswith("random encoders")
    assert lines[-1] == f"report: {out / 'report.html'}"
    trained = report.results.row("trained", TOGETHER, "lifted")
    assert trained is not None
    (line,) = (line for line in lines if line.startswith("trained, ℓ outputs (all modalities together)"))
    assert line.split()[-3:] == [f"{trained.pairs[pair].relation.mean:.3f}" for pair in PAIRS]


def test_every_kind_of_vectors_has_its_untrained_control(report: AlignmentReport) -> None:
    kinds = [(row.of, row.given, row.outputs) for row in report.results.rows]
    assert kinds[0] == ("encoders' features", "nothing", "features")
    of_model = [
        ("nothing", "projections"),
        (TOGETHER, "fused"),
        (TOGETHER, "lifted"),
        (ALONE, "fused"),
        (ALONE, "lifted"),
    ]
    assert kinds[1:] == [(of, *rest) for of in ("untrained", "trained") for rest in of_model]
    assert [row.num_seeds for row in report.results.rows] == [1, *[2] * 5, *[1] * 5]
    for row in report.results.rows:
        assert (row.pairs["seq-str"].recall is None) == (row.outputs != "fused")


def test_the_figures_follow_from_the_vectors_that_are_kept(
    written: tuple[Path, Result], report: AlignmentReport
) -> None:
    rows = pq.read_table(written[0] / "vectors.parquet").to_pandas()
    for kind, given, outputs in (
        ("trained, lifted, all modalities together", TOGETHER, "lifted"),
        ("trained, fused, each modality alone", ALONE, "fused"),
    ):
        vector = {m: np.stack(rows[(rows.kind == kind) & (rows.modality == m)].vector) for m in ("seq", "func")}
        row = report.results.row("trained", given, outputs)
        assert row is not None
        figures = row.pairs["seq-func"]
        assert figures.relation.mean == pytest.approx(relation_cosines(vector["seq"], vector["func"], 4).mean())
        assert figures.cka is not None
        assert figures.cka.mean == pytest.approx(debiased_cka(vector["seq"], vector["func"]))


def test_the_same_command_gives_the_same_report_apart_from_provenance(
    planted, written: tuple[Path, Result], tmp_path: Path
) -> None:
    assert call(planted, tmp_path / "again", *QUICK).exit_code == 0
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (written[0], tmp_path / "again"))
    assert first.pop("provenance") != second.pop("provenance")
    assert first == second


def test_the_page_shows_the_papers_figures_and_says_who_was_looked_at(
    written: tuple[Path, Result], report: AlignmentReport
) -> None:
    page = " ".join((written[0] / "report.html").read_text().split())
    table = report.sections[0].pieces[0]
    assert isinstance(table, Table)
    strong = table.rows[table.strong[0]]
    assert [strong[2], strong[4], strong[6]] == list(PRINTED["AMMA"].values())
    assert "24 held-out proteins, drawn with seed 0" in page
    assert report.proteins is not None
    assert report.proteins.num == 24
    untrained = report.results.row("untrained", TOGETHER, "lifted")
    assert untrained is not None
    lowest = min(of.relation.mean for of in untrained.pairs.values())
    assert f"the same model untrained, which already gives {lowest:.3f} to" in page


def test_clusters_widen_what_is_resampled_together(planted, tmp_path: Path) -> None:
    subject = open_analysis(planted.run, str(planted.store))
    held_out = choose_held_out(subject, number=12)
    (tmp_path / "clusters.tsv").write_text("".join(f"{name}\tc{n % 3}\n" for n, name in enumerate(held_out.ids)))
    values = {"checkpoint": "c", "store": "s", "number": 12, "untrained_seeds": 1, "bootstrap": 20}
    config = AlignmentConfig.model_validate({**values, "clusters": str(tmp_path / "clusters.tsv")})
    report, vectors = analyse_alignment(config, subject, held_out, threads=1)
    assert (report.results.num_clusters, report.results.clusters) == (3, "clusters.tsv, 0 proteins not in it")
    assert all(len(vector) == 12 for by_modality in vectors.values() for vector in by_modality.values())


@pytest.fixture(scope="module")
def contrastive(planted) -> AnalysisSubject:
    """The planted store, with a contrastive model in place of the checkpoint's."""
    subject = open_analysis(planted.run, str(planted.store))
    config = ModelConfig.model_validate({"family": "contrastive", "width": 16, "ffn": 32, "num_heads": 2})
    torch.manual_seed(3)
    model = make_model(config, subject.trained.model.widths).eval()
    model.standardiser.load_state_dict(subject.trained.model.standardiser.state_dict())
    return AnalysisSubject(replace(subject.trained, model=model), subject.store)


def test_a_contrastive_model_is_held_against_its_own_column_and_never_mixes(contrastive: AnalysisSubject) -> None:
    held_out = choose_held_out(contrastive, number=12)
    config = AlignmentConfig(checkpoint="c", store="s", number=12, untrained_seeds=1, bootstrap=0)
    report, vectors = analyse_alignment(config, contrastive, held_out, threads=1)
    kinds = [(row.given, row.outputs) for row in report.results.rows if row.of == "trained"]
    assert kinds == [("nothing", "projections"), (APART, "Eq. 14")]
    table = report.sections[0].pieces[0]
    assert isinstance(table, Table)
    strong = table.rows[table.strong[0]]
    assert [strong[2], strong[4], strong[6]] == list(PRINTED["contrastive"].values())
    assert "modalities together" not in report.model_dump_json()
    assert set(vectors) == {
        "encoders' features, features",
        "trained, projections",
        "trained, Eq. 14, no modality sees another",
    }


def test_a_dry_run_says_who_would_be_looked_at_and_writes_nothing(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "out", "--number=5", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "5 held-out proteins, drawn with seed 0" in result.stdout
    plan = json.loads(call(planted, tmp_path / "out", "--number=5", "--dry-run", "--json").stdout)
    assert (plan["config"]["batch_size"], plan["proteins"]["num"]) == (4, 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "changed", "kind", "reason"),
    [
        ((), {"run": "nowhere"}, CheckpointError, "no checkpoint"),
        ((), {"store": "nowhere"}, AmmaError, "not a feature store"),
        (("--ids=nowhere.txt",), {}, InputError, "nowhere.txt"),
        (("--device=tpu",), {}, UsageError, "no device 'tpu'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(
    planted, tmp_path: Path, options: tuple[str, ...], changed: dict[str, str], kind: type[AmmaError], reason: str
) -> None:
    result = call(planted, tmp_path / "out", *options, **changed)
    assert isinstance(result.exception, kind)
    assert reason in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_too_few_proteins_are_refused(planted, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("P002\nP003\n")
    result = call(planted, tmp_path / "out", f"--ids={tmp_path / 'ids.txt'}")
    assert isinstance(result.exception, InputError)
    assert "at least 4 are needed" in str(result.exception)
