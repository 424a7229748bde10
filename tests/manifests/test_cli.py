import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from amma.manifests.cli import app
from amma.manifests.table import Manifest


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "toy"
    assert run("toy", folder, "--proteins", 16, "--seed", 2).exit_code == 0
    return folder


def sources(toy: Path) -> list[object]:
    return [
        "--sequences",
        toy / "sequences.fasta",
        "--structures",
        toy / "structures",
        "--descriptions",
        toy / "descriptions.tsv",
    ]


def test_toy_build_and_inspect_follow_one_another(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.parquet"
    built = run("build", *sources(toy), out, "--json")
    assert built.exit_code == 0
    report = json.loads(built.stdout)
    assert report["records"]["stored"] == 16
    inspected = run("inspect", out, "--json")
    assert inspected.exit_code == 0
    summary = json.loads(inspected.stdout)
    assert summary["kinds"] == report["kinds"]
    lengths = [len(protein.sequence) for protein in Manifest(out)]
    assert summary["length"]["longest"] == max(lengths)
    assert summary["residues"] == sum(lengths)
    assert "16 proteins" in run("inspect", out).stdout


def test_a_dry_run_prints_the_report_and_writes_nothing(toy: Path, tmp_path: Path) -> None:
    done = run("build", *sources(toy), tmp_path / "toy.parquet", "--dry-run")
    assert done.exit_code == 0
    assert "16 read, 16 stored" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_quarantined_records_exit_0_or_3_under_strict(tmp_path: Path) -> None:
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nMKV\n>b\nM1\n")
    relaxed = run("build", "--sequences", fasta, tmp_path / "m.parquet")
    assert relaxed.exit_code == 0
    assert "'b': E_ALPHABET" in relaxed.stdout
    assert run("build", "--sequences", fasta, tmp_path / "m.parquet", "--strict").exit_code == 3


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from amma.manifests.cli import main; main()"
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_errors_are_one_line_with_their_exit_code(tmp_path: Path) -> None:
    misuse = command("build", tmp_path / "m.parquet")
    assert misuse.returncode == 2
    assert misuse.stderr.startswith("error E_USAGE: nothing to build from")
    broken = command("build", "--sequences", tmp_path / "absent.fasta", tmp_path / "m.parquet")
    assert broken.returncode == 1
    assert broken.stderr.count("\n") == 1
    shown = command("build", "--debug", "--sequences", tmp_path / "absent.fasta", tmp_path / "m.parquet")
    assert "Traceback" in shown.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['amma-manifest', 'build', '--help']\n"
        "from amma.manifests.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'pandas', 'numpy', 'pyarrow', 'gemmi', 'biotite', 'zarr')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--sequences" in done.stdout
    assert done.stdout.strip().endswith("[]")
