from pathlib import Path

import pytest

from amma.manifests.errors import InputError
from amma.manifests.structure_files import StructureFiles, alphafold_accession


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_files_are_found_by_id_then_accession_then_entry(tmp_path: Path) -> None:
    files = StructureFiles(
        folder_of(tmp_path, "1ABC-A.pdb.gz", "1ABC.cif", "AF-P00720-F1-model_v4.cif.gz", "sub/2DEF.ent", "notes.txt")
    )
    assert len(files) == 4
    assert files.find("1ABC-A", "P00720") == "1ABC-A"
    assert files.find("1ABC-B", "P00720") == "AF-P00720-F1-model_v4"
    assert files.find("P00720", None) == "AF-P00720-F1-model_v4"
    assert files.find("1ABC_B", None) == "1ABC"
    assert files.find("2DEF-X", None) == "2DEF"
    assert files.find("3GHI-A", None) is None
    assert files.path("2DEF") == tmp_path / "sub" / "2DEF.ent"


def test_later_fragments_of_alphafold_models_are_no_whole_proteins() -> None:
    assert alphafold_accession("AF-Q8WZ42-F1-model_v4") == "Q8WZ42"
    assert alphafold_accession("AF-Q8WZ42-F2-model_v4") is None


def test_the_listing_is_sorted_and_the_second_of_two_equal_names_is_rejected(tmp_path: Path) -> None:
    files = StructureFiles(folder_of(tmp_path, "b.pdb", "a.pdb.gz", "a.cif", "c/b.pdb"))
    assert list(files) == ["a", "b"]
    assert files.path("a").name == "a.cif"
    assert [(r.id, r.code, Path(r.source).name) for r in files.rejections] == [
        ("a", "E_DUP", "a.pdb.gz"),
        ("b", "E_DUP", "b.pdb"),
    ]
    assert len(files) == 4


def test_a_single_file_is_a_folder_of_one(tmp_path: Path) -> None:
    files = StructureFiles(folder_of(tmp_path, "a.pdb", "b.pdb") / "a.pdb")
    assert list(files) == ["a"]
    assert files.path("a") == tmp_path / "a.pdb"


def test_no_structure_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no structure here"):
        StructureFiles(folder_of(tmp_path, "notes.txt"))
    with pytest.raises(InputError, match="no such file"):
        StructureFiles(tmp_path / "absent")
