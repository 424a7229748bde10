"""New proteins from raw files, in one command: what they get alone is what they get inside a large store."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

CPU = "--device cpu --threads 1"
TUNING = f"--task ec-class --labels data/ec.tsv --splits data {CPU} --epochs 3 --seeds 2 --head-lr 1e-3 --bootstrap 0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this module: `worked` is read only."""
    folder: Path = tmp_path_factory.mktemp("predicting")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path, amma_in_module: Callable) -> Path:
    """Tuned on the sixteen proteins of `worked`."""
    folder = folder / "report"
    amma_in_module(f"amma-eval function run all.zarr {folder} --protocol fusion --fusion-lr 1e-3 {TUNING}")
    return folder


@pytest.fixture(scope="module")
def amma_in_module(worked: Path, command: Callable) -> Callable:
    """Runs a command line in `worked`, which must succeed."""

    def run(line: str) -> None:
        assert command(worked, line).code == 0, line

    return run


@pytest.fixture(scope="module")
def new(folder: Path, amma_in_module: Callable) -> Path:
    """Twelve proteins of another seed, of which ten structures are in `ten`: PDB and mmCIF, as the toy writes them."""
    folder = folder / "new"
    amma_in_module(f"amma-manifest toy {folder} --proteins 12 --seed 11")
    (folder / "ten").mkdir()
    structures = sorted((folder / "structures").iterdir())[:10]
    for path in structures:
        shutil.copy(path, folder / "ten" / f"new-{path.name}")
    return folder


def probabilities(out: Path) -> pandas.Series:
    return pandas.read_parquet(out / "predictions.parquet").set_index(["id", "term"]).probability


def test_ten_structures_get_what_they_get_inside_a_large_store(
    report: Path, new: Path, worked: Path, tmp_path: Path, amma: Callable
) -> None:
    done = amma(f"amma-eval predict {report} {new}/ten {tmp_path}/alone {CPU} --json")
    assert done.code == 0, done.err
    counts = json.loads(done.out)["counts"]
    assert counts["records"] == counts["predicted"] == len(list((new / "ten").iterdir())) == 10

    # The same files among those of all proteins that were trained on, encoded and stored together, with other batches.
    everything = tmp_path / "structures"
    shutil.copytree(new / "ten", everything)
    for path in (worked / "data" / "structures").iterdir():
        shutil.copy(path, everything / path.name)
    encode = f"amma-featurize run {everything} {tmp_path}/large.zarr --preset tiny --seed 5 --shard-rows 1024 {CPU}"
    assert amma(encode).code == 0
    done = amma(f"amma-eval predict {report} {tmp_path}/large.zarr {tmp_path}/among {CPU}")
    assert done.code == 0, done.err

    alone, among = probabilities(tmp_path / "alone"), probabilities(tmp_path / "among")
    assert len(among) > 2 * len(alone)
    assert (alone - among.loc[alone.index]).abs().max() < 1e-6
    assert alone.nunique() > 10


@pytest.mark.slow
def test_sequences_with_a_folder_of_structures_are_seen_with_both(
    report: Path, new: Path, tmp_path: Path, amma: Callable
) -> None:
    fasta, structures = new / "sequences.fasta", new / "structures"
    both = amma(f"amma-eval predict {report} {fasta} {tmp_path}/both --structures {structures} {CPU} --json")
    alone = amma(f"amma-eval predict {report} {fasta} {tmp_path}/alone {CPU} --json")
    assert (both.code, alone.code) == (0, 0), both.err + alone.err
    facts = [json.loads(done.out) for done in (both, alone)]
    assert [each["kind"] for each in facts] == ["sequences", "sequences"]
    num_structures = len(list(structures.iterdir()))
    assert [each["counts"]["without_structure"] for each in facts] == [12 - num_structures, 12]
    assert alone.err.count("WARNING: 12 of 12 proteins have no structure: the model sees their sequence alone") == 1
    assert (probabilities(tmp_path / "both") - probabilities(tmp_path / "alone")).abs().max() > 1e-4


def test_every_record_is_predicted_quarantined_or_a_duplicate(report: Path, tmp_path: Path, amma: Callable) -> None:
    records = [">good\nMKTAYIAKQRQISFVKSHFS\n", ">bad\nMKT1AYI\n", ">good\nMKTAYIAKQRQISFVKSHFS\n", ">empty\n\n"]
    (tmp_path / "some.fasta.gz").write_bytes(gzip.compress("".join(records).encode()))
    done = amma(f"amma-eval predict {report} {tmp_path}/some.fasta.gz {tmp_path}/out {CPU} --json --strict")
    assert done.code == 3, done.err
    counts = json.loads(done.out)["counts"]
    assert (counts["records"], counts["predicted"], counts["quarantined"], counts["duplicates"]) == (4, 1, 2, 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert sorted((line["id"], line["code"]) for line in lines) == [("bad", "E_ALPHABET"), ("empty", "E_EMPTY")]


@pytest.mark.slow
def test_a_file_of_several_chains_is_several_proteins_or_the_one_asked_for(
    report: Path, tmp_path: Path, amma: Callable
) -> None:
    def chain(name: str, residues: str) -> str:
        return "".join(
            f"ATOM  {number:5d}  CA  {residue} {name}{number:4d}    {3.8 * number:8.3f}   0.000   0.000  1.00  0.00"
            "           C  \n"
            for number, residue in enumerate(residues.split(), start=1)
        )

    pair = chain("A", "MET LYS THR ALA TYR ILE") + "TER\n" + chain("B", "GLY SER HIS MET GLY GLY ALA") + "TER\nEND\n"
    (tmp_path / "1PAI.pdb").write_text(pair)
    for options, expected in (("", {"1PAI-A", "1PAI-B"}), ("--chain B", {"1PAI-B"})):
        out = tmp_path / f"out{len(expected)}"
        done = amma(f"amma-eval predict {report} {tmp_path}/1PAI.pdb {out} {CPU} {options}")
        assert done.code == 0, done.err
        with (out / "predictions.tsv").open(newline="") as handle:
            assert {row["id"] for row in csv.DictReader(handle, delimiter="\t")} == expected


@pytest.mark.slow
def test_features_that_are_kept_are_not_made_again(report: Path, new: Path, tmp_path: Path, amma: Callable) -> None:
    command = f"amma-eval predict {report} {new}/ten {tmp_path}/out --keep-store {tmp_path}/kept.zarr {CPU}"
    first = amma(command)
    again = amma(f"{command} --overwrite")
    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert "kept.zarr: encoded" in first.err
    assert "kept.zarr: was sealed already" in again.err
    assert "intact" in amma(f"amma-featurize verify {tmp_path}/kept.zarr").out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.tsv",
        "predictions.parquet",
        "quarantine.jsonl",
        "predict.json",
    }


def test_a_manifest_and_a_dry_run(report: Path, worked: Path, tmp_path: Path, amma: Callable, contents) -> None:
    before = contents(worked)
    done = amma(f"amma-eval predict {report} all.parquet {tmp_path}/out {CPU} --dry-run --json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert (plan["kind"], plan["records"], plan["rows"]["func"]) == ("manifest", 16, 0)
    assert contents(worked) == before
    assert list(tmp_path.iterdir()) == []

    assert amma(f"amma-eval predict {report} all.parquet {tmp_path}/texts {CPU}").code == 0
    assert amma(f"amma-eval predict {report} all.zarr {tmp_path}/stored {CPU}").code == 0
    # Texts are in the store and not in what was encoded here: they are not read.
    difference = probabilities(tmp_path / "texts") - probabilities(tmp_path / "stored")
    assert difference.abs().max() < 1e-6


def test_other_settings_of_the_encoders_are_refused_by_name(
    report: Path, new: Path, tmp_path: Path, amma: Callable
) -> None:
    for source, option in ((f"{new}/ten", "--max-residues 30"), ("other.zarr", "")):
        done = amma(f"amma-eval predict {report} {source} {tmp_path}/out {option} {CPU}")
        assert done.code == 1
        assert done.err.splitlines()[-1].startswith("error E_FINGERPRINT: ")
        assert "seq.max_residues: 1022 -> 30" in done.err
    assert list(tmp_path.iterdir()) == []
