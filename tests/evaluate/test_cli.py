import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from amma.evaluate.cli import app
from amma.evaluate.report.results import Report
from amma.featurize.store.push import push_store
from amma.manifests.errors import AmmaError, CheckpointError, InputError, UsageError
from amma.manifests.quarantine import Rejection, write_quarantine
from amma.train.run.checkpoint import load_model


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
    assert "nearest training sequence: how similar" in result.stdout
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
        (("--draws=2",), {}, UsageError, "draws has no effect with visible all"),
        (("--search=mmseqs",), {}, InputError, "apt-get install mmseqs2"),
        (("--search=diamond",), {}, InputError, "apt-get install diamond-aligner"),
        (("--head-lr=0",), {}, UsageError, "greater than 0"),
        (("--bootstrap=0", "--clusters=c.tsv"), {}, UsageError, "clusters has no effect"),
        (("--device=tpu",), {}, UsageError, "no device 'tpu'"),
        (("--ontology=go.obo",), {}, UsageError, "ontology has no effect with task ec-class"),
        (("--task=go-mf", "--cafa-tau-step=0.1"), {}, UsageError, "cafa_tau_step has no effect with task go-mf"),
        (("--cafa-tau-step=1",), {}, UsageError, "less than 1"),
        (("--term-names=nowhere.tsv",), {}, InputError, "nowhere.tsv"),
        (("--quarantine=nowhere.jsonl",), {}, InputError, "nowhere.jsonl"),
        (("--include=nowhere",), {}, InputError, "nowhere/report.json: not there"),
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


def write_obo(folder: Path, *terms: str, namespace: str = "molecular_function") -> Path:
    """A root and these terms below it; the first has an alternative id, GO:0000001, and is GO:1000001 itself."""
    stanzas = ["format-version: 1.2\ndata-version: releases/2026-01-01"]
    stanzas.append(f"[Term]\nid: GO:0003674\nname: root\nnamespace: {namespace}")
    for number, term in enumerate(terms):
        own = f"GO:1{term[4:]}\nalt_id: {term}" if number == 0 else term
        stanzas.append(
            f"[Term]\nid: {own}\nname: name of <b>{term}</b>\nnamespace: {namespace}\nis_a: GO:0003674 ! root"
        )
    (folder / "go.obo").write_text("\n\n".join(stanzas) + "\n")
    return folder / "go.obo"


def test_an_ontology_gives_names_and_cafas_figures(planted, tmp_path: Path) -> None:
    labels, splits = write_go(planted, tmp_path)
    obo = write_obo(tmp_path, *(f"GO:{number:07d}" for number in range(1, 6)))
    (tmp_path / "names.tsv").write_text("term\tname\nGO:0000002\tmy own name\nGO:9999999\tof no use\n")
    options = (*QUICK, "--protocol=probe", "--task=go-mf", "--split-prefix=nrPDB-GO", f"--ontology={obo}")
    options = (*options, f"--term-names={tmp_path / 'names.tsv'}", "--cafa-tau-step=0.1")
    result = call(planted, tmp_path / "report", *options, labels=labels, splits=splits)
    assert result.exit_code == 0, result.output
    assert "  not in the ontology: GO:0000006" in result.stdout.splitlines()
    assert "CAFA's figures of the trained model on 30 proteins" in result.stdout
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    ontology = report.task.ontology
    assert ontology is not None
    assert (ontology.data_version, ontology.num_terms, ontology.unmatched) == (
        "releases/2026-01-01",
        6,
        ("GO:0000006",),
    )
    assert [(each.term, each.primary) for each in ontology.alternative] == [("GO:0000001", "GO:1000001")]
    assert [(each.name, each.name_origin) for each in report.terms[:3]] == [
        ("name of <b>GO:0000001</b>", "ontology"),
        ("my own name", "table of names"),
        ("name of <b>GO:0000003</b>", "ontology"),
    ]
    assert report.task.names.unnamed == ("GO:0000006",)
    assert report.cafa is not None
    assert (report.cafa.tau_step, report.cafa.num_proteins, report.cafa.num_terms) == (0.1, 30, 5)
    assert all(row.cafa is not None and 0 < row.cafa.fmax.mean <= 1 for row in report.rows)
    assert report.inputs.term_names_sha256 is not None
    rows = pq.read_table(tmp_path / "report" / "predictions.parquet").to_pylist()
    assert {row["name"] for row in rows if row["term"] == "GO:0000002"} == {"my own name"}
    assert {row["name"] for row in rows if row["term"] == "GO:0000006"} == {None}


def test_without_an_ontology_a_branch_of_go_has_no_figures_of_cafa(planted, tmp_path: Path) -> None:
    labels, splits = write_go(planted, tmp_path)
    options = ("--protocol=probe", "--task=go-mf", "--split-prefix=nrPDB-GO", "--dry-run")
    result = call(planted, tmp_path / "report", *options, labels=labels, splits=splits)
    assert "no ontology (--ontology): CAFA's figures are not computed" in result.stdout
    # The table repeats the terms in place of their names.
    assert "names: 0 of 6 terms have one of their own" in result.stdout


def test_an_ontology_of_other_terms_is_refused_before_anything_is_computed(planted, tmp_path: Path) -> None:
    labels, splits = write_go(planted, tmp_path)
    obo = write_obo(tmp_path, "GO:0000001", namespace="biological_process")
    options = ("--task=go-mf", "--split-prefix=nrPDB-GO", f"--ontology={obo}")
    result = call(planted, tmp_path / "report", *options, labels=labels, splits=splits)
    assert isinstance(result.exception, InputError)
    assert "none of the 6 terms of task go-mf is in its namespace 'molecular_function'" in str(result.exception)
    assert not (tmp_path / "report").exists()


def write_analysis(folder: Path, sha256: str) -> Path:
    folder.mkdir()
    section = {"heading": "Near & far", "paragraphs": ["<script>alert(1)</script>"], "pieces": []}
    values = {
        "format": "amma-analysis",
        "version": "1.0",
        "analysis": "alignment",
        "title": "How modalities agree",
        "lead": "They do.",
        "inputs": {"checkpoint_step": 12, "checkpoint_sha256": sha256, "random_encoders": True},
        "sections": [section],
    }
    (folder / "report.json").write_text(json.dumps(values))
    return folder


def test_finished_analyses_are_shown_along_and_those_of_another_model_are_marked(planted, tmp_path: Path) -> None:
    sha256 = load_model(planted.run).state["files"]["model.safetensors"]["sha256"]
    same, other = write_analysis(tmp_path / "same", sha256), write_analysis(tmp_path / "other", "ab" * 32)
    options = (*QUICK, "--protocol=probe", f"--include={same}", f"--include={other}")
    result = call(planted, tmp_path / "report", *options)
    assert result.exit_code == 0, result.output
    assert "shown along: alignment of ANOTHER checkpoint (sha256 abababababab)" in result.stdout.splitlines()
    assert "shown along: alignment" in result.stdout.splitlines()
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert [each.same_checkpoint for each in report.included] == [True, False]
    assert report.included[0].sections[0].heading == "Near & far"
    assert report.provenance.included == (str(same), str(other))
    plan = json.loads(call(planted, tmp_path / "new", *options, "--dry-run", "--json").stdout)
    assert [each["same_checkpoint"] for each in plan["included"]] == [True, False]


def test_a_published_list_decides_who_is_below_a_cut_off(planted, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("PDB-chain,<30%,<95%\nP128,1,1\nP129,0,1\nP130,0,0\n")
    options = (*QUICK, "--protocol=probe", f"--identity-cutoffs={tmp_path / 'test.csv'}")
    result = call(planted, tmp_path / "report", *options)
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert [(each.below, each.num_proteins) for each in report.identity.slices] == [(0.3, 1), (0.95, 2)]
    assert report.identity.method == "the list test.csv"
    assert "local alignments" in report.identity.nearest_method
    assert len(report.identity.nearest) == report.task.test.num_proteins
    assert all(len(row.by_identity) == 2 for row in report.rows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("PDB-chain,<30%\nQ1,1\n", "none of the 31 test proteins is in it"), ("PDB-chain,all\nP128,1\n", "no cut-off")],
)
def test_a_list_of_other_proteins_or_cut_offs_is_refused(planted, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "test.csv").write_text(text)
    result = call(planted, tmp_path / "report", f"--identity-cutoffs={tmp_path / 'test.csv'}")
    assert isinstance(result.exception, InputError)
    assert reason in str(result.exception)


def test_a_quarantine_says_why_a_protein_is_not_there(planted, tmp_path: Path) -> None:
    line = Rejection("absent", "a.pdb", 1, "E_COORD", "a Cα without coordinates", "repair it")
    write_quarantine(tmp_path / "q.jsonl", [line])
    plain = call(planted, tmp_path / "report", "--dry-run").stdout
    told = call(planted, tmp_path / "report", "--dry-run", f"--quarantine={tmp_path / 'q.jsonl'}").stdout
    assert "  'absent': not in the store's inputs (E_OUTSIDE)" in plain.splitlines()
    assert "  'absent': a Cα without coordinates (E_COORD)" in told.splitlines()


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
