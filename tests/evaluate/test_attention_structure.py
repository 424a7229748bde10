import gzip
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import gemmi
import numpy as np
import pytest

from amma.evaluate.analyses.attention_structure import Painted, file_name, find_proteins, paint
from amma.manifests.build import build_manifest
from amma.manifests.quarantine import Rejection
from amma.manifests.table import Manifest, Protein
from amma.manifests.toy import write_toy

HOSTILE = ("../../etc/passwd", "/absolute", "a\nb", "<script>", "..", ".hidden", "x" * 400, "CON'\"; rm -rf", "ä/ö", "")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("painted")
    write_toy(folder / "toy", proteins=24, seed=1)
    build_manifest(
        sequences=folder / "toy" / "sequences.fasta",
        structures=folder / "toy" / "structures",
        descriptions=None,
        out=folder / "m.parquet",
    )
    return Manifest(folder / "m.parquet")


def read_back(painted: Painted) -> dict[int, set[float]]:
    """The B-factors of the atoms of each residue, by number."""
    model = gemmi.read_structure_string(painted.text, format=gemmi.CoorFormat.Mmcif)[0]
    return {residue.seqid.num: {round(atom.b_iso, 2) for atom in residue} for chain in model for residue in chain}


def structured(manifest: Manifest, suffix: str, *, gaps: bool) -> Protein:
    return next(p for p in manifest if p.structure and p.structure.endswith(suffix) and bool(p.unresolved) == gaps)


@pytest.mark.parametrize(("suffix", "gaps"), [(".pdb.gz", False), (".cif.gz", False), (".pdb.gz", True)])
def test_gemmi_reads_the_attention_back_from_every_atom(manifest: Manifest, suffix: str, gaps: bool) -> None:
    protein = structured(manifest, suffix, gaps=gaps)
    length = len(protein.sequence)
    attention = np.random.default_rng(0).random(length)
    painted = paint(manifest, protein, protein.id, protein.sequence, attention)
    assert isinstance(painted, Painted)
    found = read_back(painted)
    for residue in range(length):
        if residue not in protein.unresolved:
            (value,) = found[residue + 1]
            assert value == pytest.approx(100 * attention[residue] / attention.max(), abs=0.011)
        elif residue + 1 in found:  # there without its Cα
            assert found[residue + 1] == {0.0}
    assert max(max(values) for values in found.values()) == pytest.approx(100)
    assert painted.trace.residue.tolist() == [i for i in range(length) if i not in protein.unresolved]


def test_residues_without_a_row_get_zero(manifest: Manifest) -> None:
    protein = structured(manifest, ".pdb.gz", gaps=False)
    painted = paint(manifest, protein, protein.id, protein.sequence, np.ones(20))
    assert isinstance(painted, Painted)
    found = read_back(painted)
    assert [found[20], found[21]] == [{100.0}, {0.0}]


def test_other_chains_and_ligands_get_zero_and_only_model_one_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    protein = structured(manifest, ".pdb.gz", gaps=False)
    text = gzip.decompress(manifest.structure_path(protein).read_bytes()).decode()
    structure = gemmi.read_pdb_string(text)
    other = structure[0][0].clone()
    other.name = "B"
    for residue in other:
        for atom in residue:
            atom.pos = gemmi.Position(atom.pos.x + 90, atom.pos.y, atom.pos.z)
            atom.b_iso = 55.0
    structure[0].add_chain(other)
    structure.add_model(structure[0].clone())
    structure[1].num = 2
    structure.setup_entities()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "two-A.pdb").write_text(structure.make_pdb_string())
    (tmp_path / "p.fasta").write_text(f">two-A\n{protein.sequence}\n")
    build_manifest(
        sequences=tmp_path / "p.fasta", structures=tmp_path / "s", descriptions=None, out=tmp_path / "m.parquet"
    )
    made = Manifest(tmp_path / "m.parquet")
    painted = paint(made, made[0], "two-A", protein.sequence, np.linspace(0.1, 1, len(protein.sequence)))
    assert isinstance(painted, Painted)
    back = gemmi.read_structure_string(painted.text, format=gemmi.CoorFormat.Mmcif)
    assert len(back) == 1
    assert {atom.b_iso for residue in back[0]["B"] for atom in residue} == {0.0}
    assert max(atom.b_iso for residue in back[0]["A"] for atom in residue) == pytest.approx(100)


def test_structures_in_an_archive_are_painted_as_those_in_a_folder(manifest: Manifest, tmp_path: Path) -> None:
    toy = manifest.path.parent / "toy"
    with tarfile.open(tmp_path / "models.tar", "w") as archive:
        for path in sorted((toy / "structures").iterdir()):
            archive.add(path, path.name)
    build_manifest(
        sequences=toy / "sequences.fasta",
        structures=tmp_path / "models.tar",
        descriptions=None,
        out=tmp_path / "m.parquet",
    )
    packed = Manifest(tmp_path / "m.parquet")
    for suffix in (".pdb.gz", ".cif.gz"):
        protein = structured(manifest, suffix, gaps=False)
        other = find_proteins(packed, [protein.id])[protein.id]
        assert "models.tar" in (other.structure or "")
        attention = np.linspace(0.1, 1, len(protein.sequence))
        loose = paint(manifest, protein, protein.id, protein.sequence, attention)
        tarred = paint(packed, other, other.id, other.sequence, attention)
        assert isinstance(loose, Painted)
        assert isinstance(tarred, Painted)
        assert tarred.text == loose.text


def test_a_protein_that_is_not_the_stores_is_a_line_that_says_so(manifest: Manifest) -> None:
    protein = structured(manifest, ".pdb.gz", gaps=False)
    bare = next(p for p in manifest if p.structure is None)
    flat = np.ones(5)
    cases = [
        (None, protein.sequence, "E_OUTSIDE"),
        (protein, protein.sequence[:-1] + "X", "E_MISMATCH"),
        (bare, bare.sequence, "E_ABSENT"),
        (replace(protein, structure_sha256="0" * 64), protein.sequence, "E_CHANGED"),
        (replace(protein, structure="gone.pdb"), protein.sequence, "E_FILE"),
    ]
    for row, sequence, code in cases:
        rejected = paint(manifest, row, protein.id, sequence, flat)
        assert isinstance(rejected, Rejection)
        assert (rejected.code, rejected.id) == (code, protein.id)


def test_whatever_an_id_is_its_file_stays_in_its_folder(manifest: Manifest) -> None:
    names = [file_name(hostile) for hostile in HOSTILE]
    assert len(set(names)) == len(HOSTILE)
    for name in names:
        path = PurePosixPath(name)
        assert path.parent == PurePosixPath("structures")
        assert not path.name.startswith("..")
        assert len(path.name.encode()) <= 255
        assert path.name.isascii()
        assert path.name.isprintable()
    protein = structured(manifest, ".pdb.gz", gaps=False)
    hostile = replace(protein, id=HOSTILE[2])
    painted = paint(manifest, hostile, hostile.id, protein.sequence, np.ones(len(protein.sequence)))
    assert isinstance(painted, Painted)
    assert painted.text.startswith("data_a%0Ab\n")


def test_proteins_are_found_by_id_wherever_they_are_in_the_manifest(manifest: Manifest) -> None:
    ids = [manifest[3].id, manifest[20].id, "nobody"]
    assert {id: protein.id for id, protein in find_proteins(manifest, ids).items()} == {id: id for id in ids[:2]}
