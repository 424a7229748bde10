"""A corpus of inputs as people have them, each with what becomes of it: rows, quarantine lines, or one clear error."""

import gzip
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.manifests.build import build_manifest
from amma.manifests.errors import InputError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.structures import load_chain
from amma.manifests.table import Manifest

Write = Callable[..., bytes]
ONE, TWO = "MKVLAAGITREDPQWSFYHN", "GHWTRELKKDAYIVPNQSMC"
HEADER = "EntryName\tProteinName\tFunction\tSubcellularLocation\tSimilarity\tSequence\n"
GOOD = f">good\n{TWO}\n".encode()


def fasta(*records: tuple[str, str]) -> bytes:
    return "".join(f">{name}\n{letters}\n" for name, letters in records).encode()


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(b"A" * (1 << 20)) for _ in range(megabytes)) + packer.flush()


@dataclass(frozen=True)
class Case:
    """What a file holds, and what becomes of it: the rows' sequences, the rejections' codes."""

    name: str
    data: bytes
    rows: dict[str, str] = field(default_factory=dict)
    codes: Sequence[tuple[str, str]] = ()
    error: str | None = None


SEQUENCES = [
    Case("crlf", b">a\r\nMKV\r\nLAA\r\n", {"a": "MKVLAA"}),
    Case("old mac line ends", b">a\rMKV\rLAA\r", {"a": "MKVLAA"}),
    Case("byte-order mark", b"\xef\xbb\xbf>a\nMKV\n", {"a": "MKV"}),
    Case("no final line end", b">a\nMKV", {"a": "MKV"}),
    Case("lower case", fasta(("a", "mkvLaa")), {"a": "MKVLAA"}),
    Case("final star", fasta(("a", "MKV*")), {"a": "MKV"}),
    Case("inner star", fasta(("a", "MK*V")) + GOOD, {"good": TWO}, [("a", "E_ALPHABET")]),
    Case("gap", fasta(("a", "MK-V"), ("b", "MK.V")) + GOOD, {"good": TWO}, [("a", "E_GAP"), ("b", "E_GAP")]),
    Case("ambiguous letters", fasta(("a", "MUOBZXK")), {"a": "MUOBZXK"}),
    Case("J and digits", fasta(("a", "MKJ"), ("b", "1MK")) + GOOD, {"good": TWO}, [(i, "E_ALPHABET") for i in "ab"]),
    Case("a tokenizer's tokens", fasta(("a", "MK<eos>V")) + GOOD, {"good": TWO}, [("a", "E_ALPHABET")]),
    Case("inner blank", fasta(("a", "MK VL")) + GOOD, {"good": TWO}, [("a", "E_ALPHABET")]),
    Case("empty sequence", fasta(("a", "")) + GOOD, {"good": TWO}, [("a", "E_EMPTY")]),
    Case("no id", fasta(("", "MKV")) + GOOD, {"good": TWO}, [("", "E_ID")]),
    Case("duplicate", fasta(("a", "MKV"), ("a", "mkv*")), {"a": "MKV"}),
    Case("one id for two proteins", fasta(("a", "MKV"), ("a", "MKL")), error="E_DUP"),
    Case("ids that differ in case", fasta(("a", "MKV"), ("A", "MKL")), {"a": "MKV", "A": "MKL"}),
    Case("ids like paths", fasta(("../../a", "MKV"), ("/etc/b", "MKL")), {"../../a": "MKV", "/etc/b": "MKL"}),
    Case("control characters", fasta(("a\x1b[2J", "MKV")) + GOOD, {"good": TWO}, [("a\x1b[2J", "E_ID")]),
    Case("latin-1 id", b">prot\xe9\nMKV\n" + GOOD, {"good": TWO}, [("prot\udce9", "E_UTF8")]),
    Case("latin-1 remark", b">a prot\xe9ine\nMKV\n", {"a": "MKV"}),
    Case("latin-1 residue", b">a\nMK\xe9\n" + GOOD, {"good": TWO}, [("a", "E_ALPHABET")]),
    Case("null bytes", b">a\nMK\x00V\n" + GOOD, {"good": TWO}, [("a", "E_ALPHABET")]),
    Case("huge header", fasta(("a " + "x" * 70_000, "MKV")) + GOOD, {"good": TWO}, [("a", "E_HEADER")]),
    Case("huge line", b">a\n" + b"A" * (17 << 20) + b"\n", error="E_LINE"),
    Case("no bytes", b"", error="E_INPUT"),
    Case("another format", b"EntryName\tSequence\n", error="E_INPUT"),
    Case("a binary file", bytes(range(256)), error="E_INPUT"),
    Case("gzip", gzip.compress(GOOD), {"good": TWO}),
    Case("truncated gzip", gzip.compress(GOOD * 50)[:-12], error="E_GZIP"),
    Case("gzip with a wrong checksum", gzip.compress(GOOD)[:-8] + bytes(8), error="E_GZIP"),
    Case("gzip with more behind it", gzip.compress(GOOD) + b"tail", error="E_GZIP"),
    Case("gzip bomb", bomb(100), error="E_BOMB"),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "m.parquet"


def check(case: Case, out: Path, **sources: Path) -> Manifest | None:
    """Build, and compare with what the case says."""
    if case.error is not None:
        with pytest.raises(InputError) as caught:
            build_manifest(out=out, **sources)
        assert caught.value.code == case.error
        assert "\n" not in str(caught.value)
        assert not out.exists()
        return None
    report = build_manifest(out=out, **sources)
    manifest = Manifest(out)
    assert {row.id: row.sequence for row in manifest} == case.rows
    assert [(rejection.id, rejection.code) for rejection in report.rejections] == list(case.codes)
    assert read_quarantine(out.with_name("m.quarantine.jsonl")) == list(report.rejections)
    assert all(rejection.reason and rejection.hint for rejection in report.rejections)
    return manifest


@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case.name)
def test_sequences(case: Case, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.fasta"
    path.write_bytes(case.data)
    check(case, out, sequences=path)


DESCRIPTIONS = [
    Case("text", f"{HEADER}a\tname\tf\tl\ts\t{ONE}\n".encode(), {"a": "triplet"}),
    Case("by sequence", f"{HEADER}\tname\t\t\t\t{ONE}\n".encode(), {"a": "triplet"}),
    Case("crlf", f"{HEADER}a\tname\t\t\t\t{ONE}\n".replace("\n", "\r\n").encode(), {"a": "triplet"}),
    Case("byte-order mark", f"\ufeff{HEADER}a\tname\t\t\t\t{ONE}\n".encode(), {"a": "triplet"}),
    Case("empty text", f"{HEADER}a\t \t\t\t\t{ONE}\n".encode(), {"a": "seq-str"}),
    Case("missing cells", f"{HEADER}a\tname\n".encode(), {"a": "triplet"}),
    Case("a stray quote", f'{HEADER}a\t"name\t\t\t\t{ONE}\nb\tx"\t\t\t\t{TWO}\n'.encode(), {"a": "triplet"}),
    Case("latin-1", f"{HEADER}a\tn\xe9\t\t\t\t{ONE}\n".encode("latin-1"), {"a": "seq-str"}, [("a", "E_UTF8")]),
    Case("a huge cell", f"{HEADER}a\t{'x' * 200_000}\t\t\t\t{ONE}\n".encode(), {"a": "triplet"}),
    Case("other columns", b"id\ttext\na\tname\n", error="E_COLUMNS"),
    Case("no bytes", b"", error="E_COLUMNS"),
    Case("truncated gzip", gzip.compress(f"{HEADER}a\tname\t\t\t\t{ONE}\n".encode())[:-5], error="E_GZIP"),
]  # fmt: skip


@pytest.mark.parametrize("case", DESCRIPTIONS, ids=lambda case: case.name)
def test_descriptions(case: Case, tmp_path: Path, out: Path, alpha_trace: Write) -> None:
    (tmp_path / "in.fasta").write_bytes(fasta(("a", ONE)))
    (tmp_path / "a.pdb").write_bytes(alpha_trace(ONE))
    (tmp_path / "d.tsv").write_bytes(case.data)
    sources = {
        "sequences": tmp_path / "in.fasta",
        "structures": tmp_path / "a.pdb",
        "descriptions": tmp_path / "d.tsv",
    }
    if case.error is not None:
        check(case, out, **sources)
        return
    report = build_manifest(out=out, **sources)
    assert {row.id: row.kind for row in Manifest(out)} == case.rows
    assert [(rejection.id, rejection.code) for rejection in report.rejections] == list(case.codes)


def models(*texts: bytes) -> bytes:
    return b"".join(
        b"MODEL     %4d\n%sENDMDL\n" % (number, text.replace(b"END\n", b""))
        for number, text in enumerate(texts, start=1)
    )


def chains(*texts: bytes) -> bytes:
    return b"".join(text.replace(b"END\n", b"") for text in texts)


def old(text: bytes) -> bytes:
    return b"\n".join(b"%-72s1MLC%4d" % (line[:72], number) for number, line in enumerate(text.splitlines()))


class Structures:
    """Names a corpus of structure files of the protein `a` (`ONE`); each is made when its test runs."""

    def __init__(self, trace: Write, pdb: Write, atom: Any) -> None:
        self.trace, self.pdb, self.atom = trace, pdb, atom

    def residues(self, **changes: Any) -> bytes:
        """The protein with its third residue (a valine) changed."""
        names = [line[17:20].decode() for line in self.trace(ONE).splitlines() if line.startswith(b"ATOM")]
        atoms = [self.atom(name, number) for number, name in enumerate(names, start=1)]
        atoms[2:3] = changes["third"]
        return self.pdb(atoms)

    def make(self, name: str) -> bytes:
        atom, trace = self.atom, self.trace
        valine = {"number": 3}
        made: dict[str, Callable[[], bytes]] = {
            "good": lambda: trace(ONE),
            "crlf": lambda: trace(ONE).replace(b"\n", b"\r\n"),
            "byte-order mark": lambda: b"\xef\xbb\xbf" + trace(ONE),
            "gzip": lambda: gzip.compress(trace(ONE)),
            "several models": lambda: models(trace(ONE), trace(TWO), trace(TWO)),
            "equal chains": lambda: chains(trace(ONE, chain="A"), trace(ONE, chain="B")),
            "several chains": lambda: chains(trace(ONE, chain="A"), trace(TWO, chain="B")),
            "alternate locations": lambda: self.residues(
                third=[
                    atom("VAL", **valine, altloc="A", occupancy=0.4, xyz=("99", "0", "0")),
                    atom("VAL", **valine, altloc="B", occupancy=0.6),
                ]
            ),
            "insertion code": lambda: self.residues(third=[atom("VAL", 2, insertion="A", xyz=("11.4", "0", "0"))]),
            "missing alpha carbon": lambda: self.residues(third=[atom("VAL", **valine, name="N")]),
            "missing residues": lambda: trace(ONE, missing=[2]),
            "columns 73 to 80": lambda: old(trace(ONE)),
            "hetero residue": lambda: self.residues(third=[atom("MVA", **valine, record="HETATM")]),
            "expression tag": lambda: trace("GSHH" + ONE),
            "fusion": lambda: trace(TWO + ONE),
            "nan": lambda: self.residues(third=[atom("VAL", **valine, xyz=("nan", "0", "0"))]),
            "stars": lambda: self.residues(third=[atom("VAL", **valine, xyz=("********", "0", "0"))]),
            "another protein": lambda: trace(TWO),
            "a quarter": lambda: trace(ONE[:5]),
            "no atoms": lambda: b"HEADER    EMPTY\nEND\n",
            "no bytes": lambda: b"",
            "truncated gzip": lambda: gzip.compress(trace(ONE))[:-9],
            "gzip bomb": lambda: bomb(100),
            "mmcif in a pdb's name": lambda: b"data_x\nloop_\n_atom_site.id\n1\n",
        }  # fmt: skip
        return made[name]()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, ()) for name in ("good", "crlf", "gzip", "several models", "equal chains", "alternate locations")),
        *(
            (name, ())
            for name in ("byte-order mark", "insertion code", "columns 73 to 80", "expression tag", "hetero residue")
        ),
        *((name, (2,)) for name in ("missing alpha carbon", "missing residues")),
        *((name, "E_MISMATCH") for name in ("another protein", "fusion")),
        *((name, "E_CHAINS") for name in ("several chains", "no atoms")),
        *((name, "E_COORD") for name in ("nan", "stars")),
        ("a quarter", "E_MISSING"),
        ("no bytes", "E_EMPTY"),
        ("mmcif in a pdb's name", "E_PARSE"),
        ("truncated gzip", "E_GZIP"),
        ("gzip bomb", "E_BOMB"),
    ],
)
def test_structures(
    name: str, expected: str | tuple[int, ...], tmp_path: Path, out: Path, alpha_trace: Write, pdb: Write, atom: Any
) -> None:
    (tmp_path / "in.fasta").write_bytes(fasta(("a", ONE)) + GOOD)
    folder = tmp_path / "structures"
    folder.mkdir()
    corpus = Structures(alpha_trace, pdb, atom)
    (folder / "a.pdb").write_bytes(corpus.make(name))
    (folder / "good.pdb").write_bytes(alpha_trace(TWO))
    codes = [("a", expected)] if isinstance(expected, str) else []
    case = Case(name, b"", {"a": ONE, "good": TWO}, codes)
    manifest = check(case, out, sequences=tmp_path / "in.fasta", structures=folder)
    assert manifest is not None
    first, second = manifest
    assert second.kind == "seq-str"
    if isinstance(expected, str):
        assert (first.kind, first.unresolved) == ("seq", ())
        return
    assert (first.kind, first.unresolved) == ("seq-str", expected)
    chain = load_chain(manifest, first)
    assert chain.residue.tolist() == [i for i in range(len(ONE)) if i not in expected]
    assert np.abs(np.diff(chain.ca[:, 0]) - 3.8 * np.diff(chain.residue)).max() < 1e-3


def test_selenomethionine_is_methionine(tmp_path: Path, out: Path, pdb: Write, atom: Any) -> None:
    atoms = [atom("MSE", 1, record="HETATM"), atom("LYS", 2), atom("MSE", 3, record="HETATM"), atom("VAL", 4)]
    (tmp_path / "a.pdb").write_bytes(pdb(atoms))
    check(Case("", b"", {"a": "MKMV"}), out, structures=tmp_path / "a.pdb")


def test_a_tag_that_was_left_out_is_counted(tmp_path: Path, out: Path, alpha_trace: Write) -> None:
    (tmp_path / "in.fasta").write_bytes(fasta(("a", ONE)))
    (tmp_path / "a.pdb").write_bytes(alpha_trace("GSHH" + ONE))
    report = build_manifest(sequences=tmp_path / "in.fasta", structures=tmp_path / "a.pdb", out=out)
    assert report.tags == {"proteins": 1, "residues": 4}
    assert any(line.startswith("tags ") for line in report.lines())


def special(kind: str, path: Path) -> Path:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        return Path("/dev/null")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    return path


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "dangling link", "absent"])
@pytest.mark.parametrize("option", ["sequences", "descriptions"])
def test_what_is_no_regular_file_is_refused_at_once(option: str, kind: str, tmp_path: Path, out: Path) -> None:
    path = special(kind, tmp_path / "in.txt")
    with pytest.raises(InputError) as caught:
        build_manifest(out=out, **{option: path})
    assert caught.value.code == "E_INPUT"
    assert str(path) in str(caught.value)


def test_a_pipe_of_the_shell_is_refused_with_what_to_do(out: Path) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(InputError, match=r"a pipe; .* save its content in a regular file"):
            build_manifest(sequences=Path(f"/dev/fd/{reading}"), out=out)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("kind", ["pipe", "dangling link"])
def test_in_a_folder_of_structures_they_are_quarantined(
    kind: str, tmp_path: Path, out: Path, alpha_trace: Write
) -> None:
    folder = tmp_path / "structures"
    folder.mkdir()
    special(kind, folder / "a.pdb")
    (folder / "good.pdb").write_bytes(alpha_trace(TWO))
    check(Case(kind, b"", {"good": TWO}, [("a", "E_INPUT")]), out, structures=folder)


def test_links_to_regular_files_are_followed(tmp_path: Path, out: Path, alpha_trace: Write) -> None:
    (tmp_path / "real").write_bytes(alpha_trace(ONE))
    (tmp_path / "a.pdb").symlink_to("real")
    check(Case("", b"", {"a": ONE}), out, structures=tmp_path / "a.pdb")
