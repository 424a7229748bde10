from collections.abc import Callable

from amma.evaluate.report.results import Report
from amma.evaluate.report.summary import SHOWN, result_lines

MakeReport = Callable[..., Report]


def test_what_is_told_of_a_report_is_in_it(make_report: MakeReport) -> None:
    report = make_report()
    lines = result_lines(report)
    assert any(line.startswith("trained  ") and line.endswith("0.3300 ± 0.0000") for line in lines)  # macro AUPR
    assert (
        "trained against untrained: Fmax +0.0400 [+0.010, +0.070], p 0.002 (swaps: 0.01); "
        "AUPR +0.0500 [-0.010, +0.090], p 0.2 (swaps: 0.3)"
    ) in lines
    assert "calibration error 0.0400, 0.0100 after the calibration fitted on validation" in lines
    text = "\n".join(lines)
    assert "CAFA's figures of the trained model on 212 proteins: Fmax 0.5500 ± 0.0200, weighted 0.4600 ± 0.0200" in text
    assert "S_min 3.5000 ± 0.0000 (33 terms of ec-class, thresholds 0.01 apart)" in text
    assert "shown along: alignment" in lines


def test_terms_are_listed_with_their_names_and_the_rest_is_counted(make_report: MakeReport) -> None:
    names = tuple(f"T{n}" for n in range(SHOWN + 3))
    report = make_report(names=names)
    assert report.task.ontology is not None
    lines = result_lines(report)
    # Of the planted terms the first is called as its name says; the others have other ids.
    assert "  not in the ontology: T0 (what T0 is called)" in lines
    assert f"  not in the ontology: T{SHOWN - 1}" in lines
    assert f"  not in the ontology: T{SHOWN}" not in lines
    assert "  … and 3 more; the report names them all" in lines


def test_names_that_would_steer_a_terminal_are_shown_as_text(make_report: MakeReport) -> None:
    lines = result_lines(make_report(names=("\x1b[2Jgone", "a\u202eb"), path="an\x1b[31mred"))
    assert all(line.isprintable() for line in lines)
    assert any("gone" in line for line in lines)


def test_an_analysis_of_another_model_is_told_as_such(make_report: MakeReport) -> None:
    report = make_report()
    other = report.included[0].model_copy(update={"same_checkpoint": False, "checkpoint_sha256": "fe" * 32})
    lines = result_lines(report.model_copy(update={"included": (other,)}))
    assert "shown along: alignment of ANOTHER checkpoint (sha256 fefefefefefe)" in lines
    several = other.model_copy(update={"checkpoint_step": None, "checkpoint_sha256": None})
    lines = result_lines(report.model_copy(update={"included": (several,)}))
    assert "shown along: alignment of SEVERAL checkpoints" in lines


def test_without_an_ontology_or_resamples_their_lines_are_left_out(make_report: MakeReport) -> None:
    report = make_report()
    rows = tuple(row.model_copy(update={"cafa": None}) for row in report.rows)
    task = report.task.model_copy(update={"ontology": None})
    plain = report.model_copy(update={"rows": rows, "task": task, "cafa": None, "paired": (), "intervals": None})
    text = "\n".join(result_lines(plain))
    assert "CAFA" not in text
    assert "against" not in text
    assert "resamples" not in text
