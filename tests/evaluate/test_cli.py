import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amma.evaluate.cli import app
from amma.evaluate.report.results import Report
from amma.featurize.store.push import push_store
from amma.manifests.errors import AmmaError, CheckpointError, InputError, UsageError


def call(planted, report: Path, *options: str, **changed: Path | str):
    paths = {"run": planted.run, "store": planted.store, "labels": planted.labels, "splits": planted.splits, **changed}
    return CliRunner().invoke(
        app,
        [
            "function",
            str(paths["run"]),
            str(paths["store"]),
            str(report),
            "--task=ec-class",
            f"--labels={paths['labels']}",
            f"--splits={paths['splits']}",
            "--threads=1",
            *options,
        ],
    )


QUICK = ("--epochs=2", "--seeds=1", "--head-lr=0.003")


def test_a_run_ends_with_the_table_and_the_path_of_the_page(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "report", *QUICK, "--fusion-lr=0.001")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1] == f"report: {tmp_path / 'report' / 'report.html'}"
    assert [line.split("  ")[0] for line in lines[4:9]] == [
        "trained",
        "untrained",
        "pooled inputs",
        "nearest training sequence",
        "label frequency",
    ]
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert f"{report.row('trained').fmax.mean:.4f}" in lines[4]
    assert report.task.num_terms == 5  # the EC classes 1, 2, 3, 5 and 6
    assert report.config.grid == ((0.001, 0.003),)


def test_what_is_tuned_is_in_the_report(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "report", *QUICK, "--fusion-lr=0.001", "--tune=paper")
    assert result.exit_code == 0, result.output
    assert "protocol fusion (B.2's parts only)" in result.stdout
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert report.config.tune == "paper"
    assert "tuning what B.2 of the paper lists" in " ".join((tmp_path / "report" / "report.html").read_text().split())


def test_json_on_stdout_is_the_report(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "report", *QUICK, "--protocol=probe", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "report" / "report.json").read_text())


def test_a_dry_run_checks_everything_and_writes_nothing(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "report", "--dry-run")
    assert result.exit_code == 0, result.output
    assert (
        "31 proteins (1 without a label), 1 outside the label table, 1 labelled but not in the store" in result.stdout
    )
    assert "6 tunings of at most 50 epochs" in result.stdout
    assert "local alignments" in result.stdout
    plan = json.loads(call(planted, tmp_path / "report", "--dry-run", "--json").stdout)
    assert (plan["task"]["test"]["num_proteins"], plan["tunings"], plan["config"]["tune"]) == (31, 6, "all")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "changed", "kind", "reason"),
    [
        (("--protocol=probe", "--fusion-lr=1e-5"), {}, UsageError, "no effect with protocol probe"),
        (("--protocol=probe", "--tune=paper"), {}, UsageError, "tune has no effect with protocol probe"),
        (("--protocol=probe", "--tune=all"), {}, UsageError, "tune has no effect with protocol probe"),
        (("--readout=global",), {}, UsageError, "has no global token"),
        (("--head-lr=0",), {}, UsageError, "greater than 0"),
        (("--bootstrap=0", "--clusters=c.tsv"), {}, UsageError, "clusters has no effect"),
        (("--device=tpu",), {}, UsageError, "no device 'tpu'"),
        ((), {"run": "nowhere"}, CheckpointError, "no checkpoint"),
        ((), {"store": "nowhere"}, AmmaError, "not a feature store"),
        ((), {"labels": "nowhere.tsv"}, InputError, "nowhere.tsv"),
        ((), {"splits": "nowhere"}, InputError, "train.txt"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(
    planted, tmp_path: Path, options: tuple[str, ...], changed: dict[str, str], kind: type[AmmaError], reason: str
) -> None:
    result = call(planted, tmp_path / "r", *options, **{name: tmp_path / path for name, path in changed.items()})
    assert isinstance(result.exception, kind), result.output
    assert reason in str(result.exception)
    assert not (tmp_path / "r").exists()


def test_an_unknown_task_is_misuse(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "r", "--task=ecc")
    assert result.exit_code == 2
    assert "ec-class" in result.stderr


def test_help_needs_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from amma.evaluate.cli import app; "
        "result = CliRunner().invoke(app, ['function', '--help']); assert result.exit_code == 0, result.output; "
        "heavy = {'torch', 'pandas', 'zarr', 'pyarrow', 'plotly', 'sklearn', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def write_go(planted, folder: Path) -> tuple[Path, Path]:
    """The planted labels as DeepFRI publishes its own: an annotation table of three branches, lists with a prefix.

    Molecular function holds the planted terms; the other two have a term that no protein of these splits has.
    """
    terms = {line.split("\t")[0]: line.split("\t")[1] for line in planted.labels.read_text().splitlines()[1:]}
    known = sorted({term for of in terms.values() for term in of.split(",") if term})
    go = {term: f"GO:{number:07d}" for number, term in enumerate(known, start=1)}
    titles = ("molecular_function", "biological_process", "cellular_component")
    lines = []
    for title, branch in zip(titles, ([*go.values()], ["GO:0000099"], ["GO:0000098"]), strict=True):
        lines += [f"### GO-terms ({title})", "\t".join(branch), f"### GO-names ({title})", "\t".join(branch)]
    lines.append("### PDB-chain\t" + "\t".join(f"GO-terms ({title})" for title in titles))
    lines += [f"{name}\t{','.join(go[term] for term in of.split(',') if term)}\t\t" for name, of in terms.items()]
    (folder / "annot.tsv").write_text("\n".join(lines) + "\n")
    lists = folder / "lists"
    lists.mkdir()
    for name in ("train", "valid", "test"):
        ids = (planted.splits / f"{name}.txt").read_text()
        (lists / f"nrPDB-GO_{name}.txt").write_text(ids)
        (lists / f"nrPDB-EC_{name}.txt").write_text("another\n")
    return folder / "annot.tsv", lists


@pytest.mark.parametrize("unlabelled", ["keep", "drop"])
def test_a_branch_of_go_in_deepfris_format_goes_the_whole_way(planted, tmp_path: Path, unlabelled: str) -> None:
    labels, splits = write_go(planted, tmp_path)
    options = (*QUICK, "--protocol=probe", "--task=go-mf", "--split-prefix=nrPDB-GO", f"--unlabelled={unlabelled}")
    result = call(planted, tmp_path / "report", *options, labels=labels, splits=splits)
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    test = report.task.test
    assert (report.task.name, report.task.num_terms, report.task.unlabelled) == ("go-mf", 6, unlabelled)
    expected = (31, 1, 1) if unlabelled == "keep" else (30, 0, 2)
    assert (test.num_proteins, test.num_unlabelled, test.num_unknown) == expected
    assert "GO molecular function" in (tmp_path / "report" / "report.html").read_text()
    assert report.row("trained").aupr.mean > 0


def test_of_several_sets_of_lists_one_must_be_named(planted, tmp_path: Path) -> None:
    labels, splits = write_go(planted, tmp_path)
    result = call(planted, tmp_path / "report", "--task=go-mf", labels=labels, splits=splits)
    assert isinstance(result.exception, UsageError)
    assert "several splits: nrPDB-EC_train.txt, nrPDB-GO_train.txt" in str(result.exception)


def test_a_branch_without_a_label_in_training_cannot_be_learned(planted, tmp_path: Path) -> None:
    labels, splits = write_go(planted, tmp_path)
    options = ("--task=go-bp", "--split-prefix=nrPDB-GO")
    result = call(planted, tmp_path / "report", *options, labels=labels, splits=splits)
    assert isinstance(result.exception, InputError)
    assert "no training protein has a label" in str(result.exception)


def test_a_store_in_a_bucket_is_checked_as_one_in_a_folder(planted, bucket, tmp_path: Path) -> None:
    push_store(planted.store, "s3://proteins/planted")
    plans = [
        call(planted, tmp_path / "report", "--dry-run", "--json", **changed)
        for changed in ({}, {"store": "s3://proteins/planted/"})
    ]
    assert [plan.exit_code for plan in plans] == [0, 0], plans[1].output
    here, there = (json.loads(plan.stdout) for plan in plans)
    assert there == here
