from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amma.manifests.errors import InputError
from amma.manifests.table import ROWS_PER_GROUP, Manifest, ManifestWriter, Modality, Protein, kind_of, write_manifest


def proteins(count: int) -> list[Protein]:
    return [
        Protein(
            id=f"p{i}",
            sequence="MKV" * (i % 5 + 1),
            structure=f"s/p{i}.pdb.gz" if i % 2 else None,
            structure_sha256="0" * 64 if i % 2 else None,
            chain="A" if i % 2 else None,
            unresolved=tuple(range(i % 3)) if i % 2 else (),
            name='5"-name\n' if i % 3 else "",
            accession="P00720" if i % 7 else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, ROWS_PER_GROUP, 2 * ROWS_PER_GROUP + 3])
def test_what_is_written_is_read_in_order_and_at_random(tmp_path: Path, count: int) -> None:
    rows = proteins(count)
    write_manifest(tmp_path / "m.parquet", rows)
    manifest = Manifest(tmp_path / "m.parquet")
    assert len(manifest) == count
    assert list(manifest) == rows
    for row in (0, 1, count // 2, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, count - 1):
        if 0 <= row < count:
            assert manifest[row] == rows[row]
    for row in (-1, count):
        with pytest.raises(IndexError):
            manifest[row]


def test_kinds_follow_from_what_a_protein_has() -> None:
    assert Protein("a", "MK").kind == "seq"
    assert Protein("a", "MK", structure="x").kind == "seq-str"
    assert Protein("a", "MK", similarity="x").kind == "seq-func"
    assert Protein("a", "MK", structure="x", name="x").kind == "triplet"
    assert kind_of((Modality.SEQ, Modality.FUNC)) == "seq-func"


def test_a_failed_write_leaves_the_old_manifest_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, proteins(3))

    def fail() -> None:
        with ManifestWriter(path) as writer:
            writer.write(proteins(1)[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.parquet"]
    assert len(Manifest(path)) == 3


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_manifest(tmp_path / name, proteins(50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_files_are_not_manifests(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(InputError, match="no such file"):
        Manifest(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        Manifest(path)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(InputError, match="not a manifest"):
        Manifest(path)


def test_a_newer_major_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, proteins(2))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"amma": '{"format": "manifest", "version": "2.0"}'}), path)
    with pytest.raises(InputError) as caught:
        Manifest(path)
    assert caught.value.code == "E_VERSION"
