"""What takes long says beforehand what it would do, and writes nothing: neither where it would nor anywhere else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

INPUTS = "--sequences data/sequences.fasta --structures data/structures --descriptions data/descriptions.tsv"
FEATURIZE = "--preset tiny --device cpu --threads 1"
PRETRAIN = "--preset tiny --epochs 1 --max-steps 2 --device cpu --threads 1"
EVALUATE = "--task ec-class --labels data/ec.tsv --splits data --device cpu"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"amma-manifest build {INPUTS} new.parquet", "16 read, 16 stored"),
        (f"amma-manifest build {INPUTS} all.parquet", "16 read, 16 stored"),
        (f"amma-featurize run all.parquet new.zarr {FEATURIZE}", "proteins     16"),
        (f"amma-featurize run data/sequences.fasta new.zarr --structures data/structures {FEATURIZE}", "still needs"),
        (f"amma-featurize run all.parquet all.zarr {FEATURIZE}", "units"),
        (f"amma-train pretrain all.zarr new {PRETRAIN}", "steps: 2"),
        (f"amma-train pretrain all.zarr new {PRETRAIN} --init-from run", "parameters: "),
        (f"amma-train pretrain all.zarr run {PRETRAIN}", "goes_on: True"),
        ("amma-train export run new", "weights      sha256 "),
        ("amma-train embed run all.zarr new.zarr --device cpu", "bytes needed"),
        (f"amma-eval function run all.zarr new {EVALUATE}", "6 tunings of at most 50 epochs"),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    command: str, said: str, worked: Path, amma: Callable, contents: Callable, scratch: Path
) -> None:
    before = contents(worked)
    done = amma(f"{command} --dry-run")
    assert done.code == 0, done.err
    assert said in done.out
    assert contents(worked) == before
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (f"amma-manifest build {INPUTS} new.parquet", {"records", "kinds"}),
        (f"amma-train pretrain all.zarr new {PRETRAIN}", {"steps", "parameters", "proteins"}),
        (f"amma-eval function run all.zarr new {EVALUATE}", {"task", "tunings", "relatives_found_by"}),
    ],
)
def test_a_dry_run_is_json_where_that_is_asked_for(command: str, keys: set[str], amma: Callable) -> None:
    done = amma(f"{command} --dry-run --json")
    assert done.code == 0, done.err
    assert keys <= set(json.loads(done.out))


@pytest.mark.parametrize(
    "command",
    [
        "amma-manifest build --sequences data/nowhere.fasta new.parquet",
        "amma-featurize run nowhere.parquet new.zarr --preset tiny",
        f"amma-train pretrain data new {PRETRAIN}",
        f"amma-eval function data all.zarr new {EVALUATE}",
    ],
)
def test_a_dry_run_finds_what_is_wrong(command: str, worked: Path, amma: Callable, contents: Callable) -> None:
    before = contents(worked)
    done = amma(f"{command} --dry-run")
    assert done.code in (1, 2)
    assert done.err.splitlines()[-1].startswith("error E_")
    assert contents(worked) == before
