"""The same synthetic proteins in every layout that `store_reads.py` compares, and what others read them with."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 1280, Modality.STR: 3072, Modality.FUNC: 768}
ARRAYS = ("seq/features", "str/features", "str/residue", "func/features", "func/field")
Read = Callable[[Sequence[int]], object]
"""Reads a batch of proteins, all arrays of each."""


def synthetic(count: int, seed: int) -> Iterator[ProteinArrays]:
    """Lengths: median 250, mean 298, at most 1022 residues; 141 tokens of text on average. Random fp16 numbers."""
    rng = np.random.default_rng(seed)
    noise = np.tile(rng.standard_normal(1 << 22, dtype=np.float32).astype(np.float16), 2)

    def rows(length: int, width: int) -> np.ndarray:
        begin = int(rng.integers(0, len(noise) // 2))
        return noise[begin : begin + length * width].reshape(length, width)

    for number in range(count):
        length = int(np.clip(rng.lognormal(np.log(250), 0.6), 30, 1022))
        tokens = int(np.clip(rng.lognormal(np.log(120), 0.55), 10, 512))
        features = {
            Modality.SEQ: Encoded(rows(length, 1280), None, np.ones(1280, np.float32)),
            Modality.STR: Encoded(rows(length, 3072), np.arange(length, dtype=np.int32), None),
            Modality.FUNC: Encoded(rows(tokens, 768), np.zeros(tokens, np.int32), np.ones(768, np.float32)),
        }
        yield ProteinArrays(f"P{number}", "A" * length, features)


class Data:
    """The same rows in every layout, proteins in the store's order; without `others` as a store and flat files only."""

    def __init__(self, folder: Path, proteins: int, *, others: bool = True) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.store = folder / "store.zarr"
        write_store(self.store, synthetic(proteins, 0), widths=WIDTHS, fingerprint={}, random_weights=True)
        with FeatureStore(self.store) as store:
            self.num_proteins = store.num_proteins
            self.lengths = {m: store.length(m).astype(np.int64) for m in MODALITIES}
            self.start = {m: store.start(m) for m in MODALITIES}
            self.begin = {m: np.concatenate([[0], np.cumsum(self.lengths[m])]) for m in MODALITIES}
            self.row_shape = {"seq/features": (1280,), "str/features": (3072,), "func/features": (768,)}
            self.dtype = {"str/residue": np.dtype("<i4"), "func/field": np.dtype("u1")}
            self.mds = folder / "mds" if others and find_spec("streaming") else None
            with ExitStack() as stack:
                files = {name: stack.enter_context(self.flat(name).open("wb")) for name in ARRAYS}
                h5 = self._h5(stack) if others else None
                mds = self._mds(stack)
                for protein in range(self.num_proteins):
                    found = store.read_many([protein], MODALITIES).rows
                    sample = {}
                    for name in ARRAYS:
                        packed = found[self.modality(name)]
                        rows = packed.features if name.endswith("features") else packed.index
                        files[name].write(rows.tobytes())
                        sample[name.replace("/", "_")] = rows
                        if h5 is not None:
                            h5.create_dataset(f"{protein}/{name}", data=rows)
                    if mds is not None:
                        mds.write(sample)
        for path in self.files():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())

    def _h5(self, stack: ExitStack) -> Any:
        if not find_spec("h5py"):
            return None
        import h5py

        return stack.enter_context(h5py.File(self.folder / "rows.h5", "w"))

    def _mds(self, stack: ExitStack) -> Any:
        if self.mds is None:
            return None
        from streaming import MDSWriter

        columns = {name.replace("/", "_"): f"ndarray:{self.type_of(name).name}" for name in ARRAYS}
        return stack.enter_context(MDSWriter(out=str(self.mds), columns=columns))

    def modality(self, name: str) -> Modality:
        return Modality(name.split("/")[0])

    def type_of(self, name: str) -> np.dtype:
        return self.dtype.get(name, np.dtype("<f2"))

    def flat(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '.')}.bin"

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def bytes_of(self, proteins: Sequence[int]) -> int:
        return sum(
            int(self.lengths[self.modality(name)][list(proteins)].sum())
            * self.type_of(name).itemsize
            * int(np.prod(self.row_shape.get(name, ())))
            for name in ARRAYS
        )

    def memmaps(self) -> dict[str, np.ndarray]:
        total = {m: int(self.begin[m][-1]) for m in MODALITIES}
        shapes = {name: (total[self.modality(name)], *self.row_shape.get(name, ())) for name in ARRAYS}
        return {name: np.memmap(self.flat(name), self.type_of(name), "r", shape=shapes[name]) for name in ARRAYS}

    def drop_from_memory(self) -> None:
        """Have the kernel forget every file; nothing of them may be mapped."""
        for path in self.files():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


class Buffer:
    """Room for a batch in every array, used again: what the flat readers copy to."""

    def __init__(self, data: Data, batches: Sequence[Sequence[int]]) -> None:
        self.data = data
        most = {m: max(int(data.lengths[m][list(batch)].sum()) for batch in batches) for m in MODALITIES}
        self.room = {
            name: np.zeros((most[data.modality(name)], *data.row_shape.get(name, ())), data.type_of(name))
            for name in ARRAYS
        }

    def places(self, proteins: Sequence[int]) -> Iterator[tuple[str, int, np.ndarray]]:
        for name in ARRAYS:
            at = 0
            for protein in proteins:
                rows = int(self.data.lengths[self.data.modality(name)][protein])
                yield name, protein, self.room[name][at : at + rows]
                at += rows


def memmap_reader(data: Data, buffer: Buffer) -> Read:
    maps = data.memmaps()

    def read(proteins: Sequence[int]) -> None:
        for name, protein, target in buffer.places(proteins):
            begin = data.begin[data.modality(name)][protein]
            np.copyto(target, maps[name][begin : begin + len(target)])

    return read


def preadv_reader(data: Data, threads: int) -> Read:
    """What the disk gives: threads that only read, each into its own buffer, the next piece as the one before is there.

    From the flat files, protein by protein.
    """
    largest = max(int(lengths.max()) for lengths in data.lengths.values()) * 3072 * 2
    local = threading.local()
    row_bytes = {
        name: data.type_of(name).itemsize * int(np.prod(data.row_shape.get(name, (1,)), dtype=int)) for name in ARRAYS
    }

    def read_piece(descriptor: int, offset: int, size: int) -> None:
        if not hasattr(local, "room"):
            local.room = memoryview(bytearray(largest))
        if os.preadv(descriptor, [local.room[:size]], offset) != size:
            raise OSError("a file is shorter than it was")

    def read(proteins: Sequence[int]) -> None:
        with ExitStack() as stack:
            files = {name: stack.enter_context(data.flat(name).open("rb", buffering=0)).fileno() for name in ARRAYS}
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            pieces = []
            for protein in proteins:
                for name in ARRAYS:
                    begin, end = data.begin[data.modality(name)][protein : protein + 2] * row_bytes[name]
                    pieces.append(pool.submit(read_piece, files[name], int(begin), int(end - begin)))
            for piece in pieces:
                piece.result()

    return read


def zarr_reader(data: Data, buffer: Buffer) -> Read:
    import zarr

    group = zarr.open_group(data.store, mode="r")
    arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}

    def read(proteins: Sequence[int]) -> None:
        for name, protein, target in buffer.places(proteins):
            begin = int(data.start[data.modality(name)][protein])
            arrays[name][begin : begin + len(target)]

    return read


def tensorstore_reader(data: Data, buffer: Buffer, *, whole_batch: bool) -> Read:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file"}}
    arrays = {}
    for name in ARRAYS:
        spec["kvstore"] = {"driver": "file", "path": f"{data.store / name}/"}
        arrays[name] = tensorstore.open(spec, open=True, read=True).result()

    def read(proteins: Sequence[int]) -> None:
        pending: list[Any] = []
        for name, protein, target in buffer.places(proteins):
            begin = int(data.start[data.modality(name)][protein])
            pending.append(arrays[name][begin : begin + len(target)].read())
            if not whole_batch:
                pending.pop().result()
        for future in pending:
            future.result()

    return read


def h5py_reader(data: Data, buffer: Buffer) -> Read:
    import h5py

    file = h5py.File(data.folder / "rows.h5", "r")

    def read(proteins: Sequence[int]) -> None:
        for name, protein, target in buffer.places(proteins):
            file[f"{protein}/{name}"].read_direct(target)

    return read


def mds_reader(data: Data, buffer: Buffer) -> Read:
    from streaming import LocalDataset

    samples: Any = LocalDataset(local=str(data.mds))

    def read(proteins: Sequence[int]) -> None:
        for protein in proteins:
            samples[protein]

    return read


class Proteins(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """What the usual recipe reads: one protein an item, from flat files."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.maps: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.data.num_proteins

    def __getitem__(self, protein: int) -> dict[str, torch.Tensor]:
        if self.maps is None:  # in the worker
            self.maps = self.data.memmaps()
        item = {}
        for name in ARRAYS:
            begin, end = self.data.begin[self.data.modality(name)][protein : protein + 2]
            item[name] = torch.from_numpy(np.array(self.maps[name][begin:end]))
        return item
