import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from amma.manifests.quarantine import RecordError
from amma.manifests.structures import RawChain, load_chain, read_chains, select_chain, structure_stem
from amma.manifests.table import Manifest, Protein, write_manifest

Write = Callable[..., bytes]


def one_chain(data: bytes, name: str = "x.pdb") -> RawChain:
    chains = read_chains(data, name)
    assert len(chains) == 1
    return chains[0]


def code_of(data: bytes, name: str = "x.pdb") -> str:
    with pytest.raises(RecordError) as caught:
        read_chains(data, name)
    return caught.value.code


def test_alpha_only_files_are_read(alpha_trace: Write) -> None:
    chain = one_chain(alpha_trace("MKVLA"))
    assert (chain.name, chain.letters) == ("A", "MKVLA")
    np.testing.assert_allclose(chain.ca[:, 0], 3.8 * np.arange(1, 6), atol=1e-3)


def test_compression_changes_nothing(alpha_trace: Write) -> None:
    data = alpha_trace("MKVLA")
    packed = one_chain(gzip.compress(data), "x.pdb.gz")
    np.testing.assert_array_equal(packed.ca, one_chain(data, "x.ent").ca)


def test_a_truncated_gzip_is_refused(alpha_trace: Write) -> None:
    assert code_of(gzip.compress(alpha_trace("MKVLA" * 20))[:-20], "x.pdb.gz") == "E_GZIP"


def test_mmcif_gives_what_pdb_gives(alpha_trace: Write) -> None:
    data = alpha_trace("MKVLAGG", missing=[3])
    structure = gemmi.read_pdb_string(data)
    structure.setup_entities()
    from_cif = one_chain(structure.make_mmcif_document().as_string().encode(), "x.cif")
    from_pdb = one_chain(data)
    assert from_cif.letters == from_pdb.letters == "MKVAGG"
    assert from_cif.name == from_pdb.name
    np.testing.assert_array_equal(from_cif.ca, from_pdb.ca)


def test_the_best_occupied_alternate_is_taken(pdb: Write, atom: Any) -> None:
    def read(occupancies: tuple[float, float]) -> float:
        alternates = [
            atom("LYS", 2, altloc=letter, occupancy=occupancy, xyz=(str(x), "0", "0"))
            for letter, occupancy, x in zip("AB", occupancies, (7.0, 8.0), strict=True)
        ]
        chain = one_chain(pdb([atom("MET", 1), *alternates, atom("VAL", 3)]))
        assert chain.letters == "MKV"
        return float(chain.ca[1, 0])

    assert read((0.3, 0.7)) == 8.0
    assert read((0.7, 0.3)) == 7.0
    assert read((0.5, 0.5)) == 7.0


def test_two_residues_in_one_place_give_one(pdb: Write, atom: Any) -> None:
    mutant = [atom("SER", 2, altloc="A", occupancy=0.4), atom("THR", 2, altloc="B", occupancy=0.6)]
    assert one_chain(pdb([atom("MET", 1), *mutant, atom("VAL", 3)])).letters == "MTV"


def test_insertion_codes_are_residues_of_their_own(pdb: Write, atom: Any) -> None:
    atoms = [
        atom("MET", 27),
        atom("SER", 27, insertion="A", xyz=("104", "1", "0")),
        atom("LEU", 27, insertion="B", xyz=("105", "2", "0")),
        atom("GLY", 28),
    ]
    assert one_chain(pdb(atoms)).letters == "MSLG"


def test_equal_numbers_without_insertion_codes_are_residues_of_their_own(pdb: Write, atom: Any) -> None:
    assert one_chain(pdb([atom("MET", 27), atom("SER", 27), atom("GLY", 28)])).letters == "MSG"


def test_modified_residues_have_their_parents_letter(pdb: Write, atom: Any) -> None:
    names = ["ALA", "MSE", "SEC", "PYL", "SEP", "UNK", "QQQ", "GLY"]
    atoms = [
        atom(name, i + 1, record="HETATM" if name in ("MSE", "SEP", "QQQ") else "ATOM") for i, name in enumerate(names)
    ]
    assert one_chain(pdb(atoms)).letters == "AMUOSXXG"


def test_water_and_ligands_are_no_residues(pdb: Write, atom: Any) -> None:
    data = pdb([atom("MET", 1), atom("LYS", 2), atom("VAL", 3)]).replace(b"END\n", b"")
    others = [
        atom("HOH", 101, name="O", record="HETATM").line(9),
        atom("HEM", 102, name="CHA", record="HETATM").line(10),
        # Calcium is called CA too; its name begins one column earlier.
        "HETATM   11 CA    CA A 103      10.000  10.000  10.000  1.00  0.00          CA  ",
    ]
    assert one_chain(data + ("\n".join(others) + "\nEND\n").encode()).letters == "MKV"


def test_nucleic_acids_are_no_protein_chains(pdb: Write, atom: Any) -> None:
    dna = [atom(name, i + 1, name="P", chain="B") for i, name in enumerate(["DA", "DG", "DC"])]
    assert [chain.name for chain in read_chains(pdb([*dna, atom("MET", 1), atom("LYS", 2)]), "x.pdb")] == ["A"]
    assert code_of(pdb(dna)) == "E_CHAINS"


def test_a_residue_without_alpha_carbon_keeps_its_letter(pdb: Write, atom: Any) -> None:
    chain = one_chain(pdb([atom("MET", 1), atom("LYS", 2, name="N"), atom("VAL", 3)]))
    assert chain.letters == "MKV"
    assert np.isfinite(chain.ca).all(axis=1).tolist() == [True, False, True]


def test_only_the_first_model_is_read(alpha_trace: Write) -> None:
    first, second = (alpha_trace(letters).replace(b"END\n", b"") for letters in ("MKV", "AAA"))
    data = b"MODEL        1\n" + first + b"ENDMDL\nMODEL        2\n" + second + b"ENDMDL\nEND\n"
    assert one_chain(data).letters == "MKV"


def test_of_a_chain_that_is_repeated_under_its_name_the_first_copy_counts(alpha_trace: Write) -> None:
    first = alpha_trace("MKV").replace(b"END\n", b"")
    shifted = first.replace(b"   0.000   0.000", b"  50.000   0.000")
    chain = one_chain(first + shifted + b"END\n")
    assert chain.letters == "MKV"
    assert (chain.ca[:, 1] == 0).all()


@pytest.mark.parametrize("bad", ["nan", "inf", "********", "abc", ""])
def test_coordinates_that_are_no_numbers_are_refused(pdb: Write, atom: Any, bad: str) -> None:
    assert code_of(pdb([atom("MET", 1), atom("LYS", 2, xyz=("1.0", bad, "2.0"))])) == "E_COORD"


@pytest.mark.parametrize("bad", ["nan", "?", ".", "abc"])
def test_mmcif_coordinates_that_are_no_numbers_are_refused(alpha_trace: Write, bad: str) -> None:
    structure = gemmi.read_pdb_string(alpha_trace("MKV"))
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string().replace("7.6 ", f"{bad} ", 1)
    assert f" {bad} " in text
    assert code_of(text.encode(), "x.cif") == "E_COORD"


def test_old_files_with_the_entry_name_in_the_last_columns_are_read(alpha_trace: Write) -> None:
    lines = alpha_trace("MKV").decode().splitlines()
    old = "\n".join(f"{line[:72]:<72}1MLC{i:4d}" for i, line in enumerate(lines, start=184))
    assert one_chain(old.encode()).letters == "MKV"


@pytest.mark.parametrize("data", [b"\x00\xff\xfe garbage", b"data_x\n_a b\n", b"data_x\nloop_\n"])
@pytest.mark.parametrize("name", ["x.pdb", "x.cif"])
def test_garbage_is_a_record_error(data: bytes, name: str) -> None:
    assert code_of(data, name) in ("E_PARSE", "E_CHAINS")


def test_an_empty_file_is_a_record_error() -> None:
    assert code_of(b"") == code_of(b"\n", "x.cif") == "E_EMPTY"


def test_names_of_structure_files() -> None:
    assert structure_stem("1ABC-A.pdb.gz") == "1ABC-A"
    assert structure_stem("AF-P00720-F1-model_v4.CIF") == "AF-P00720-F1-model_v4"
    assert structure_stem("pdb1abc.ent.GZ") == "pdb1abc"
    assert structure_stem("a.b.mmcif") == "a.b"
    assert [structure_stem(name) for name in ("README.md", ".pdb", "x.pdb.bz2", "pdb", "x.gz")] == [None] * 5


def test_the_chain_is_the_wanted_one_else_the_only_one_else_that_of_the_id() -> None:
    a, b = (RawChain(name, letters, np.zeros((3, 3), np.float32)) for name, letters in (("A", "MKV"), ("B", "MKL")))
    assert select_chain([a], None, "anything-Z") is a
    assert select_chain([a, b], "B", "1ABC-A") is b
    assert select_chain([a, b], None, "1ABC-B") is b
    assert select_chain([a, b], None, "1ABC_A") is a
    assert select_chain([a, b], None, "x_B-y_A") is a


def test_undecided_chains_are_listed() -> None:
    chains = [RawChain(name, f"MK{name}", np.zeros((3, 3), np.float32)) for name in "ACD"]
    for wanted, protein_id in ((None, "1ABC"), (None, "1ABC-B"), ("B", "1ABC-A")):
        with pytest.raises(RecordError) as caught:
            select_chain(chains, wanted, protein_id)
        assert caught.value.code == "E_CHAINS"
        assert "A, C, D" in caught.value.reason


def test_of_equal_chains_the_first_stands_for_all() -> None:
    chains = [RawChain(name, "MKV", np.zeros((3, 3), np.float32)) for name in "AB"]
    assert select_chain(chains, None, "1ABC").name == "A"


@pytest.fixture
def stored(tmp_path: Path, alpha_trace: Write) -> Callable[..., tuple[Manifest, Protein]]:
    """A manifest of one protein whose structure lacks residue 3."""
    import hashlib

    def write(**changes: Any) -> tuple[Manifest, Protein]:
        data = alpha_trace("MKVLAGG", missing=[3])
        (tmp_path / "x.pdb").write_bytes(data)
        row = {"structure_sha256": hashlib.sha256(data).hexdigest(), "unresolved": (3,), "chain": "A"} | changes
        write_manifest(tmp_path / "m.parquet", [Protein(id="x", sequence="MKVLAGG", structure="x.pdb", **row)])
        manifest = Manifest(tmp_path / "m.parquet")
        return manifest, manifest[0]

    return write


def test_a_stored_chain_is_loaded_again(stored: Callable[..., tuple[Manifest, Protein]]) -> None:
    chain = load_chain(*stored())
    assert chain.residue.tolist() == [0, 1, 2, 4, 5, 6]
    assert chain.letters == "MKVAGG"
    assert chain.ca.shape == (6, 3)


@pytest.mark.parametrize("change", [{"structure_sha256": "0" * 64}, {"unresolved": (2,)}, {"unresolved": ()}])
def test_a_structure_that_is_not_what_the_manifest_says_is_refused(
    stored: Callable[..., tuple[Manifest, Protein]], change: dict[str, Any]
) -> None:
    with pytest.raises(RecordError) as caught:
        load_chain(*stored(**change))
    assert caught.value.code == "E_CHANGED"


def test_a_structure_that_went_away_is_refused(tmp_path: Path, stored: Callable[..., tuple[Manifest, Protein]]) -> None:
    manifest, protein = stored()
    (tmp_path / "x.pdb").unlink()
    with pytest.raises(RecordError) as caught:
        load_chain(manifest, protein)
    assert caught.value.code == "E_FILE"
