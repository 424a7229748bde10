"""Find the structure file of a protein by the file's name."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from amma.manifests.archives import SEPARATOR, Member, is_archive, opened_archive
from amma.manifests.archives import SUFFIXES as ARCHIVE_SUFFIXES
from amma.manifests.chains import SUFFIXES as STRUCTURE_SUFFIXES
from amma.manifests.chains import structure_stem
from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.textfile import require_regular

_ALPHAFOLD = re.compile(r"AF-([A-Z0-9]+)-F1-model_v\d+")


class StructureFiles:
    """The structure files of a folder and its sub-folders, of a tar archive, or a single one, by name without suffixes.

    An archive in the folder counts as a folder of its members. Listed in sorted order, so that nothing depends on how a
    file system orders its folders. Other files are ignored. Of two files with one name the first counts; the other is
    in `rejections`, as is what has a structure's name and is no regular file. Raises `InputError` if there is none, or
    if an archive is damaged.
    """

    def __init__(self, root: Path) -> None:
        self._root = root if root.is_dir() else root.parent
        self._by_stem: dict[str, str] = {}
        self._by_accession: dict[str, str] = {}
        self.rejections: list[Rejection] = []
        for name in sorted(self._names(root)):
            stem = structure_stem(Path(name).name.rpartition(SEPARATOR)[2])
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
            first = f" {self.rejections[0].source}: {self.rejections[0].reason}." if self.rejections else ""
            suffixes = f"{', '.join(STRUCTURE_SUFFIXES)}, plain or .gz, or in {', '.join(ARCHIVE_SUFFIXES)}"
            raise InputError(f"{root}: no structure here (expected {suffixes}).{first}")

    def _names(self, root: Path) -> Iterator[str]:
        """Structure files and members under `root`, as paths relative to it; what is no such file is rejected."""
        if not root.is_dir():
            require_regular(root, "a folder or archive of structures, or a structure file")
            yield from self._names_of(root.name)
            return
        for folder, _, names in os.walk(root):
            place = os.path.relpath(folder, root)
            for name in names:
                yield from self._names_of(os.path.normpath(os.path.join(place, name)))  # noqa: PTH118

    def _names_of(self, name: str) -> Iterator[str]:
        stem = structure_stem(Path(name).name)
        if stem is None and not is_archive(name):
            return
        path = self._root / name
        try:
            require_regular(path, "a regular file")
        except InputError as error:
            rejected = RecordError("E_INPUT", str(error), "Give the file itself.")
            self.rejections.append(rejected.rejection(id=stem or name, source=str(path), position=None))
            return
        if stem is not None:
            yield name
            return
        for member in opened_archive(path).members():
            if isinstance(member, Member):
                yield f"{name}{SEPARATOR}{member.name}"
            else:
                self.rejections.append(member)

    def __len__(self) -> int:
        """All structure files, those in `rejections` too."""
        return len(self._by_stem) + len(self.rejections)

    def __iter__(self) -> Iterator[str]:
        """The names without suffixes, sorted by path."""
        return iter(self._by_stem)

    def path(self, stem: str) -> Path:
        """Where the file of that name is, as `read_structure` takes it."""
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
