import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from amma.manifests.archives import Member, StructureArchive, opened_archive, split_location
from amma.manifests.build import build_manifest
from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.structure_files import StructureFiles
from amma.manifests.structures import load_chain, read_structure
from amma.manifests.table import Manifest

Write = Callable[..., bytes]
ONE, TWO, THREE = "MKVLAAGITREDPQWSFYHN", "GHWTRELKKDAYIVPNQSMC", "AAAAKLLLLKGGGGSTTTTR"


def tar(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], compression: str = "") -> Path:
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for header, data in members:
            info = tarfile.TarInfo(header) if isinstance(header, str) else header
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def names(archive: StructureArchive) -> list[str]:
    return [member.name for member in archive.members() if isinstance(member, Member)]


def test_an_archive_and_its_member_are_told_apart() -> None:
    assert split_location(Path("a/m.tar::sub/x.pdb.gz")) == (Path("a/m.tar"), "sub/x.pdb.gz")
    assert split_location(Path("a/M.TGZ::x.pdb")) == (Path("a/M.TGZ"), "x.pdb")
    assert split_location(Path("a/m.tar.gz::y.tar::x.pdb")) == (Path("a/m.tar.gz"), "y.tar::x.pdb")
    for plain in ("a/x.pdb", "a/m.tar", "a::b.pdb"):
        assert split_location(Path(plain)) == (Path(plain), None)


@pytest.mark.parametrize(("name", "compression"), [("m.tar", ""), ("m.tar.gz", "gz"), ("m.tgz", "gz")])
def test_members_are_read_in_any_order(tmp_path: Path, name: str, compression: str) -> None:
    contents = {f"d/{i}.pdb": bytes([i]) * (i * 300) for i in range(20)} | {"./here.cif.gz": b"x"}
    path = tar(tmp_path / name, ("README", b"r"), *contents.items(), compression=compression)
    archive = StructureArchive(path)
    assert names(archive) == [*list(contents)[:-1], "here.cif.gz"]
    for member in reversed(names(archive)):
        assert archive.read(member) == contents.get(member, b"x")
    assert read_structure(Path(f"{path}::d/7.pdb")) == contents["d/7.pdb"]


def test_names_of_any_length_are_read(tmp_path: Path) -> None:
    long = "d/" * 200 + "x.pdb"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as archive:
            info = tarfile.TarInfo(long)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        assert StructureArchive(path).read(long) == b"abc"


def test_what_is_no_regular_file_or_leads_out_is_rejected_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = tar(
        folder / "m.tar",
        ("../out.pdb", b"x"),
        ("/abs.pdb", b"x"),
        ("a/../../out2.pdb", b"x"),
        (special("link.pdb", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.pdb", tarfile.LNKTYPE, "good.pdb"), b""),
        (special("fifo.pdb", tarfile.FIFOTYPE), b""),
        (special("device.pdb", tarfile.CHRTYPE), b""),
        (special("folder.pdb", tarfile.DIRTYPE), b""),
        ("esc\x1b[31m.pdb", b"x"),
        ("good.pdb", b"good"),
        ("a/../inside.pdb", b"inside"),
    )
    archive = StructureArchive(path)
    rejections = [member for member in archive.members() if isinstance(member, Rejection)]
    assert {rejection.code for rejection in rejections} == {"E_MEMBER"}
    assert [rejection.id for rejection in rejections] == [
        *("out", "abs", "out2", "link", "hard", "fifo", "device"),
        "esc\x1b[31m",
    ]
    assert names(archive) == ["good.pdb", "inside.pdb"]
    assert len(StructureFiles(path)) == 10
    assert sorted(tmp_path.rglob("*")) == [folder, path]


def test_of_two_members_of_one_name_the_first_counts(tmp_path: Path) -> None:
    path = tar(tmp_path / "m.tar", ("a.pdb", b"first"), ("a.pdb", b"second"))
    files = StructureFiles(path)
    assert [rejection.code for rejection in files.rejections] == ["E_DUP"]
    assert read_structure(files.path("a")) == b"first"


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_truncated_archive_is_refused_whole(tmp_path: Path, compression: str) -> None:
    data = tar(
        tmp_path / "m.tar", *((f"{i}.pdb", os.urandom(700)) for i in range(30)), compression=compression
    ).read_bytes()
    end = data.rstrip(b"\0") if not compression else data
    for kept in (600, len(end) // 2, len(end) // 2 // 512 * 512, len(end) - 20):
        path = tmp_path / "cut.tar"
        path.write_bytes(data[:kept])
        with pytest.raises(InputError) as caught:
            StructureArchive(path)
        assert caught.value.code == ("E_GZIP" if compression else "E_TAR")


def test_a_damaged_header_does_not_end_the_archive_silently(tmp_path: Path) -> None:
    data = bytearray(tar(tmp_path / "m.tar", *((f"{i}.pdb", b"x" * 600) for i in range(5))).read_bytes())
    second = data.index(b"1.pdb")
    data[second + 124] ^= 1
    path = tmp_path / "bad.tar"
    path.write_bytes(bytes(data))
    with pytest.raises(InputError) as caught:
        StructureArchive(path)
    assert caught.value.code == "E_TAR"


def test_a_header_with_a_negative_or_huge_size_is_refused(tmp_path: Path) -> None:
    for size in (-1024, 1 << 40):
        infos = [tarfile.TarInfo("a.pdb"), tarfile.TarInfo("b.pdb")]
        infos[1].size = size
        blocks = b"".join(info.tobuf(tarfile.GNU_FORMAT) for info in infos)
        path = tmp_path / "bad.tar"
        path.write_bytes(blocks + bytes(10240))
        with pytest.raises(InputError) as caught:
            StructureArchive(path)
        assert caught.value.code == "E_TAR"


@pytest.mark.parametrize("data", [b"", b"not a tar" * 100, gzip.compress(b"neither" * 100, mtime=0), bytes(512)])
def test_other_files_are_no_archives(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.tar.gz"
    path.write_bytes(data)
    with pytest.raises(InputError):
        StructureFiles(path)


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_manifest_of_an_archive_is_that_of_its_files(tmp_path: Path, alpha_trace: Write, compression: str) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    files = {"a.pdb": alpha_trace(ONE, missing=[3]), "b.pdb.gz": gzip.compress(alpha_trace(TWO)), "z.pdb": b"broken"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    suffix = ".tar.gz" if compression else ".tar"
    (tmp_path / "packed").mkdir()
    archive = tar(tmp_path / "packed" / f"m{suffix}", *reversed(files.items()), compression=compression)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(f">a\n{ONE}\n>b\n{TWO}\n>c\n{THREE}\n>z\n{ONE}\n")

    def built(source: Path) -> tuple[list[tuple[object, ...]], dict[str, int], dict[str, int]]:
        report = build_manifest(sequences=fasta, structures=source, out=tmp_path / "m.parquet")
        manifest = Manifest(tmp_path / "m.parquet")
        rows = [(row.id, row.kind, row.unresolved, row.structure_sha256) for row in manifest]
        letters = [load_chain(manifest, row).letters for row in manifest if row.structure]
        assert letters == [ONE[:3] + ONE[4:], TWO]
        return rows, report.structures, report.codes

    assert built(archive) == built(folder)
    assert built(archive.parent) == built(folder)
    build_manifest(sequences=fasta, structures=archive, out=tmp_path / "m.parquet")
    assert Manifest(tmp_path / "m.parquet")[1].structure == f"packed/m{suffix}::b.pdb.gz"


def test_an_archive_alone_is_a_roster(tmp_path: Path, alpha_trace: Write) -> None:
    archive = tar(
        tmp_path / "m.tar",
        ("AF-P00720-F1-model_v4.pdb", alpha_trace(ONE)),
        (special("x.pdb", tarfile.SYMTYPE, "y"), b""),
    )
    report = build_manifest(structures=archive, out=tmp_path / "m.parquet")
    (row,) = Manifest(tmp_path / "m.parquet")
    assert (row.id, row.accession, row.sequence) == ("AF-P00720-F1-model_v4", "P00720", ONE)
    assert report.records == {"read": 2, "stored": 1, "quarantined": 1, "duplicates": 0}


def test_an_archive_that_changed_or_went_away_is_noticed(tmp_path: Path, alpha_trace: Write) -> None:
    path = tar(tmp_path / "m.tar", ("a.pdb", alpha_trace(ONE)))
    build_manifest(structures=path, out=tmp_path / "m.parquet")
    manifest = Manifest(tmp_path / "m.parquet")
    assert load_chain(manifest, manifest[0]).letters == ONE

    def code() -> str:
        with pytest.raises(RecordError) as caught:
            load_chain(manifest, manifest[0])
        return caught.value.code

    tar(path, ("0.pdb", b"x"), ("a.pdb", alpha_trace(TWO)))
    assert code() == "E_CHANGED"
    tar(path, ("b.pdb", alpha_trace(ONE)))
    assert code() == "E_FILE"
    path.write_bytes(b"")
    assert code() == "E_FILE"
    path.unlink()
    assert code() == "E_FILE"


def test_an_archive_is_opened_once(tmp_path: Path) -> None:
    path = tar(tmp_path / "m.tar", ("a.pdb", b"x"))
    assert opened_archive(path) is opened_archive(path)
