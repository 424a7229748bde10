import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amma.evaluate.analyses.folder import check_folder, write_folder
from amma.evaluate.analyses.report import AnalysisInputs, AnalysisReport, provenance_of
from amma.evaluate.analyses.subject import choose_held_out, open_analysis
from amma.evaluate.report.section import Column, Section, Table
from amma.manifests.errors import UsageError


@pytest.fixture(scope="module")
def report(planted) -> AnalysisReport:
    subject = open_analysis(planted.run, str(planted.store))
    held_out = choose_held_out(subject, number=5)
    return AnalysisReport(
        analysis="trial",
        title="A trial",
        lead="What it says.",
        config={"number": 5},
        inputs=AnalysisInputs.of(subject),
        proteins=held_out.facts,
        sections=(
            Section(
                heading="Part <b>one</b>",
                pieces=(
                    Table(columns=(Column(title="id"), Column(title="x", decimals=2)), rows=(("<i>P</i>", 1.234),)),
                ),
            ),
        ),
        provenance=provenance_of(subject, started=time.monotonic(), device="cpu"),
    )


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def test_the_folder_holds_what_its_list_names_and_the_report_can_be_read_back(
    report: AnalysisReport, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "analysis"
    check_folder(folder, overwrite=False)
    page = write_folder(folder, report, {"vectors.parquet": text("v"), "structures/P1.cif": text("c")})
    assert page == folder / "report.html"
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert held == {"report.html", "report.json", "config.json", "vectors.parquet", "structures/P1.cif"}
    assert held == set(json.loads((folder / "config.json").read_text())["files"])
    assert AnalysisReport.model_validate_json((folder / "report.json").read_text()) == report
    written = page.read_text()
    assert "A trial" in written
    assert "1.23" in written
    assert "random" in written
    assert "<i>P</i>" not in written


def test_an_older_analysis_is_replaced_whole_and_only_when_asked(report: AnalysisReport, tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    write_folder(folder, report, {"vectors.parquet": text("v"), "structures/P1.cif": text("c")})
    with pytest.raises(UsageError, match=r"already holds an analysis.*--overwrite"):
        check_folder(folder, overwrite=False)
    check_folder(folder, overwrite=True)
    write_folder(folder, report, {"other.parquet": text("o")})
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "other.parquet",
        "report.html",
        "report.json",
    ]


def test_what_no_analysis_lists_is_never_touched(report: AnalysisReport, tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    write_folder(folder, report, {"structures/P1.cif": text("c")})
    (folder / "structures" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"not an analysis \('structures/thesis.tex'\)"):
            check_folder(folder, overwrite=overwrite)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text("{}")
    with pytest.raises(UsageError, match="not an analysis"):
        check_folder(tmp_path / "other", overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "other" / "report.json", overwrite=True)


def test_a_list_that_points_out_of_the_folder_removes_nothing_there(report: AnalysisReport, tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    write_folder(folder, report)
    (tmp_path / "thesis.tex").write_text("years of work")
    listed = json.loads((folder / "config.json").read_text())
    listed["files"] += ["../thesis.tex", str(tmp_path / "thesis.tex")]
    (folder / "config.json").write_text(json.dumps(listed))
    write_folder(folder, report)
    assert (tmp_path / "thesis.tex").exists()


def test_what_fails_leaves_no_page_and_the_next_run_needs_no_leave(report: AnalysisReport, tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    write_folder(folder, report, {"vectors.parquet": text("v")})

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_folder(folder, report, {"first.parquet": text("f"), "vectors.parquet": full})
    assert not (folder / "report.html").exists()
    assert not (folder / "report.json").exists()
    check_folder(folder, overwrite=False)
    write_folder(folder, report, {"vectors.parquet": text("v")})
    assert {path.name for path in folder.iterdir()} == {"config.json", "report.html", "report.json", "vectors.parquet"}
