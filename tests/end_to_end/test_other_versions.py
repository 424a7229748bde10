"""Files of a newer format, and of other encoders, given to every command that takes them: one line each, code 1."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from amma.featurize.store.documents import read_document, render
from amma.manifests.settings import sha256_of_json

FEATURIZE = "--preset tiny --device cpu --threads 1"
PRETRAIN = "--preset tiny --epochs 1 --max-steps 3 --device cpu --threads 1"
EVALUATE = "--task ec-class --labels data/ec.tsv --splits data --device cpu"


def set_version(path: Path, version: str) -> None:
    """Change the version in a JSON file that has no hash of its own, or whose version is looked at before its hash."""
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}, sort_keys=True, indent=2) + "\n")


@pytest.fixture(scope="module")
def newer(worked: Path) -> Path:
    """Copies in the worked folder that say they are of a newer format: a manifest, a store, a checkpoint, a run."""
    table = pq.read_table(worked / "all.parquet")
    header = json.dumps({**json.loads(table.schema.metadata[b"amma"]), "version": "9.0"})
    pq.write_table(table.replace_schema_metadata({"amma": header}), worked / "newer.parquet")
    shutil.copytree(worked / "all.zarr", worked / "newer.zarr")
    seal = {key: value for key, value in read_document(worked / "newer.zarr" / "seal.json").items() if key != "root"}
    seal["version"] = "9.0"
    (worked / "newer.zarr" / "seal.json").write_bytes(render({**seal, "root": sha256_of_json(seal)}))
    shutil.copytree(worked / "run", worked / "newer-step")
    for state in (worked / "newer-step" / "checkpoints").glob("step-*/state.json"):
        set_version(state, "9.0")
    shutil.copytree(worked / "run", worked / "newer-run")
    set_version(worked / "newer-run" / "config.json", "9.0")
    return worked


VERSION_CASES = [
    (f"amma-featurize run newer.parquet new {FEATURIZE}", "newer.parquet"),
    ("amma-manifest inspect newer.parquet", "newer.parquet"),
    (f"amma-featurize run all.parquet newer.zarr {FEATURIZE}", "newer.zarr"),
    ("amma-featurize status newer.zarr", "newer.zarr"),
    ("amma-featurize verify newer.zarr", "newer.zarr"),
    ("amma-featurize inspect newer.zarr", "newer.zarr"),
    (f"amma-train pretrain newer.zarr new {PRETRAIN}", "newer.zarr"),
    (f"amma-train pretrain all.zarr newer.zarr new {PRETRAIN}", "newer.zarr"),
    ("amma-train plan newer.zarr --preset tiny --measure 0", "newer.zarr"),
    (f"amma-eval function run newer.zarr new {EVALUATE}", "newer.zarr"),
    ("amma-train inspect newer-step", "newer-step"),
    (f"amma-train pretrain all.zarr newer-step {PRETRAIN}", "newer-step"),
    (f"amma-train pretrain all.zarr new {PRETRAIN} --init-from newer-step", "newer-step"),
    (f"amma-eval function newer-step all.zarr new {EVALUATE}", "newer-step"),
    (f"amma-train pretrain all.zarr newer-run {PRETRAIN}", "newer-run"),
]

ENCODER_CASES = [
    (f"amma-featurize run all.parquet other.zarr {FEATURIZE}", "max_residues"),
    (f"amma-train pretrain all.zarr other.zarr new {PRETRAIN}", "max_residues"),
    (f"amma-train pretrain other.zarr new {PRETRAIN} --init-from run", "max_residues"),
    (f"amma-eval function run other.zarr new {EVALUATE}", "max_residues"),
]


@pytest.mark.parametrize(("command", "named"), VERSION_CASES)
def test_what_is_of_a_newer_format_is_refused_in_one_line(
    command: str, named: str, newer: Path, amma: Callable, contents: Callable
) -> None:
    before = contents(newer)
    done = amma(command)
    assert done.code == 1, done.err
    errors = done.err.splitlines()
    assert errors[-1].startswith("error E_VERSION: "), done.err
    assert sum(line.startswith("error ") for line in errors) == 1
    assert named in errors[-1]
    assert "9.0" in errors[-1]
    assert "Traceback" not in done.err
    # A run takes its new settings down before it looks for its checkpoints.
    settings = {f"newer-step/{name}" for name in ("config.json", "config.toml", "split.json")}
    after = contents(newer)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= settings


@pytest.mark.parametrize(("command", "named"), ENCODER_CASES)
def test_features_of_other_encoders_are_refused_in_one_line_with_the_field(
    command: str, named: str, worked: Path, amma: Callable, contents: Callable
) -> None:
    before = contents(worked)
    done = amma(command)
    assert done.code == 1, done.err
    errors = done.err.splitlines()
    assert errors[-1].startswith("error E_FINGERPRINT: "), done.err
    assert sum(line.startswith("error ") for line in errors) == 1
    assert named in errors[-1]
    assert contents(worked) == before


def test_a_run_does_not_go_on_with_a_store_of_other_encoders(worked: Path, amma: Callable, contents: Callable) -> None:
    """Misuse of the command: it says every setting and input that is not the run's."""
    before = contents(worked)
    done = amma(f"amma-train pretrain other.zarr run {PRETRAIN}")
    assert done.code == 2, done.err
    assert "error E_CONFIG: run holds a run with other settings" in done.err
    assert "max_residues" in done.err
    assert contents(worked) == before
