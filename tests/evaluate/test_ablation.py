import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from amma.evaluate.analyses.ablation import tabulate
from amma.evaluate.analyses.ablation_published import published
from amma.evaluate.analyses.ablation_reports import check_together, read_finished
from amma.evaluate.analyses.ablation_results import AblationReport, AblationRow, AblationSet, AblationTable
from amma.evaluate.cli import app
from amma.evaluate.config import FinetuneConfig
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.included import read_included
from amma.evaluate.report.results import Report
from amma.evaluate.report.section import Figure, Table
from amma.manifests.errors import AmmaError, InputError, UsageError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, make_report: Callable[..., Report]) -> Make:
    """Writes a report folder of a task: `facts` of its pretraining, `of` the figures of its trained model."""

    def written(
        name: str,
        task: str = "ec",
        *,
        fmax: tuple[float, ...] = (0.5, 0.6),
        finetune: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **facts: Any,
    ) -> Path:
        report = make_report(task=task)
        assert report.pretraining is not None
        pretraining = report.pretraining.model_dump() | facts
        family, epochs = json.dumps(pretraining["family"]), str(pretraining["epochs"])
        alpha = {} if pretraining["alpha"] is None else {"mask.alpha": json.dumps(pretraining["alpha"])}
        given = facts.get("settings", {})
        pretraining["settings"] = {
            "model.family": family,
            "epochs": epochs,
            "subset": json.dumps(pretraining["subset"]),
        }
        pretraining["settings"] |= {**alpha, **given}
        trained = report.row("trained").model_copy(
            update={"fmax": Summary.of(fmax), "aupr": Summary.of([value - 0.1 for value in fmax])}
        )
        changed = {
            "pretraining": type(report.pretraining).model_validate(pretraining),
            "config": FinetuneConfig.model_validate({"protocol": "probe", **(finetune or {})}),
            "inputs": report.inputs.model_copy(update=inputs or {}),
            "rows": (trained, *report.rows[1:]),
        }
        folder = tmp_path / name
        folder.mkdir()
        text = json.dumps(report.model_copy(update=changed).model_dump(mode="json"))
        (folder / "report.json").write_text(text, encoding="utf-8")
        return folder

    return written


def sets_of(*folders: Path) -> tuple[AblationSet, ...]:
    finished = [read_finished(folder) for folder in folders]
    check_together(finished)
    return tabulate(finished).sets


def table_of(name: str, *folders: Path) -> AblationTable:
    (only,) = sets_of(*folders)
    (found,) = (table for table in only.tables if table.table == name)
    return found


def ours(table: AblationTable) -> dict[str, AblationRow]:
    rows = [row for row in table.rows if row.kind == "ours"]
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def call(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["ablation", *map(str, arguments)])


TASKS = ("ec", "go-mf", "go-cc", "go-bp")


def test_published_figures_are_the_papers(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "paper_tables.json").read_text())
    renamed = {"120k paired": "paired", "120k paired + 50k unpaired": "paired + unpaired"}
    for number, key in (
        ("2", "table2"),
        ("3", "table3_unpaired"),
        ("4", "table4_alpha_22k"),
        ("6", "table6_auxiliary_22k"),
    ):
        table, theirs = published().tables[number], golden[key]
        assert list(table.columns) == theirs.pop("columns")
        if number == "4":
            theirs = {f"α {name.removeprefix('alpha seq,str,func ')}": figures for name, figures in theirs.items()}
        assert {renamed.get(name, name): tuple(figures) for name, figures in theirs.items()} == table.rows


def test_columns_of_means_are_means_of_the_columns_they_name() -> None:
    for number, table in published().tables.items():
        for name in table.rows:
            row = table.row(name)
            for mean, parts in table.means.items():
                # One decimal is printed; Table 3's and Table 6's were rounded from figures with more.
                assert row[mean] == pytest.approx(fmean(row[part] for part in parts), abs=0.11), (number, name)


def test_each_report_finds_its_row_and_cells_are_percent_over_tunings(make: Make) -> None:
    families = {"asymmetric": "AMMA", "symmetric": "AMMA-symmetric", "contrastive": "AMMA-contrastive"}
    families["no-auxiliary"] = "AMMA without auxiliary"
    folders = []
    for place, family in enumerate(families):
        alpha = None if family == "contrastive" else (1.0, 2.0, 2.0)
        fmax = (0.4 + place / 10, 0.47 + place / 10)
        folders.append(make(family, family=family, alpha=alpha, fmax=fmax, num_seq_str=0, num_seq_func=0))
    rows = ours(table_of("2", *folders))
    assert list(rows) == ["AMMA-symmetric", "AMMA-contrastive", "AMMA", "AMMA without auxiliary"]
    for place, name in enumerate(families.values()):
        score = rows[name].scores["EC Fmax"]
        values = [100 * (0.4 + place / 10), 100 * (0.47 + place / 10)]
        assert (score.mean, score.sd) == (pytest.approx(fmean(values)), pytest.approx(stdev(values)))
        assert (score.over, score.num_reports) == ("tunings", 1)
        assert rows[name].scores["EC AUPR"].mean == pytest.approx(fmean(values) - 10)
        assert rows[name].means == {}
    assert rows["AMMA"].published["EC Fmax"] == 88.7
    assert rows["AMMA without auxiliary"].published == {}
    assert list(ours(table_of("6", *folders))) == ["AMMA", "AMMA without auxiliary"]
    assert list(ours(table_of("3", *folders))) == ["paired"]


def test_seeds_of_pretraining_are_one_row_over_their_means_and_other_settings_another(make: Make) -> None:
    figures = {0: (0.4, 0.5), 1: (0.6, 0.7), 2: (0.5, 0.52)}
    folders = [make(f"seed-{seed}", seed=seed, fmax=fmax, num_triplets=600 + seed) for seed, fmax in figures.items()]
    longer = make("longer", epochs=15, fmax=(0.9, 0.9))
    rows = [row for row in table_of("2", *folders, longer).rows if row.kind == "ours"]
    assert [row.reports for row in rows] == [(0, 1, 2), (3,)]
    score = rows[0].scores["EC Fmax"]
    means = [100 * fmean(fmax) for fmax in figures.values()]
    assert (score.mean, score.sd) == (pytest.approx(fmean(means)), pytest.approx(stdev(means)))
    assert (score.over, score.num_reports) == ("pretrainings", 3)
    assert "600–602 triplets" in rows[0].about
    assert "3 seeds of pretraining" in rows[0].about
    assert "15 epochs" in rows[1].about
    (note,) = table_of("2", folders[0], longer).notes
    assert note.endswith("more than what the table is about: epochs 4, 15.")


def test_means_over_tasks_are_there_only_with_all_of_them(make: Make) -> None:
    figures = {task: (0.3 + place / 10, 0.34 + place / 10) for place, task in enumerate(TASKS)}
    folders = {task: make(task, task, fmax=fmax) for task, fmax in figures.items()}
    means = ours(table_of("2", *folders.values()))["AMMA"].means
    expected = 100 * fmean(fmean(fmax) for fmax in figures.values())
    assert means == {"mean Fmax": pytest.approx(expected), "mean AUPR": pytest.approx(expected - 10)}
    row = ours(table_of("4", folders["ec"], folders["go-mf"]))["α 1,2,2"]
    both = 100 * fmean([*figures["ec"], *figures["go-mf"]])
    assert row.means == {"average": pytest.approx(both - 5)}
    assert ours(table_of("2", *[folders[task] for task in TASKS[:3]]))["AMMA"].means == {}


def test_alpha_and_subsets_decide_the_rows_of_table_4(make: Make) -> None:
    whole = make("whole")
    alphas = [(1.0, 1.0, 1.0), (1.0, 2.0, 2.0), (3.0, 1.0, 1.0)]
    subsets = [make(f"subset-{place}", alpha=alpha, subset=500) for place, alpha in enumerate(alphas)]
    assert list(ours(table_of("4", whole, *subsets))) == ["α 1,1,1", "α 1,2,2", "α 3,1,1"]
    assert ours(table_of("4", whole, *subsets))["α 1,2,2"].reports == (2,)
    assert ours(table_of("2", whole, *subsets))["AMMA"].reports == (0,)
    assert ours(table_of("4", whole))["α 1,2,2"].reports == (0,)
    assert next(row.name for row in table_of("4", whole).rows if row.kind == "published") == "α 1,1,1"


def test_a_model_that_went_on_with_pairs_is_in_table_3_alone(make: Make) -> None:
    paired = make("paired", num_seq_str=0, num_seq_func=0)
    went_on = make("went-on", began_with="ab" * 32, num_triplets=0, num_seq_func=0)
    assert list(ours(table_of("3", paired, went_on))) == ["paired", "paired + unpaired"]
    (only,) = sets_of(paired, went_on)
    assert [table.table for table in only.tables if any(1 in row.reports for row in table.rows)] == ["3"]
    again = make("again", began_with="cd" * 32, num_triplets=0, num_seq_func=0)  # from another seed's model
    score = ours(table_of("3", went_on, again))["paired + unpaired"].scores["EC Fmax"]
    assert (score.over, score.num_reports) == ("pretrainings", 2)


def test_protocols_and_readouts_are_never_in_one_table(make: Make) -> None:
    folders = [
        make("probe", fmax=(0.1, 0.2)),
        make("fusion", finetune={"protocol": "fusion"}, fmax=(0.3, 0.4)),
        make("first", finetune={"readout": "first"}, fmax=(0.5, 0.6)),
        make("parts", finetune={"protocol": "fusion", "tune": "paper"}, fmax=(0.7, 0.8)),
    ]
    found = sets_of(*folders)
    assert [(each.protocol, each.readout, each.tune) for each in found] == [
        ("probe", "mean", None),
        ("fusion", "mean", "all"),
        ("probe", "first", None),
        ("fusion", "mean", "paper"),
    ]
    for place, each in enumerate(found):
        for table in each.tables:
            assert {number for row in table.rows for number in row.reports} == {place}


def test_controls_stand_in_every_table_the_untrained_model_once_an_architecture(make: Make) -> None:
    folders = [
        make("a", settings={"model.width": "64", "model.decoder_width": "128"}),
        make("b", family="symmetric", settings={"model.width": "64", "model.decoder_width": "256"}),
        make("c", family="contrastive", alpha=None, settings={"model.width": "64"}),
        make("d", task="ec-class", family="symmetric", settings={"model.width": "64"}),
    ]
    (only,) = sets_of(*folders)
    for table in only.tables:
        held = [row.name for row in table.rows if row.kind == "control"]
        assert [name for name in held if not name.startswith("untrained")] == [
            "pooled inputs",
            "nearest training sequence",
            "label frequency",
        ]
        assert held[0] == "untrained"
    rows = [row for row in table_of("2", *folders).rows if row.name.startswith("untrained")]
    assert [(row.name, row.reports) for row in rows] == [("untrained", (0, 1)), ("untrained, contrastive", (2,))]
    expected = [100 * (0.43 + seed / 80) for seed in range(3)]
    score = rows[0].scores["EC Fmax"]
    assert (score.mean, score.sd, score.over) == (
        pytest.approx(fmean(expected)),
        pytest.approx(stdev(expected)),
        "tunings",
    )


def test_classes_have_a_table_of_their_own_without_published_figures(make: Make) -> None:
    (only,) = sets_of(make("classes", task="ec-class", alpha=(2.0, 1.0, 1.0)))
    assert [table.table for table in only.tables] == ["EC classes"]
    assert only.without == ("2", "3", "4", "6")
    table = only.tables[0]
    assert list(ours(table)) == ["AMMA, α 2,1,1"]
    assert all(row.published == {} for row in table.rows)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"inputs": {"labels_sha256": "ff" * 32}}, r"task ec: labels \(sha256\): 0101.* in .*a, ffff.* in .*b"),
        ({"inputs": {"splits_sha256": {"train": "23" * 32, "valid": "23" * 32}}}, r"task ec: test split \(sha256\)"),
        ({"encoders_sha256": "ff" * 32}, r"encoders \(sha256\)"),
    ],
)
def test_reports_of_other_data_are_refused_by_what_differs(make: Make, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        sets_of(make("a"), make("b", seed=1, **changed))
    if "inputs" in changed:
        assert len(sets_of(make("c"), make("d", task="go-mf", **changed))) == 1  # of another task they may be


def test_a_run_does_not_count_twice(make: Make) -> None:
    a, b = make("a"), make("b", inputs={"checkpoint_sha256": "ff" * 32})
    with pytest.raises(UsageError, match=r"a and .*b are of the same task and the same pretraining .*seed 0"):
        sets_of(a, b)


def test_folders_that_are_no_reports_or_do_not_tell_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no report there"):
        read_finished(tmp_path)
    old = make("old")
    values = json.loads((old / "report.json").read_text())
    (old / "report.json").write_text(json.dumps({**values, "pretraining": None}))
    with pytest.raises(InputError, match="does not tell how its model was pretrained"):
        read_finished(old)
    (old / "report.json").write_text(json.dumps({**values, "rows": 3}))
    with pytest.raises(InputError, match=r"not as this amma writes it \(rows"):
        read_finished(old)


class Shown(HTMLParser):
    """The texts of a page's tables, row by row, and what its figures are called."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.labels: list[str] = []
        self._in_row = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._in_row = True
            self.rows.append("")
        if dict(attrs).get("role") == "img":
            self.labels.append(dict(attrs)["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_row = self._in_row and tag != "tr"

    def handle_data(self, data: str) -> None:
        if self._in_row and data.strip():
            self.rows[-1] += f" {data.strip()}"


def test_the_command_writes_page_tables_and_typed_results(make: Make, tmp_path: Path) -> None:
    folders = [make("a", fmax=(0.5, 0.6)), make("b", task="ec-class"), make("c", family="symmetric")]
    out = tmp_path / "out"
    planned = call(*folders, out, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert f"{folders[0]}: ec, AMMA, protocol probe -> table 2, table 3, table 4, table 6" in planned.output
    assert not out.exists()
    result = call(*folders, out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "config.json", "tables.csv"}
    assert re.search(r"^AMMA +55\.0 ± 7\.1 \(88\.7\)", result.stdout, re.MULTILINE)
    report = AblationReport.model_validate_json((out / "report.json").read_text())
    assert report.inputs.random_encoders
    assert [each.tables for each in report.results.reports] == [("2", "3", "4", "6"), ("EC classes",), ("2",)]
    frame = pd.read_csv(out / "tables.csv", dtype={"table": str})
    cell = frame[(frame.table == "2") & (frame.row == "AMMA") & (frame.column == "EC Fmax")].iloc[0]
    assert (cell["mean"], cell["paper, single run, protocol paper"]) == (pytest.approx(55.0), 88.7)
    shown = Shown((out / "report.html").read_text())
    assert any(re.match(r" AMMA 609 .*55\.0 ± 7\.1 88\.7 – 67\.3", row) for row in shown.rows)
    assert any("AMMA: EC Fmax 55.0, paper 88.7" in label for label in shown.labels)
    for section in report.sections[:-1]:
        assert any(isinstance(piece, Table) for piece in section.pieces)
        assert any(isinstance(piece, Figure) for piece in section.pieces)


def test_the_same_reports_give_the_same_report_apart_from_provenance(make: Make, tmp_path: Path) -> None:
    folders = [make("a"), make("b", family="symmetric")]
    found = [json.loads(call(*folders, tmp_path / name, "--json").stdout) for name in ("one", "two")]
    for each in found:
        each.pop("provenance")
    assert found[0] == found[1]
    assert "already holds an analysis" in str(call(*folders, tmp_path / "one").exception)
    assert call(*folders, tmp_path / "one", "--overwrite").exit_code == 0


def test_a_report_folder_in_the_place_of_out_is_not_touched(make: Make) -> None:
    a, b = make("a"), make("b", seed=1)
    result = call(a, b)
    assert isinstance(result.exception, AmmaError)
    assert "is not an analysis" in str(result.exception)
    assert [path.name for path in b.iterdir()] == ["report.json"]


def test_a_function_report_can_show_it_along(make: Make, tmp_path: Path) -> None:
    assert call(make("a"), tmp_path / "out").exit_code == 0
    included = read_included(tmp_path / "out", checkpoint_sha256="ab" * 32)
    assert (included.analysis, included.checkpoint_sha256, included.same_checkpoint) == ("ablation", None, False)
    assert included.sections[0].heading.startswith("Table 2")
