import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from amma.evaluate.config import FunctionConfig
from amma.evaluate.function import Evaluation, evaluate_function
from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.report.folder import FILES, check_folder, write_folder
from amma.evaluate.report.results import Report
from amma.evaluate.subject import open_subject
from amma.manifests.errors import UsageError


@pytest.fixture(scope="module")
def config(planted) -> FunctionConfig:
    return planted.config(protocol="probe", num_seeds=2, max_epochs=3)


@pytest.fixture(scope="module")
def evaluation(config: FunctionConfig) -> Evaluation:
    return evaluate_function(config, open_subject(config), threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: FunctionConfig, evaluation: Evaluation) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "deep" / "report"
    check_folder(folder, overwrite=False)
    page = write_folder(folder, evaluation, config)
    assert page == folder / "report.html"
    return folder


def test_the_folder_holds_the_five_files_and_nothing_else(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_report_and_configuration_can_be_read_back(
    folder: Path, config: FunctionConfig, evaluation: Evaluation
) -> None:
    assert Report.model_validate_json((folder / "report.json").read_text()) == evaluation.report
    assert FunctionConfig.model_validate_json((folder / "config.json").read_text()) == config


def test_the_figures_follow_from_the_predictions_alone(folder: Path, evaluation: Evaluation) -> None:
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert list(rows.columns) == ["id", "split", "seed", "term", "name", "score", "calibrated", "target"]
    for run in evaluation.report.row("trained").runs:
        test = rows[(rows.split == "test") & (rows.seed == run.seed)]
        wide = {name: test.pivot(index="id", columns="term", values=name).to_numpy() for name in ("score", "target")}
        score, target = wide["score"].astype(np.float64), wide["target"].astype(bool)
        assert score.shape == (31, 6)
        assert fmax(score, target).value == run.fmax
        assert aupr(score, target) == run.aupr


def test_predictions_are_sorted_and_complete(folder: Path, evaluation: Evaluation) -> None:
    table = pq.read_table(folder / "predictions.parquet")
    header = json.loads(table.schema.metadata[b"amma"])
    assert header == {"format": "predictions", "version": "1.1"}
    columns = ("split", "seed", "id", "term")
    keys = list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == 2 * (32 + 31) * len(evaluation.task.terms)
    assert {key[0] for key in keys} == {"test", "valid"}


def test_calibrated_scores_are_those_of_the_lines_in_the_report(folder: Path, evaluation: Evaluation) -> None:
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    for run in evaluation.report.calibration.runs:
        of_seed = rows[rows.seed == run.seed]
        expected = run.fitted.apply(of_seed.score.to_numpy()[:, None]).astype(np.float32).ravel()
        assert np.array_equal(of_seed.calibrated.to_numpy(), expected)
    assert set(rows.name) == {term.name for term in evaluation.report.terms}


def test_cafas_file_has_the_mean_over_seeds_of_calibrated_scores(folder: Path) -> None:
    rows = pq.read_table(folder / "predictions.parquet").to_pandas().astype({"id": str, "term": str})
    mean = rows[rows.split == "test"].groupby(["id", "term"]).calibrated.mean()
    lines = (folder / "predictions.cafa.tsv").read_text().splitlines()
    told = {tuple(line.split("\t")[:2]): float(line.split("\t")[2]) for line in lines if line.startswith("P1")}
    assert lines[-1] == "END"
    assert told.keys() == {pair for pair, score in mean.items() if score >= 0.01}
    for pair, score in told.items():
        assert score == pytest.approx(mean[pair], abs=0.0051)


def test_ids_that_cafas_format_cannot_hold_are_left_out_of_it_and_named(
    tmp_path: Path, config: FunctionConfig, evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    test = replace(evaluation.task.test, ids=("two words", *evaluation.task.test.ids[1:]))
    write_folder(tmp_path / "r", replace(evaluation, task=replace(evaluation.task, test=test)), config)
    assert "predictions.cafa.tsv is without 'two words'" in capsys.readouterr().err
    assert "two words" not in (tmp_path / "r" / "predictions.cafa.tsv").read_text()


def test_terms_that_cafas_format_cannot_hold_leave_only_that_file_out(
    tmp_path: Path, config: FunctionConfig, evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = ("term 1", *evaluation.task.terms[1:])
    write_folder(tmp_path / "r", replace(evaluation, task=replace(evaluation.task, terms=terms)), config)
    assert "predictions.cafa.tsv is not written: term 'term 1'" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(FILES) - {"predictions.cafa.tsv"}


def test_a_report_is_replaced_only_when_asked(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"already holds a report.*--overwrite"):
        check_folder(folder, overwrite=False)
    check_folder(folder, overwrite=True)


def test_a_folder_with_anything_else_in_it_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"not a report \('thesis.tex'\)"):
            check_folder(tmp_path, overwrite=overwrite)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "thesis.tex", overwrite=False)
