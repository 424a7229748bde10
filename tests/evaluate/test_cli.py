import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amma.evaluate.cli import app
from amma.evaluate.results import Report
from amma.manifests.errors import AmmaError, CheckpointError, InputError, UsageError


def call(planted, report: Path, *options: str, **changed: Path):
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


def test_json_on_stdout_is_the_report(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "report", *QUICK, "--protocol=probe", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "report" / "report.json").read_text())


def test_a_dry_run_checks_everything_and_writes_nothing(planted, tmp_path: Path) -> None:
    result = call(planted, tmp_path / "report", "--dry-run")
    assert result.exit_code == 0, result.output
    assert (
        "31 proteins (1 without a label), 1 outside the label table, 1 labelled but not in the store" in result.stderr
    )
    assert "6 tunings of at most 50 epochs" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "changed", "kind", "reason"),
    [
        (("--protocol=probe", "--fusion-lr=1e-5"), {}, UsageError, "no effect with protocol probe"),
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
