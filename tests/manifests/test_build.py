import errno
import gzip
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amma.manifests.build import build_manifest
from amma.manifests.errors import InputError, UsageError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.report import BuildReport, ConservationError
from amma.manifests.structures import load_chain
from amma.manifests.table import Manifest, ManifestWriter, Protein

Write = Callable[..., bytes]
HEADER = "EntryName\tProteinName\tFunction\tSubcellularLocation\tSimilarity\tSequence\n"
ONE, TWO, THREE = "MKVLAAGITREDPQWSFYHN", "GHWTRELKKDAYIVPNQSMC", "AAAAKLLLLKGGGGSTTTTR"


class Inputs:
    """A folder of inputs, filled by a test and built."""

    def __init__(self, root: Path, alpha_trace: Write) -> None:
        self.root = root
        self.alpha_trace = alpha_trace
        self.out = root / "out" / "m.parquet"
        (root / "structures").mkdir()

    def fasta(self, text: str) -> Path:
        path = self.root / "in.fasta"
        path.write_text(text)
        return path

    def structure(self, name: str, sequence: str, **options: Any) -> Path:
        data = self.alpha_trace(sequence, **options)
        path = self.root / "structures" / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    def descriptions(self, *rows: tuple[str, str, str]) -> Path:
        path = self.root / "d.tsv"
        path.write_text(HEADER + "".join(f"{name}\t{text}\t\t\t\t{sequence}\n" for name, text, sequence in rows))
        return path

    @property
    def structures(self) -> Path:
        return self.root / "structures"

    def build(self, **sources: Any) -> tuple[BuildReport, list[Protein]]:
        given = {"sequences": None, "structures": None, "descriptions": None} | sources
        report = build_manifest(out=self.out, **given)
        return report, list(Manifest(self.out))


@pytest.fixture
def inputs(tmp_path: Path, alpha_trace: Write) -> Inputs:
    return Inputs(tmp_path, alpha_trace)


def codes(report: BuildReport) -> list[tuple[str, str]]:
    return [(rejection.id, rejection.code) for rejection in report.rejections]


def test_triplets_pairs_and_lone_sequences(inputs: Inputs) -> None:
    inputs.structure("t.pdb.gz", ONE)
    inputs.structure("s.pdb", TWO)
    report, rows = inputs.build(
        sequences=inputs.fasta(f">t P00720\n{ONE}\n>s\n{TWO}\n>f\n{THREE}\n>q\n{THREE}AA\n"),
        structures=inputs.structures,
        descriptions=inputs.descriptions(("t", "name of t", ONE), ("", "by sequence", THREE)),
    )
    assert [(row.id, row.kind) for row in rows] == [("t", "triplet"), ("s", "seq-str"), ("f", "seq-func"), ("q", "seq")]
    assert report.kinds == {"triplet": 1, "seq-str": 1, "seq-func": 1, "seq": 1}
    assert rows[0].accession == "P00720"
    assert rows[0].name == "name of t"
    assert rows[2].name == "by sequence"
    assert rows[0].structure == "../structures/t.pdb.gz"
    assert rows[0].structure_sha256 == hashlib.sha256((inputs.structures / "t.pdb.gz").read_bytes()).hexdigest()
    chain = load_chain(Manifest(inputs.out), rows[0])
    assert chain.letters == ONE


def test_missing_residues_are_in_the_sequence_and_unresolved(inputs: Inputs) -> None:
    inputs.structure("a.pdb", ONE, missing=[0, 7, 8])
    report, (row,) = inputs.build(sequences=inputs.fasta(f">a\n{ONE}\n"), structures=inputs.structures)
    assert (row.sequence, row.unresolved) == (ONE, (0, 7, 8))
    assert report.unresolved == {"proteins": 1, "residues": 3}


def test_the_structure_of_another_protein_is_quarantined_and_the_protein_kept(inputs: Inputs) -> None:
    path = inputs.structure("a.pdb", TWO)
    report, (row,) = inputs.build(
        sequences=inputs.fasta(f">a\n{ONE}\n"),
        structures=inputs.structures,
        descriptions=inputs.descriptions(("a", "text", ONE)),
    )
    assert row.kind == "seq-func"
    assert codes(report) == [("a", "E_MISMATCH")]
    assert report.rejections[0].source == str(path)
    assert report.structures == {"found": 1, "used": 0, "quarantined": 1, "unmatched": 0}
    assert read_quarantine(inputs.out.with_name("m.quarantine.jsonl")) == list(report.rejections)


def test_broken_structures_are_quarantined_one_by_one(inputs: Inputs) -> None:
    for name in "abcd":
        inputs.structure(f"{name}.pdb.gz", ONE)
    (inputs.structures / "a.pdb.gz").write_bytes(b"")
    broken = (inputs.structures / "b.pdb.gz").read_bytes()
    (inputs.structures / "b.pdb.gz").write_bytes(broken[:-9])
    (inputs.structures / "c.pdb.gz").write_bytes(b"not a structure")
    report, rows = inputs.build(
        sequences=inputs.fasta("".join(f">{name}\n{ONE}\n" for name in "abcd")), structures=inputs.structures
    )
    assert codes(report) == [("a", "E_EMPTY"), ("b", "E_GZIP"), ("c", "E_CHAINS")]
    assert [row.kind for row in rows] == ["seq", "seq", "seq", "seq-str"]


def test_everything_is_counted_once(inputs: Inputs) -> None:
    inputs.structure("a.pdb", ONE)
    inputs.structure("b.pdb", TWO)
    inputs.structure("b.ent", TWO)
    inputs.structure("stranger.pdb", TWO)
    inputs.structure("c.pdb", THREE)
    report, rows = inputs.build(
        sequences=inputs.fasta(f">a\n{ONE}\n>b\n{TWO}\n>bad\nM1\n>a\n{ONE.lower()}\n>c\n{ONE}\n>\nMK\n"),
        structures=inputs.structures,
        descriptions=inputs.descriptions(
            ("a", "one", ONE), ("a", "one", ONE), ("a", "two", ONE), ("", "", ONE), ("z", "nobody's", "WWW")
        ),
    )
    assert report.records == {"read": 6, "stored": 3, "quarantined": 2, "duplicates": 1}
    assert report.structures == {"found": 5, "used": 2, "quarantined": 2, "unmatched": 1}
    assert report.descriptions == {
        "rows": 5,
        "joined": 1,
        "repeated": 1,
        "conflicting": 1,
        "empty": 1,
        "unmatched": 1,
        "quarantined": 0,
    }
    assert [row.id for row in rows] == ["a", "b", "c"]
    assert [(d.id, d.position, d.first) for d in report.duplicates] == [("a", 4, 1)]
    stored = json.loads(inputs.out.with_name("m.report.json").read_text())
    assert stored["records"] == report.records
    assert stored["rejections"] == {"E_ALPHABET": 1, "E_DUP": 1, "E_ID": 1, "E_MISMATCH": 1}


@pytest.mark.parametrize("lost", ["records", "structures", "descriptions", "kinds"])
def test_a_sum_that_does_not_hold_is_an_error(inputs: Inputs, lost: str) -> None:
    inputs.structure("a.pdb", ONE)
    report, _ = inputs.build(
        sequences=inputs.fasta(f">a\n{ONE}\n"),
        structures=inputs.structures,
        descriptions=inputs.descriptions(("a", "text", ONE)),
    )
    report.check()
    counts = dict(getattr(report, lost))
    counts[max(counts)] += 1
    with pytest.raises(ConservationError):
        replace(report, **{lost: counts}).check()


def test_one_id_with_two_sequences_stops_the_build_and_names_both(inputs: Inputs) -> None:
    fasta = inputs.fasta(f">a\n{ONE}\n>b\n{TWO}\n>a\n{TWO}\n")
    with pytest.raises(InputError, match=r"records 1 and 3 are both called 'a'") as caught:
        inputs.build(sequences=fasta)
    assert caught.value.code == "E_DUP"
    assert not inputs.out.parent.exists()


def test_equal_sequences_under_two_ids_are_two_proteins(inputs: Inputs) -> None:
    report, rows = inputs.build(sequences=inputs.fasta(f">a\n{ONE}\n>b\n{ONE}\n"))
    assert [row.id for row in rows] == ["a", "b"]
    assert report.records["duplicates"] == 0


def test_chains_of_one_file_serve_their_proteins(inputs: Inputs) -> None:
    first = inputs.alpha_trace(ONE, chain="A").replace(b"END\n", b"")
    (inputs.structures / "1ABC.pdb").write_bytes(first + inputs.alpha_trace(TWO, chain="B"))
    report, rows = inputs.build(
        sequences=inputs.fasta(f">1ABC-A\n{ONE}\n>1ABC-B\n{TWO}\n>1ABC-C\n{TWO}\n"), structures=inputs.structures
    )
    assert [row.chain for row in rows] == ["A", "B", None]
    assert codes(report) == [("1ABC-C", "E_CHAINS")]
    assert report.structures == {"found": 1, "used": 1, "quarantined": 0, "unmatched": 0}
    manifest = Manifest(inputs.out)
    assert [load_chain(manifest, row).letters for row in rows[:2]] == [ONE, TWO]


def test_structures_alone_are_a_roster(inputs: Inputs) -> None:
    inputs.structure("b.pdb", TWO)
    inputs.structure("AF-P00720-F1-model_v4.pdb.gz", ONE)
    (inputs.structures / "c.cif").write_bytes(b"data_x\n")
    report, rows = inputs.build(
        structures=inputs.structures, descriptions=inputs.descriptions(("", "by sequence", TWO))
    )
    assert [(row.id, row.sequence, row.accession, row.kind) for row in rows] == [
        ("AF-P00720-F1-model_v4", ONE, "P00720", "seq-str"),
        ("b", TWO, None, "triplet"),
    ]
    assert codes(report) == [("c", "E_CHAINS")]
    assert report.records == {"read": 3, "stored": 2, "quarantined": 1, "duplicates": 0}
    assert report.structures == {"found": 3, "used": 2, "quarantined": 1, "unmatched": 0}


def test_one_structure_file_is_a_roster_too(inputs: Inputs) -> None:
    _, (row,) = inputs.build(structures=inputs.structure("b.pdb", TWO))
    assert (row.id, row.sequence) == ("b", TWO)


def test_descriptions_alone_are_a_roster(inputs: Inputs) -> None:
    report, rows = inputs.build(
        descriptions=inputs.descriptions(("a", "one", ONE), ("b", "two", "M1"), ("", "three", TWO), ("a", "four", ONE))
    )
    assert [(row.id, row.name, row.kind) for row in rows] == [("a", "one", "seq-func")]
    assert codes(report) == [("b", "E_ALPHABET"), ("", "E_ID")]
    assert report.records == {"read": 4, "stored": 1, "quarantined": 2, "duplicates": 1}
    assert report.descriptions["conflicting"] == 1


def test_nothing_to_build_from_is_misuse(inputs: Inputs) -> None:
    with pytest.raises(UsageError):
        inputs.build()


@pytest.mark.parametrize("name", ["in.fasta", "structures", "other.parquet", "m"])
def test_only_an_earlier_manifest_is_written_over(inputs: Inputs, name: str) -> None:
    fasta = inputs.fasta(f">a\n{ONE}\n")
    (inputs.root / "other.parquet").write_bytes(b"PAR1 of something else")
    before = sorted((path, path.is_file() and path.read_bytes()) for path in inputs.root.iterdir())
    inputs.out = inputs.root / name
    with pytest.raises(UsageError):
        inputs.build(sequences=fasta)
    assert sorted((path, path.is_file() and path.read_bytes()) for path in inputs.root.iterdir()) == before
    inputs.out = inputs.root / "m.parquet"
    assert inputs.build(sequences=fasta) == inputs.build(sequences=fasta)


def test_a_place_that_cannot_be_written_is_said(inputs: Inputs) -> None:
    fasta = inputs.fasta(f">a\n{ONE}\n")
    inputs.out = fasta / "m.parquet"
    with pytest.raises(InputError, match="cannot be written") as caught:
        inputs.build(sequences=fasta)
    assert caught.value.code == "E_OUTPUT"


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "E_DISK"), (errno.EROFS, "E_OUTPUT")])
def test_a_disk_that_takes_nothing_more_leaves_the_old_manifest(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    fasta = inputs.fasta(f">a\n{ONE}\n")
    inputs.build(sequences=fasta)
    before = inputs.out.read_bytes()

    def full(self: ManifestWriter, protein: Protein) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ManifestWriter, "write", full)
    with pytest.raises(InputError) as caught:
        inputs.build(sequences=fasta)
    assert caught.value.code == code
    assert inputs.out.read_bytes() == before
    assert [path.name for path in inputs.out.parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_build_that_leaves_nothing_is_an_error_with_the_first_reason(inputs: Inputs) -> None:
    with pytest.raises(InputError, match="E_ALPHABET"):
        inputs.build(sequences=inputs.fasta(">a\nM1\n"))
    assert list(inputs.out.parent.iterdir()) == []


def test_a_dry_run_counts_the_same_and_writes_nothing(inputs: Inputs) -> None:
    inputs.structure("a.pdb", TWO)
    sources = {"sequences": inputs.fasta(f">a\n{ONE}\n>b\nM1\n"), "structures": inputs.structures}
    dry = build_manifest(**sources, out=inputs.out, dry_run=True)
    assert not inputs.out.parent.exists()
    wet, _ = inputs.build(**sources)
    assert dry == wet


def test_two_builds_are_identical_to_the_byte(inputs: Inputs) -> None:
    for name in ("a", "b", "c"):
        inputs.structure(f"{name}.pdb.gz", ONE)
    fasta = inputs.fasta(f">c\n{ONE}\n>a\n{ONE}\n>b\n{TWO}\n")

    def built() -> dict[str, bytes]:
        inputs.build(sequences=fasta, structures=inputs.structures)
        return {path.name: path.read_bytes() for path in sorted(inputs.out.parent.iterdir())}

    first = built()
    assert sorted(first) == ["m.parquet", "m.quarantine.jsonl", "m.report.json"]
    assert built() == first


def test_the_manifest_and_its_structures_can_move_together(inputs: Inputs, tmp_path: Path) -> None:
    inputs.out = inputs.root / "m.parquet"
    inputs.structure("a.pdb", ONE)
    inputs.build(sequences=inputs.fasta(f">a\n{ONE}\n"), structures=inputs.structures)
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    manifest = Manifest(moved / "m.parquet")
    assert load_chain(manifest, manifest[0]).letters == ONE


def test_the_real_proteins_are_all_accounted_for(shared: Path, tmp_path: Path) -> None:
    real = shared / "data" / "real"
    report = build_manifest(
        sequences=real / "sequences.fasta",
        structures=real / "structures",
        descriptions=real / "descriptions.tsv",
        out=tmp_path / "real.parquet",
    )
    assert report.records == {"read": 1083, "stored": 1083, "quarantined": 0, "duplicates": 0}
    # Numbered 27, 27, 27 … where insertion codes are meant; the sequences hold the first residue of each number only.
    assert codes(report) == [("1LVE-A", "E_MISMATCH"), ("1TPK-A", "E_MISMATCH")]
    assert report.structures == {"found": 1058, "used": 1056, "quarantined": 2, "unmatched": 0}
    assert report.kinds == {"triplet": 916, "seq-str": 140, "seq-func": 26, "seq": 1}
