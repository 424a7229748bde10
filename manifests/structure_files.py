"""Find the structure file of a protein by the file's name."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from amma.manifests.chains import structure_stem
from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError, Rejection

_ALPHAFOLD = re.compile(r"AF-([A-Z0-9]+)-F1-model_v\d+")


class StructureFiles:
    """The PDB and mmCIF files of a folder and its sub-folders, or a single one, by name without suffixes.

    Listed in sorted order, so that nothing depends on how a file system orders its folders. Other files are ignored.
    Of two files with one name the first counts, the other is in `rejections`. Raises `InputError` if there is none.
    """

    def __init__(self, root: Path) -> None:
        self._root = root if root.is_dir() else root.parent
        self._by_stem: dict[str, str] = {}
        self._by_accession: dict[str, str] = {}
        self.rejections: list[Rejection] = []
        for name in _list_names(root):
            stem = structure_stem(Path(name).name)
            if stem is None:
                continue
            if stem in self._by_stem:
                error = RecordError(
                    "E_DUP", f"{self._by_stem[stem]} has the same name and was taken", "Keep one of them."
                )
                self.rejections.append(error.rejection(id=stem, source=str(self._root / name), position=None))
                continue
            self._by_stem[stem] = name
            if (accession := alphafold_accession(stem)) is not None:
                self._by_accession.setdefault(accession, stem)
        if not self._by_stem:
            raise InputError(f"{root}: no structure here (expected .pdb, .ent, .cif or .mmcif files, plain or .gz).")

    def __len__(self) -> int:
        """All structure files, those in `rejections` too."""
        return len(self._by_stem) + len(self.rejections)

    def __iter__(self) -> Iterator[str]:
        """The names without suffixes, sorted by path."""
        return iter(self._by_stem)

    def path(self, stem: str) -> Path:
        """Where the file of that name is."""
        return self._root / self._by_stem[stem]

    def find(self, protein_id: str, accession: str | None) -> str | None:
        """The name of a protein's file, or None.

        A file is a protein's if it is named by its id; if it is the AlphaFold model (`AF-P00720-F1-model_v4`) of its id
        or accession; or if it is named by its id without the chain (`1ABC` for `1ABC-B`), in that order.
        """
        if protein_id in self._by_stem:
            return protein_id
        for candidate in (protein_id, accession):
            if candidate is not None and candidate in self._by_accession:
                return self._by_accession[candidate]
        entries = (protein_id.rpartition(mark)[0] for mark in "-_")
        return next((entry for entry in entries if entry in self._by_stem), None)


def alphafold_accession(stem: str) -> str | None:
    """`P00720` of `AF-P00720-F1-model_v4`; None for other names, and for later fragments of long proteins."""
    match = _ALPHAFOLD.fullmatch(stem)
    return match[1] if match else None


def _list_names(root: Path) -> list[str]:
    """Regular files under `root`, as paths relative to it; a single file is listed by its name."""
    if root.is_file():
        return [root.name]
    if not root.is_dir():
        raise InputError(f"{root}: no such folder or file (expected structures).")
    names: list[str] = []
    for folder, _, files in os.walk(root):
        place = os.path.relpath(folder, root)
        names.extend(os.path.normpath(os.path.join(place, name)) for name in files)  # noqa: PTH118
    return sorted(name for name in names if (root / name).is_file())
