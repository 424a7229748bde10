import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import biotite.structure.io.pdbx as pdbx
import gemmi
import msgpack
import numpy as np
import pytest

from amma.manifests.binarycif import MAX_ROWS
from amma.manifests.chains import read_chains
from amma.manifests.quarantine import RecordError

Write = Callable[..., bytes]


def mmcif_of(structure: gemmi.Structure) -> str:
    structure.setup_entities()
    return structure.make_mmcif_document().as_string()


def packed(mmcif: str) -> bytes:
    """The same file as BinaryCIF, in the encodings that archives use."""
    block = pdbx.CIFFile.read(io.StringIO(mmcif)).block
    categories: dict[str, Any] = {}
    for name, category in block.items():
        columns: dict[str, Any] = {}
        for key, column in category.items():
            data = column.as_array(str)
            for kind in (np.int32, np.float64):
                try:
                    data = column.as_array(kind, masked_value=0)
                    break
                except ValueError:
                    continue
            mask = None if column.mask is None else column.mask.array
            columns[key] = pdbx.BinaryCIFColumn(pdbx.BinaryCIFData(data), mask)
        categories[name] = pdbx.BinaryCIFCategory(columns)
    file = pdbx.compress(pdbx.BinaryCIFFile({"x": pdbx.BinaryCIFBlock(categories)}))
    out = io.BytesIO()
    file.write(out)
    return out.getvalue()


def assert_equal(bcif: bytes, mmcif: str, name: str = "x.bcif") -> None:
    ours, reference = read_chains(bcif, name), read_chains(mmcif.encode(), "x.cif")
    assert [(chain.name, chain.letters) for chain in ours] == [(chain.name, chain.letters) for chain in reference]
    for chain, expected in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(chain.ca, expected.ca)
        np.testing.assert_array_equal(chain.number, expected.number)


def test_every_rule_of_mmcif_holds(pdb: Write, atom: Any) -> None:
    atoms = [
        atom("MET", 1, xyz=("-1.234", "0.001", "99.999")),
        atom("LYS", 2, name="N"),
        atom("VAL", 3, altloc="A", occupancy=0.3, xyz=("7", "0", "0")),
        atom("VAL", 3, altloc="B", occupancy=0.7, xyz=("8", "0", "0")),
        atom("SER", 4, insertion="A"),
        atom("MSE", 5, record="HETATM"),
        atom("GLY", 1, chain="B"),
        atom("ALA", 2, chain="B"),
    ]
    mmcif = mmcif_of(gemmi.read_pdb_string(pdb(atoms)))
    assert_equal(packed(mmcif), mmcif)
    first = read_chains(packed(mmcif), "x.bcif")[0]
    assert first.letters == "MKVSM"
    assert first.ca[2, 0] == 8.0


def test_it_may_be_gzip(alpha_trace: Write) -> None:
    mmcif = mmcif_of(gemmi.read_pdb_string(alpha_trace("MKVLA")))
    assert_equal(gzip.compress(packed(mmcif)), mmcif, "x.bcif.gz")


def test_real_structures_are_the_same_in_both_formats(shared: Path) -> None:
    for path in sorted((shared / "data" / "real" / "structures").glob("1A*.pdb.gz"))[:6]:
        mmcif = mmcif_of(gemmi.read_pdb(str(path)))
        assert_equal(packed(mmcif), mmcif)


def test_coordinates_that_are_no_numbers_are_refused(alpha_trace: Write) -> None:
    mmcif = mmcif_of(gemmi.read_pdb_string(alpha_trace("MKV"))).replace("7.6 ", "nan ", 1)
    with pytest.raises(RecordError) as caught:
        read_chains(packed(mmcif), "x.bcif")
    assert caught.value.code == "E_COORD"


def refused(data: bytes) -> str:
    with pytest.raises(RecordError) as caught:
        read_chains(data, "x.bcif")
    return caught.value.code


@pytest.mark.parametrize("data", [b"data_x\n", b"\x00", b"\x81\xa1", msgpack.packb({"dataBlocks": []}), b"\xc0"])
def test_garbage_is_a_record_error(data: bytes) -> None:
    assert refused(data) == "E_PARSE"


def test_damage_anywhere_is_a_record_error_or_changes_no_rule(alpha_trace: Write) -> None:
    whole = packed(mmcif_of(gemmi.read_pdb_string(alpha_trace("MKVLAGITRE"))))
    rng = np.random.default_rng(0)
    codes = set()
    for _ in range(300):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        if rng.random() < 0.3:
            del data[at:]
        else:
            data[at] = int(rng.integers(256))
        try:
            chains = read_chains(bytes(data), "x.bcif")
        except RecordError as error:
            codes.add(error.code)
        else:
            assert all(len(chain.ca) == len(chain.letters) for chain in chains)
    assert "E_PARSE" in codes
    assert codes <= {"E_PARSE", "E_CHAINS", "E_COORD", "E_EMPTY"}


def test_a_column_that_would_fill_the_memory_is_refused_unread(alpha_trace: Write) -> None:
    content = msgpack.unpackb(packed(mmcif_of(gemmi.read_pdb_string(alpha_trace("MKVLAGITRE" * 30)))))
    changed = 0
    for category in content["dataBlocks"][0]["categories"]:
        for column in category["columns"]:
            for step in column["data"]["encoding"]:
                if category["name"] == "_atom_site" and step["kind"] == "RunLength":
                    step["srcSize"] = MAX_ROWS + 1
                    changed += 1
    assert changed
    assert refused(msgpack.packb(content)) == "E_PARSE"
