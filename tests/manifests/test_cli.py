import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from amma.manifests.cli import app
from amma.manifests.errors import UsageError
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


@pytest.fixture
def small(tmp_path: Path, alpha_trace: Callable[..., bytes]) -> Path:
    """A manifest of a triplet, two proteins with one sequence, and a quarantined one."""
    structures = tmp_path / "structures"
    structures.mkdir()
    (structures / "a.pdb").write_bytes(alpha_trace("MKVLAGITRE", missing=[3]))
    with tarfile.open(structures / "more.tar", "w") as archive:
        data = gzip.compress(alpha_trace("MKVLX"))
        info = tarfile.TarInfo("b.pdb.gz")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    (tmp_path / "in.fasta").write_text(">a P00720\nMKVLAGITRE\n>b\nMKVLX\n>c\nMKVLX\n>bad\nM-K\n")
    out = tmp_path / "m.parquet"
    assert run("build", "--sequences", tmp_path / "in.fasta", "--structures", structures, out).exit_code == 0
    return out


def test_inspect_counts_what_is_there(small: Path) -> None:
    summary = json.loads(run("inspect", small, "--json").stdout)
    assert summary["kinds"] == {"seq": 1, "seq-str": 2}
    assert summary["distinct_sequences"] == 2
    assert summary["structures"] == {"in archives": 1, "pdb": 2}
    assert summary["unresolved"] == {"proteins": 1, "residues": 1}
    assert summary["rare"] == {"U": 0, "O": 0, "B": 0, "Z": 0, "X": 2}
    assert summary["accessions"] == 1
    assert summary["length"]["longer than 1022"] == 0
    assert summary["quarantined"] == {"E_GAP": 1}
    text = run("inspect", small).stdout
    assert "2 different sequences, 1 UniProt accessions" in text
    assert "quarantined in building: E_GAP 1" in text


def test_inspect_shows_one_protein(small: Path) -> None:
    row = json.loads(run("inspect", small, "--id", "b").stdout)
    assert (row["sequence"], row["kind"], row["length"]) == ("MKVLX", "seq-str", 5)
    assert row["structure"] == "structures/more.tar::b.pdb.gz"
    absent = run("inspect", small, "--id", "z")
    assert isinstance(absent.exception, UsageError)


def test_inspect_check_names_structures_that_changed(small: Path, alpha_trace: Callable[..., bytes]) -> None:
    whole = run("inspect", small, "--check", "--strict")
    assert whole.exit_code == 0
    assert "3 proteins, 0 structures" in whole.stdout
    (small.parent / "structures" / "a.pdb").write_bytes(alpha_trace("MKVLAGITRE"))
    changed = run("inspect", small, "--check")
    assert changed.exit_code == 0
    assert "'a': E_CHANGED" in changed.stdout
    assert run("inspect", small, "--check", "--strict").exit_code == 3


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
