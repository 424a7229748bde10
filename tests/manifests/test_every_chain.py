"""Structure files as a roster in which every chain is a protein."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import InputError
from amma.manifests.every_chain import build_of_chains
from amma.manifests.structures import load_chain
from amma.manifests.table import Manifest

Write = Callable[..., bytes]


@pytest.fixture
def folder(tmp_path: Path, alpha_trace: Write) -> Path:
    """One chain; two chains; two chains of which the name says one; no structure at all."""

    def both(first: str, second: str) -> bytes:
        return alpha_trace(first, chain="A").replace(b"END\n", b"") + alpha_trace(second, chain="B")

    folder = tmp_path / "structures"
    folder.mkdir()
    (folder / "alone.pdb").write_bytes(alpha_trace("MKTAYIAKQR", missing=[4], chain="X"))
    (folder / "pair.pdb").write_bytes(both("MKTAYI", "GSHMGG"))
    (folder / "named-B.pdb").write_bytes(both("MKTAYI", "GSHMGG"))
    (folder / "twins.pdb").write_bytes(both("MKTAYI", "MKTAYI"))
    (folder / "broken.pdb").write_bytes(b"nothing")
    return folder


def proteins(out: Path) -> dict[str, str]:
    return {protein.id: protein.sequence for protein in Manifest(out)}


def test_every_chain_is_a_protein_by_the_file_and_its_own_name(folder: Path, tmp_path: Path) -> None:
    report = build_of_chains(folder, tmp_path / "all.parquet")
    assert proteins(tmp_path / "all.parquet") == {
        "alone": "MKTAIAKQR",
        "named-B": "GSHMGG",
        "pair-A": "MKTAYI",
        "pair-B": "GSHMGG",
        "twins-A": "MKTAYI",
        "twins-B": "MKTAYI",
    }
    assert report.records == {"read": 7, "stored": 6, "quarantined": 1, "duplicates": 0}
    assert [(each.id, each.code) for each in report.rejections] == [("broken", "E_CHAINS")]


def test_the_structure_of_each_is_found_again(folder: Path, tmp_path: Path) -> None:
    build_of_chains(folder, tmp_path / "all.parquet")
    manifest = Manifest(tmp_path / "all.parquet")
    for protein in manifest:
        chain = load_chain(manifest, protein)
        assert chain.letters == protein.sequence
        np.testing.assert_array_equal(chain.residue, np.arange(len(protein.sequence)))


def test_one_chain_may_be_asked_for(folder: Path, tmp_path: Path) -> None:
    report = build_of_chains(folder, tmp_path / "b.parquet", chain="B")
    assert proteins(tmp_path / "b.parquet") == {"named-B": "GSHMGG", "pair-B": "GSHMGG", "twins-B": "MKTAYI"}
    assert sorted(each.id for each in report.rejections) == ["alone", "broken"]
    assert "no chain B; the file has X" in {each.id: each.reason for each in report.rejections}["alone"]


def test_a_single_file_will_do(folder: Path, tmp_path: Path) -> None:
    build_of_chains(folder / "pair.pdb", tmp_path / "pair.parquet")
    assert proteins(tmp_path / "pair.parquet") == {"pair-A": "MKTAYI", "pair-B": "GSHMGG"}


def test_an_id_that_two_files_give_is_taken_once(folder: Path, tmp_path: Path, alpha_trace: Write) -> None:
    (folder / "pair-A.pdb").write_bytes(alpha_trace("WWWWWW"))
    report = build_of_chains(folder, tmp_path / "all.parquet")
    assert proteins(tmp_path / "all.parquet")["pair-A"] == "WWWWWW"
    assert ("pair-A", "E_DUP") in [(each.id, each.code) for each in report.rejections]
    assert report.records == {"read": 8, "stored": 6, "quarantined": 2, "duplicates": 0}


def test_a_chain_that_is_mostly_without_alpha_carbons_is_a_sequence(tmp_path: Path, pdb: Write, atom: type) -> None:
    atoms = [atom("ALA", number, name="CA" if number < 3 else "CB") for number in range(1, 9)]
    (tmp_path / "gaps.pdb").write_bytes(pdb(atoms))
    report = build_of_chains(tmp_path / "gaps.pdb", tmp_path / "gaps.parquet")
    (protein,) = Manifest(tmp_path / "gaps.parquet")
    assert (protein.sequence, protein.kind) == ("AAAAAAAA", "seq")
    assert [(each.id, each.code) for each in report.rejections] == [("gaps", "E_MISSING")]
    assert report.records == {"read": 1, "stored": 1, "quarantined": 0, "duplicates": 0}


def test_nothing_that_can_be_used_is_an_error_with_the_first_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 1 structures can be used: E_CHAINS"):
        build_of_chains(folder / "broken.pdb", tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()
