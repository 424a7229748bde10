"""Read the same proteins with this project's reader and loader and with others', side by side.

    python benchmarks/store_reads.py [--proteins 256] [--folder DIR]

Writes synthetic features of the paper's widths (random numbers, lengths like those of proteins) as a store, as flat
files, as HDF5 and as MDS shards, then times all readers in turn in every round, so that whatever else the machine does
hits all of them alike; figures are medians over rounds. Prints the bounds that must hold beside what was measured. The
others come with `pip install 'amma[bench]'`; those that are not there are named. (MosaicML streaming wants older
transformers than the encoders: `pip install --no-deps mosaicml-streaming` and what it then misses.) DIR must be on a
disk (not in memory), since cold reads are made by having the kernel drop the files.
"""

import argparse
import gc
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.packed import RowBuffers
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.loader import Loader
from amma.train.data.packing import Packer
from amma.train.run.arithmetic import one_thread

WIDTHS = {Modality.SEQ: 1280, Modality.STR: 3072, Modality.FUNC: 768}
ARRAYS = ("seq/features", "str/features", "str/residue", "func/features", "func/field")
PEERS = {"tensorstore": "tensorstore", "h5py": "h5py", "mosaicml-streaming": "streaming"}
COLD = 64
"""Proteins of a cold round: reading them through a memory map is slow."""
Read = Callable[[Sequence[int]], object]
"""Reads a batch of proteins, all arrays of each."""


def synthetic(count: int, seed: int) -> Iterator[ProteinArrays]:
    """Lengths: median 250, mean 298, at most 1022 residues; 141 tokens of text on average. Random fp16 numbers."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(1 << 22, dtype=np.float32).astype(np.float16)

    def rows(length: int, width: int) -> np.ndarray:
        begin = int(rng.integers(0, len(noise) - width))
        return np.resize(np.roll(noise, -begin)[: length * width], (length, width))

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
    """The same rows in every layout, proteins in the store's order."""

    def __init__(self, folder: Path, proteins: int) -> None:
        self.folder = folder
        self.store = folder / "store.zarr"
        write_store(self.store, synthetic(proteins, 0), widths=WIDTHS, fingerprint={}, random_weights=True)
        with FeatureStore(self.store) as store:
            self.num_proteins = store.num_proteins
            self.lengths = {m: store.length(m).astype(np.int64) for m in MODALITIES}
            self.start = {m: store.start(m) for m in MODALITIES}
            self.begin = {m: np.concatenate([[0], np.cumsum(self.lengths[m])]) for m in MODALITIES}
            self.row_shape = {"seq/features": (1280,), "str/features": (3072,), "func/features": (768,)}
            self.dtype = {"str/residue": np.dtype("<i4"), "func/field": np.dtype("u1")}
            self.mds = folder / "mds" if find_spec("streaming") else None
            with ExitStack() as stack:
                files = {name: stack.enter_context(self.flat(name).open("wb")) for name in ARRAYS}
                h5 = self._h5(stack)
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


def own_reader(store: FeatureStore, *, checked: bool) -> Read:
    buffers = RowBuffers()

    def read(proteins: Sequence[int]) -> None:
        sum_before = store._sum
        store._sum = sum_before if checked else None  # no option of the reader: numbers are always checked
        try:
            store.read_many(proteins, MODALITIES, buffers)
        finally:
            store._sum = sum_before

    return read


def with_threads(store: FeatureStore, pack: Packer, batches: Sequence[Sequence[int]], threads: int) -> None:
    """As training reads: threads, each announcing what comes after its batch; nothing is converted."""
    with Loader(
        lambda n: pack(store, batches[n], MODALITIES),
        0,
        len(batches),
        threads=threads,
        ahead=2 * threads,
        begin=one_thread,
        announce=lambda n: store.will_need(batches[n], MODALITIES),
    ) as loaded:
        for batch in loaded:
            del batch


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


def padded(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.nn.utils.rnn.pad_sequence([item[name] for item in items], batch_first=True) for name in ARRAYS}


def packed(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([item[name] for item in items]) for name in ARRAYS}


class Order(torch.utils.data.Sampler[list[int]]):
    """The batches of the round that is on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


Speeds = dict[str, list[float]]
"""Bytes a second of each reader, a figure a round."""


def in_rounds(rounds: int, names: Sequence[str], measure: Callable[[str, int], float]) -> Speeds:
    """Every reader once a round, each round beginning with another one; a first round only warms up."""
    speeds: Speeds = {name: [] for name in names}
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            speed = measure(name, number)
            if number:
                speeds[name].append(speed)
    return speeds


def ratio(speeds: Speeds, name: str, other: str) -> float | None:
    """The median over rounds of how many times as fast `name` was."""
    if other not in speeds or name not in speeds:
        return None
    return statistics.median(a / b for a, b in zip(speeds[name], speeds[other], strict=True))


def loaders(data: Data, store: FeatureStore, batches: list[list[list[int]]], rounds: int) -> Speeds:
    order = Order()
    pack = Packer(dtype=None)
    options: dict[str, Any] = {"batch_sampler": order, "num_workers": 2, "persistent_workers": True}
    others = {
        "DataLoader, 2 workers, padded": torch.utils.data.DataLoader(Proteins(data), collate_fn=padded, **options),
        "DataLoader, 2 workers, packed": torch.utils.data.DataLoader(Proteins(data), collate_fn=packed, **options),
    }

    def through(name: str) -> None:
        for _ in others[name]:
            pass

    def measure(name: str, number: int) -> float:
        order.batches = batches[number]
        useful = sum(map(data.bytes_of, order.batches))
        if name in others:
            return useful / seconds_of(lambda: through(name))
        return useful / seconds_of(lambda: with_threads(store, pack, order.batches, 2))

    return in_rounds(rounds, ["amma loader, 2 threads", *others], measure)


def warm(data: Data, store: FeatureStore, batches: list[list[list[int]]], rounds: int) -> Speeds:
    buffer = Buffer(data, [batch for some in batches for batch in some])
    threaded = FeatureStore(data.store, threads=2)

    def grown(read: Read) -> Read:
        """With buffers as large as the others' are from the beginning."""
        for batch in (batch for some in batches for batch in some):
            read(batch)
        return read

    def one_by_one(read: Read) -> Callable[[list[list[int]]], None]:
        def read_all(chosen: list[list[int]]) -> None:
            for batch in chosen:
                read(batch)

        return read_all

    readers = {
        "memmap, copied": one_by_one(memmap_reader(data, buffer)),
        "amma, no checksums": one_by_one(grown(own_reader(store, checked=False))),
        "amma": one_by_one(grown(own_reader(store, checked=True))),
        "amma, 2 threads": one_by_one(grown(own_reader(threaded, checked=True))),
        "zarr-python": one_by_one(zarr_reader(data, buffer)),
    }
    if find_spec("tensorstore"):
        readers["tensorstore"] = one_by_one(tensorstore_reader(data, buffer, whole_batch=False))
        readers["tensorstore, a batch at once"] = one_by_one(tensorstore_reader(data, buffer, whole_batch=True))
    if find_spec("h5py"):
        readers["h5py"] = one_by_one(h5py_reader(data, buffer))
    if find_spec("streaming"):
        readers["MosaicML streaming"] = one_by_one(mds_reader(data, buffer))

    def measure(name: str, number: int) -> float:
        took = seconds_of(lambda: readers[name](batches[number]))
        return sum(map(data.bytes_of, batches[number])) / took

    return in_rounds(rounds, list(readers), measure)


def cold(data: Data, store: FeatureStore, batches: list[list[list[int]]], rounds: int) -> Speeds:
    """Each protein once: what was read a moment ago is not cold."""
    buffer = Buffer(data, [batch for some in batches for batch in some])
    pack = Packer(dtype=None)

    def through_memmap(chosen: list[list[int]]) -> None:
        read = memmap_reader(data, buffer)  # mapped anew: what is mapped is not dropped
        for batch in chosen:
            read(batch)

    def measure(name: str, number: int) -> float:
        distinct = list(dict.fromkeys(protein for batch in batches[number] for protein in batch))[:COLD]
        chosen = [distinct[begin : begin + 8] for begin in range(0, len(distinct), 8)]
        store.close()
        data.drop_from_memory()
        work = {
            "memmap, copied": lambda: through_memmap(chosen),
            "amma, 4 threads": lambda: with_threads(store, pack, chosen, 4),
        }
        return data.bytes_of(distinct) / seconds_of(work[name])

    return in_rounds(rounds, ["memmap, copied", "amma, 4 threads"], measure)


def table(title: str, speeds: Speeds) -> None:
    rounds = len(next(iter(speeds.values())))
    print(f"\n{title}: median (lowest to highest of {rounds} rounds)\n\n| | MB/s |\n|---|---|")
    for name, values in speeds.items():
        print(
            f"| {name} | {statistics.median(values) / 1e6:.0f} ({min(values) / 1e6:.0f} to {max(values) / 1e6:.0f}) |"
        )


def line(what: str, least: float, found: float | None, form: str = "{:.2f}×") -> None:
    if found is None:
        print(f"| {what} | {form.format(least)} | not installed | |")
    else:
        print(f"| {what} | {form.format(least)} | {form.format(found)} | {'yes' if found >= least else '**no**'} |")


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    models = (
        [row.split(":")[1].strip() for row in cpu.read_text().splitlines() if row.startswith("model name")]
        if (cpu.exists())
        else []
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{models[0] if models else platform.machine()}, {len(os.sched_getaffinity(0))} processors, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}; load {os.getloadavg()[0]:.1f} when it ended"
    )


def versions() -> str:
    named = [f"Python {platform.python_version()}"]
    for name in ("amma", "numpy", "zarr", "torch", *PEERS):
        try:
            named.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            named.append(f"{name} not installed")
    return ", ".join(named)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=256, help="about 2.8 MB each, four times on disk")
    parser.add_argument("--batch", type=int, default=32, help="proteins in a batch")
    parser.add_argument("--batches", type=int, default=8, help="batches a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        took = time.perf_counter()
        data = Data(folder, arguments.proteins)
        size = sum(path.stat().st_size for path in data.files())
        print(f"{arguments.proteins} proteins, {size / 1e9:.2f} GB in all layouts, {time.perf_counter() - took:.0f} s")
        batches = [
            [rng.integers(0, data.num_proteins, arguments.batch).tolist() for _ in range(arguments.batches)]
            for _ in range(arguments.rounds + 1)
        ]
        store = FeatureStore(data.store)
        # Before any library whose threads do not survive the fork of DataLoader's workers.
        loading = loaders(data, store, batches, arguments.rounds)
        # Before the files are dropped: what Linux reads ahead when told to lies in small pages afterwards, which takes
        # a reader (not a memory map) up to twice as long to copy as pages that were written or read without it.
        reading = warm(data, store, batches, arguments.rounds)
        gc.collect()  # workers and memory maps: what is mapped is not dropped
        fetching = cold(data, store, batches, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    table("Random proteins, in memory already, one thread where none is named", reading)
    table("Random proteins, not in memory", fetching)
    table("Loaders, useful bytes", loading)
    print("\n| what | at least | measured | holds |\n|---|---|---|---|")
    line("warm, without checksums, against memmap", 0.90, ratio(reading, "amma, no checksums", "memmap, copied"))
    line("… with checksums, 2 threads", 0.90, ratio(reading, "amma, 2 threads", "memmap, copied"))
    line("with checksums, share of the speed kept", 0.70, ratio(reading, "amma", "amma, no checksums"))
    line("with checksums, against zarr-python", 7, ratio(reading, "amma", "zarr-python"))
    line("… against tensorstore", 2.2, ratio(reading, "amma", "tensorstore"))
    at_once = ratio(reading, "amma, 2 threads", "tensorstore, a batch at once")
    line("… 2 threads, against tensorstore with a batch at once", 2.2, at_once)
    line("… against h5py", 1.5, ratio(reading, "amma", "h5py"))
    line("… against MosaicML streaming", 1.5, ratio(reading, "amma", "MosaicML streaming"))
    line("cold, against cold memmap", 8, ratio(fetching, "amma, 4 threads", "memmap, copied"))
    name = "amma loader, 2 threads"
    line("loader, against DataLoader, padded", 12, ratio(loading, name, "DataLoader, 2 workers, padded"))
    line("loader, against DataLoader, packed", 4, ratio(loading, name, "DataLoader, 2 workers, packed"))
    print(f"\n{machine()}\n{versions()}")


if __name__ == "__main__":
    main()
