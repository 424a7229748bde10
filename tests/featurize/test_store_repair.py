"""A damaged store is given back to the byte, or nothing of it is touched and one line says why."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.replay import ReplayOrigin
from amma.featurize.run import featurize
from amma.featurize.store.repair import Repair, repair_store
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.manifests.table import Manifest, Modality

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]


class Damaged:
    """A store with late rejects and cut batches, a copy of it to damage, and another of the same names."""

    def __init__(self, folder: Path, write_proteins: Callable[..., Manifest], fake_encoders: Encoders) -> None:
        self.manifest = write_proteins(folder, 12)
        self.whole, self.path, self.other = (folder / name for name in ("whole.zarr", "s.zarr", "other.zarr"))
        self.encoders = fake_encoders
        ids = [protein.id for protein in self.manifest if protein.kind == "triplet"]
        self.rejected = set(ids[:3])
        first = fake_encoders()
        first[Modality.FUNC].failing = {ids[0]: RuntimeError("once")}
        first[Modality.SEQ].failing = {ids[1]: float("nan")}
        first[Modality.STR].failing = {ids[2]: MemoryError()}
        first[Modality.STR].room = 1
        featurize(self.manifest, self.whole, first, SMALL)
        other = fake_encoders()
        for modality in Modality:
            other[modality]._encode = lambda item, encode=other[modality]._encode: _shifted(encode(item))
        featurize(self.manifest, self.other, other, SMALL)
        self.renew()

    def renew(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.whole, self.path)

    def repair(self, *, dry_run: bool = False, encoders: Any = None) -> Repair:
        origin = ReplayOrigin(self.manifest, self.encoders() if encoders is None else encoders)
        return repair_store(self.path, origin, StoreSettings(), dry_run=dry_run)


def _shifted(encoded: Any) -> Any:
    encoded.features[...] = encoded.features * 0.5
    return encoded


@pytest.fixture
def damaged(memory_folder: Path, write_proteins: Callable[..., Manifest], fake_encoders: Encoders) -> Damaged:
    return Damaged(memory_folder, write_proteins, fake_encoders)


def files_of(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def ways(damaged: Damaged, name: str) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Everything that may happen to one file."""
    path = damaged.path
    yield "deleted", lambda file: file.unlink()
    yield "emptied", lambda file: file.write_bytes(b"")
    yield "cut", lambda file: os.truncate(file, file.stat().st_size // 2)
    yield "longer", lambda file: file.write_bytes(file.read_bytes() + b"\0")
    yield "a bit flipped", lambda file: file.write_bytes(flipped(file.read_bytes()))
    yield "a link", lambda file: (file.rename(path.parent / "elsewhere"), file.symlink_to(path.parent / "elsewhere"))
    yield "a folder", lambda file: (file.unlink(), file.mkdir())
    yield "a pipe", lambda file: (file.unlink(), os.mkfifo(file))
    older = damaged.other / name
    if older.exists() and older.read_bytes() != (damaged.whole / name).read_bytes():
        yield "older", lambda file: file.write_bytes(older.read_bytes())


def flipped(data: bytes) -> bytes:
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_any_file_damaged_in_any_way_is_found_and_given_back_to_the_byte(
    damaged: Damaged, tree: Tree, stride: int
) -> None:
    whole = tree(damaged.whole)
    cases = [
        (name, what, damage)
        for name in files_of(damaged.whole)
        for what, damage in ways(damaged, name)
        if (damaged.whole / name).stat().st_size
    ]
    assert len(cases) > 500
    for name, what, damage in cases[::stride]:
        damage(damaged.path / name)
        assert name in [finding.file for finding in verify_store(damaged.path).findings], (name, what)
        done = damaged.repair()
        assert done.is_whole, (name, what, done.lines())
        assert tree(damaged.path) == whole, (name, what)
        assert not any(path.is_symlink() for path in damaged.path.rglob("*"))
        assert done.files == [name], (name, what)
