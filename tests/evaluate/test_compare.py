"""Two reports side by side: what must be the same is checked, and the figures are those of their predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from amma.evaluate.cli import app
from amma.evaluate.compare import compare_reports
from amma.evaluate.comparison.results import Comparison
from amma.evaluate.config import FinetuneConfig
from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.paired import compare as compare_scores
from amma.evaluate.metrics.per_term import term_figures
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.predictions import PredictionBlock, write_predictions
from amma.evaluate.report.results import Report
from amma.evaluate.tasks.task import Split
from amma.manifests.errors import AmmaError, InputError, UsageError

PROTEINS, TERMS, SEEDS = 40, 6, 3
IDS = tuple(f"P{n:02d}" for n in range(PROTEINS))
NAMES = tuple(f"{n + 1}.1.1.1" for n in range(TERMS))
Make = Callable[..., Path]


def labels() -> np.ndarray:
    target_NK = np.random.default_rng(7).random((PROTEINS, TERMS)) < 0.3
    target_NK[:, -1] = False  # a term that no test protein has
    target_NK[3] = False  # a protein without a term
    return target_NK


def scores(seed: int, signal: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    noisy = [rng.random((PROTEINS, TERMS)) + signal * labels() for _ in range(SEEDS)]
    return [(each / each.max()).astype(np.float32) for each in noisy]


@pytest.fixture
def make(tmp_path: Path, make_report: Callable[..., Report]) -> Make:
    """A report folder with predictions of our choice."""

    def made(
        name: str,
        seed: int,
        *,
        signal: float = 0.5,
        rows: slice = slice(None),
        terms: tuple[str, ...] = NAMES,
        target_NK: np.ndarray | None = None,
        inputs: dict[str, Any] | None = None,
        config: FinetuneConfig | None = None,
        task: str = "ec",
        fmax_of_report: float | None = None,
    ) -> Path:
        target_NK = (labels() if target_NK is None else target_NK)[rows]
        of_seeds = [each[rows] for each in scores(seed, signal)]
        split = Split(IDS[rows], np.arange(len(target_NK)), target_NK, (), 0)
        folder = tmp_path / name
        folder.mkdir()
        write_predictions(
            folder / "predictions.parquet",
            terms,
            {},
            [
                PredictionBlock(which, number, split, score_NK if which == "test" else score_NK[::-1], score_NK)
                for which in ("test", "valid")
                for number, score_NK in enumerate(of_seeds)
            ],
        )
        report = make_report(task=task)
        values = [fmax(each, target_NK).value for each in of_seeds]
        trained = report.row("trained")
        trained = trained.model_copy(
            update={
                "fmax": Summary.of([fmax_of_report] * SEEDS if fmax_of_report else values),
                "runs": tuple(run.model_copy(update={"threshold": 0.5}) for run in trained.runs),
            }
        )
        report = report.model_copy(
            update={
                "rows": (trained, *report.rows[1:]),
                "inputs": report.inputs.model_copy(update=inputs or {}),
                "config": config or report.config,
                "intervals": report.intervals and report.intervals.model_copy(update={"clusters_sha256": None}),
            }
        )
        (folder / "report.json").write_text(report.model_dump_json())
        return folder

    return made


def test_figures_and_differences_are_those_of_the_predictions(make: Make) -> None:
    found = compare_reports(make("a", 0, signal=0.9), make("b", 1, signal=0.4), num_resamples=200)
    a, b, target_NK = scores(0, 0.9), scores(1, 0.4), labels()
    assert found.a.fmax.values == tuple(fmax(each, target_NK).value for each in a)
    assert found.b.aupr.values == tuple(aupr(each, target_NK) for each in b)
    expected = compare_scores(a, b, target_NK, np.arange(PROTEINS), 200)
    for figure, same in ((found.fmax, expected.fmax), (found.aupr, expected.aupr)):
        assert figure.difference == pytest.approx(same.difference, abs=1e-6)
        assert (figure.interval.low, figure.interval.high) == (same.low, same.high)
        assert (figure.p_bootstrap, figure.p_swap) == (same.p_bootstrap, same.p_swap)
    assert found.fmax.difference > 0
    assert found.fmax.p_swap < 0.05


def test_terms_and_proteins_are_won_lost_or_tied(make: Make) -> None:
    found = compare_reports(make("a", 0), make("b", 1), num_resamples=10)
    a, b, target_NK = scores(0, 0.5), scores(1, 0.5), labels()
    ap_a, ap_b = (np.mean([term_figures(s, target_NK).average_precision_K for s in side], axis=0) for side in (a, b))
    known = slice(0, TERMS - 1)
    assert (found.term_wins.a, found.term_wins.b) == ((ap_a > ap_b)[known].sum(), (ap_a < ap_b)[known].sum())
    assert (found.terms[0].a, found.terms[0].b) == (ap_a[0], ap_b[0])
    assert (found.terms[-1].a, found.terms[-1].b, found.terms[-1].num_test) == (None, None, 0)

    def protein_f(side: list[np.ndarray], n: int) -> float:
        hits = [((each[n] >= 0.5) & target_NK[n]).sum() for each in side]
        said = [(each[n] >= 0.5).sum() for each in side]
        return float(np.mean([2 * h / max(s + target_NK[n].sum(), 1) for h, s in zip(hits, said, strict=True)]))

    assert "P03" not in {each.id for each in found.proteins}
    for each in found.proteins[:5]:
        n = IDS.index(each.id)
        assert (each.a, each.b) == (pytest.approx(protein_f(a, n)), pytest.approx(protein_f(b, n)))
    wins = found.protein_wins
    assert wins.a + wins.b + wins.ties == len(found.proteins) == labels().any(axis=1).sum()


def test_a_report_against_itself_is_a_tie(make: Make) -> None:
    one = make("a", 0)
    found = compare_reports(one, one, num_resamples=50)
    assert (found.fmax.difference, found.fmax.interval.low, found.fmax.interval.high) == (0, 0, 0)
    assert found.fmax.p_bootstrap == found.fmax.p_swap == 1
    assert (found.term_wins.a, found.term_wins.b, found.protein_wins.a, found.protein_wins.b) == (0, 0, 0, 0)
    assert found.others == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "ec-class"}, "task: ec and ec-class"),
        ({"inputs": {"labels_sha256": "ff" * 32}}, r"labels \(sha256\): 01.* and ff"),
        (
            {"inputs": {"splits_sha256": {"train": "1", "valid": "2", "test": "3"}}},
            r"valid split \(sha256\): 23.* and 2;",
        ),
        ({"terms": ("x", *NAMES[1:])}, r"terms: 1 only in the first \('1.1.1.1'\), 1 only in the second \('x'\)"),
        ({"rows": slice(2, None)}, r"test proteins: 2 only in the first \('P00', 'P01'\).*--common"),
        (
            {"config": FinetuneConfig.model_validate({"protocol": "probe"})},
            "protocol: fusion and probe.*--across-protocols",
        ),
    ],
    ids=["task", "labels", "splits", "terms", "proteins", "protocol"],
)
def test_what_must_be_the_same_and_is_not_is_named(make: Make, changed: dict[str, Any], said: str) -> None:
    a, b = make("a", 0, task="ec"), make("b", 1, **changed)
    with pytest.raises(UsageError, match=said):
        compare_reports(a, b, num_resamples=10)


def test_on_request_only_common_proteins_are_compared_and_the_others_counted(make: Make) -> None:
    a, b = make("a", 0, rows=slice(0, 35)), make("b", 1, rows=slice(3, None))
    found = compare_reports(a, b, num_resamples=10, common=True)
    assert (found.num_proteins, found.a.num_only_here, found.b.num_only_here) == (32, 3, 5)
    target_NK = labels()[3:35]
    assert found.a.fmax.values == tuple(fmax(each[3:35], target_NK).value for each in scores(0, 0.5))


def test_on_request_protocols_are_crossed_with_a_warning(make: Make) -> None:
    probe = FinetuneConfig.model_validate({"protocol": "probe"})
    a, b = make("a", 0), make("b", 1, config=probe)
    done = run(a, b, "--across-protocols", "--bootstrap=10")
    assert done.exit_code == 0, done.output
    assert "WARNING: the two were tuned by different protocols" in done.stdout
    assert "they differ in  tuning.fusion_lrs, tuning.protocol, tuning.tune" in done.stdout


def test_labels_that_differ_under_one_id_are_found(make: Make) -> None:
    other_NK = labels()
    other_NK[5, 0] ^= True
    with pytest.raises(InputError, match="other labels for 'P05'"):
        compare_reports(make("a", 0), make("b", 1, target_NK=other_NK), num_resamples=10)


def test_predictions_of_another_evaluation_are_found(make: Make) -> None:
    with pytest.raises(InputError, match="not of the same evaluation"):
        compare_reports(make("a", 0), make("b", 1, fmax_of_report=0.123), num_resamples=10)


def test_clusters_are_drawn_together(make: Make, tmp_path: Path) -> None:
    table = tmp_path / "clusters.tsv"
    table.write_text("".join(f"{name}\tc{n // 4}\n" for n, name in enumerate(IDS)))
    a, b = make("a", 0), make("b", 1)
    found = compare_reports(a, b, clusters=table, num_resamples=100)
    expected = compare_scores(scores(0, 0.5), scores(1, 0.5), labels(), np.arange(PROTEINS) // 4, 100)
    assert found.clusters.num_clusters == 10
    assert (found.fmax.interval.low, found.fmax.interval.high) == (expected.fmax.low, expected.fmax.high)


def run(a: Path, b: Path, *options: str):
    return CliRunner().invoke(app, ["compare", str(a), str(b), *options])


def test_the_command_prints_a_table_and_writes_a_page(make: Make, tmp_path: Path) -> None:
    a, b, out = make("a", 0, signal=0.9), make("b", 1), tmp_path / "out"
    done = run(a, b, str(out), "--bootstrap=50")
    assert done.exit_code == 0, done.output
    found = Comparison.model_validate_json((out / "compare.json").read_text())
    assert f"{found.a.fmax.mean:.4f}" in done.stdout
    assert f"{found.fmax.difference:+.4f}" in done.stdout
    assert f"A ahead {found.term_wins.a}, B ahead {found.term_wins.b}, ties {found.term_wins.ties}" in done.stdout
    assert "WARNING: every protein is a cluster of its own" in done.stderr
    page = (out / "compare.html").read_text()
    assert "Two models on ec" in page
    assert f"{found.fmax.difference:.4f}"[1:] in page
    assert {path.name for path in out.iterdir()} == {"compare.html", "compare.json"}

    again = run(a, b, str(out), "--bootstrap=50", "--json", "--overwrite")
    same = json.loads(again.stdout)
    before = found.model_dump(mode="json")
    assert {**same, "provenance": None} == {**before, "provenance": None}


def test_nothing_but_a_comparison_is_written_over(make: Make, tmp_path: Path) -> None:
    a, b, out = make("a", 0), make("b", 1), tmp_path / "out"
    assert run(a, b, str(out), "--bootstrap=10").exit_code == 0
    refused = run(a, b, str(out), "--bootstrap=10")
    assert isinstance(refused.exception, UsageError)
    assert "--overwrite" in str(refused.exception)
    (out / "thesis.tex").write_text("years of work")
    refused = run(a, b, str(out), "--bootstrap=10", "--overwrite")
    assert isinstance(refused.exception, UsageError)
    assert "thesis.tex" in str(refused.exception)


def test_what_is_no_report_is_said(make: Make, tmp_path: Path) -> None:
    a = make("a", 0)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        done = run(a, path)
        assert isinstance(done.exception, AmmaError)
        assert "no report" in str(done.exception)
    whole = json.loads((a / "report.json").read_text())
    (a / "report.json").write_text(json.dumps({**whole, "rows": "none"}))
    done = run(a, a)
    assert isinstance(done.exception, InputError)
    assert "report.json: not as this amma writes it (rows: " in str(done.exception)
    (a / "report.json").write_text(json.dumps(whole))
    (a / "predictions.parquet").unlink()
    done = run(a, a)
    assert isinstance(done.exception, InputError)
    assert "predictions.parquet" in str(done.exception)
