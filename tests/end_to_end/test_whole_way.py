"""From files to a report by the four commands, on synthetic proteins and on a subset of real ones."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

PROGRAMS = Path(sys.executable).parent


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    name, *words = shlex.split(command)
    return subprocess.run([PROGRAMS / name, *words], cwd=folder, capture_output=True, text=True, check=False)


def succeed(folder: Path, command: str) -> None:
    done = run(folder, command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def go_the_whole_way(folder: Path) -> dict[str, float]:
    """Every command in turn on `folder/data`, as a user would type it; gives the Fmax of every row of the report."""
    data = folder / "data"
    (folder / "held.txt").write_text((data / "valid.txt").read_text() + (data / "test.txt").read_text())
    succeed(
        folder,
        "amma-manifest build --sequences data/sequences.fasta --structures data/structures "
        "--descriptions data/descriptions.tsv all.parquet",
    )
    succeed(folder, "amma-featurize run all.parquet all.zarr --preset tiny --shard-rows 4096")
    succeed(folder, "amma-featurize verify all.zarr")
    succeed(folder, "amma-train pretrain all.zarr run --preset tiny --epochs 1 --exclude held.txt")
    succeed(
        folder,
        "amma-eval function run all.zarr report --task ec-class --labels data/ec.tsv --splits data "
        "--protocol probe --seeds 1 --epochs 5",
    )
    assert "plotly" in (folder / "report" / "report.html").read_text().lower()
    predictions = pd.read_parquet(folder / "report" / "predictions.parquet")
    assert predictions["score"].between(0, 1).all()
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["leakage"]["num_seen"] == 0
    return {row["name"]: row["fmax"]["mean"] for row in report["rows"]}


def test_the_whole_way_on_synthetic_proteins(tmp_path: Path) -> None:
    succeed(tmp_path, "amma-manifest toy data --proteins 48 --seed 3")
    assert set(go_the_whole_way(tmp_path)) == {
        "trained",
        "untrained",
        "pooled inputs",
        "nearest training sequence",
        "label frequency",
    }


def test_the_whole_way_on_a_subset_of_real_proteins(tmp_path: Path, shared: Path) -> None:
    real = shared / "data" / "real"
    labelled = set(pd.read_csv(real / "ec.tsv", sep="\t")["id"])
    data = tmp_path / "data"
    data.mkdir()
    chosen: set[str] = set()
    for split in ("train", "valid", "test"):
        ids = (real / f"{split}.txt").read_text().split()
        kept = [name for name in ids if name in labelled][:15] + [name for name in ids if name not in labelled][:15]
        (data / f"{split}.txt").write_text("\n".join(kept) + "\n")
        chosen.update(kept)
    records = (real / "sequences.fasta").read_text().split(">")[1:]
    (data / "sequences.fasta").write_text("".join(f">{record}" for record in records if record.split()[0] in chosen))
    (data / "structures").symlink_to(real / "structures")
    shutil.copy(real / "descriptions.tsv", data)
    shutil.copy(real / "ec.tsv", data)
    assert all(0.0 < fmax <= 1.0 for fmax in go_the_whole_way(tmp_path).values())


def test_the_wrong_file_at_any_step_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    succeed(tmp_path, "amma-manifest toy data --proteins 12 --seed 3")
    wrong = [
        "amma-manifest build --sequences data/ec.tsv out.parquet",
        "amma-manifest build --sequences nowhere.fasta out.parquet",
        "amma-featurize run data/ec.tsv out.zarr --preset tiny",
        "amma-featurize run data/sequences.fasta out.zarr --preset papr",
        "amma-featurize run data/sequences.fasta out.zarr --preset paper --weights data",
        "amma-featurize verify data",
        "amma-featurize inspect data/sequences.fasta",
        "amma-train pretrain data run --preset tiny",
        "amma-train inspect data",
        "amma-eval function data data report --task ec --labels data/ec.tsv --splits data",
    ]
    for command in wrong:
        done = run(tmp_path, command)
        said = [line for line in done.stderr.splitlines() if line.startswith("error ")]
        assert done.returncode in (1, 2), f"{command}: {done.returncode}\n{done.stderr}"
        assert len(said) == 1 or "Usage:" in done.stderr, f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
    assert not (tmp_path / "out.zarr").exists()
