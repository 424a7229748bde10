"""Read BinaryCIF, the packed form of mmCIF that the PDB and the AlphaFold Database serve."""

from typing import Any

import gemmi
import numpy as np

COLUMNS = {
    "entity": ("id", "type"),
    "entity_poly": ("entity_id", "type"),
    "struct_asym": ("id", "entity_id"),
    "atom_site": (
        *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id"),
        *("label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy"),
        *("auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id", "pdbx_PDB_model_num"),
    ),
}
"""What is read of each category."""
MAX_ROWS = 20_000_000
"""Atoms of an entry; the largest have a quarter of this."""
MAX_STRING_BYTES = 1 << 20
"""Text of one column, each different value once."""


def read_binarycif(data: bytes) -> gemmi.Structure:
    """The structure in a `.bcif` file, as gemmi gives it for the same entry as mmCIF.

    The columns that decide it are decoded by biotite and handed to gemmi's own reader, so that both formats obey one
    set of rules. Raises `ValueError` for whatever is no such file.
    """
    import msgpack
    from biotite.structure.io.pdbx import BinaryCIFFile

    try:
        content = msgpack.unpackb(data)
        block = BinaryCIFFile.deserialize(_trimmed(content)).block
        document = gemmi.cif.Document()
        target = document.add_new_block("structure")
        for name, wanted in COLUMNS.items():
            if name not in block:
                continue
            category = block[name]
            names = [column for column in wanted if column in category]
            values = [_values(category[column].as_array(str)) for column in names]
            if names and all(len(column) == len(values[0]) for column in values):
                target.init_loop(f"_{name}.", names).set_all_values(values)
        return gemmi.make_structure_from_block(target)
    except Exception as error:  # biotite and msgpack raise whatever their inner steps do: a dozen classes
        raise ValueError(f"no BinaryCIF ({type(error).__name__}: {error})") from error


def _trimmed(content: Any) -> Any:
    """The file with only the first block's wanted columns; refuses sizes that would fill the memory."""
    block = content["dataBlocks"][0]
    categories = []
    for category in block["categories"]:
        name = category["name"].removeprefix("_")
        if name in COLUMNS:
            columns = [column for column in category["columns"] if column["name"] in COLUMNS[name]]
            _check_sizes(columns)
            categories.append({**category, "columns": columns})
    return {**content, "dataBlocks": [{**block, "categories": categories}]}


def _check_sizes(part: Any) -> None:
    if isinstance(part, list):
        for item in part:
            _check_sizes(item)
    elif isinstance(part, dict):
        if part.get("srcSize", 0) > MAX_ROWS or len(part.get("stringData", "")) > MAX_STRING_BYTES:
            raise ValueError("a column longer than that of any structure")
        _check_sizes(list(part.values()))


def _values(column: np.ndarray[Any, Any]) -> list[str]:
    """The cells as mmCIF writes them: quoted where they must be, `.` and `?` where there is none."""
    written: dict[str, str] = {}
    for value in np.unique(column).tolist():
        written[value] = value if value in (".", "?") else gemmi.cif.quote(value)
    return [written[value] for value in column.tolist()]
