"""Read the same proteins with this project's reader and loader and with others', side by side.

    python benchmarks/store_reads.py [--proteins 256] [--folder DIR]

Writes synthetic features of the paper's widths (random numbers, lengths like those of proteins) as a store, as flat
files, as HDF5 and as MDS shards, then times all readers in turn in every round, so that whatever else the machine does
hits all of them alike; figures are medians over rounds. Prints the bounds that must hold beside what was measured. The
others come with `pip install 'amma[bench]'`; those that are not there are named. (MosaicML streaming wants older
transformers than the encoders: `pip install --no-deps mosaicml-streaming` and what it then misses.) DIR must be on a
disk (not in memory), since cold reads are made by having the kernel drop the files. They are made in a larger store
(`--cold-proteins`), each round with few of its proteins: a memory map reads some megabytes around what is asked for,
and in a small store that would be what is asked for next. Beside them stands what the disk itself gives: the best of
plain `preadv` in 1 to 16 threads.
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
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from store_peers import (
    ARRAYS,
    Buffer,
    Data,
    Proteins,
    Read,
    h5py_reader,
    mds_reader,
    memmap_reader,
    preadv_reader,
    tensorstore_reader,
    zarr_reader,
)

from amma.featurize.store.packed import RowBuffers
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES
from amma.train.data.loader import Loader
from amma.train.data.packing import Packer
from amma.train.run.arithmetic import one_thread

PEERS = {"tensorstore": "tensorstore", "h5py": "h5py", "mosaicml-streaming": "streaming"}
COLD = 64
"""Proteins of a cold round: reading them through a memory map is slow."""
DISK = {f"preadv alone, {threads} threads": threads for threads in (1, 2, 4, 8, 16)}
OWN_COLD = "amma, 4 threads"


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


def cold(data: Data, rounds: int) -> tuple[Speeds, Speeds]:
    """Bytes a second, and bytes that came from the disk for each that was asked for. Each protein once a round."""
    rng = np.random.default_rng(2)
    chosen = [rng.permutation(data.num_proteins)[:COLD].tolist() for _ in range(rounds + 1)]
    batches = [[some[begin : begin + 8] for begin in range(0, COLD, 8)] for some in chosen]
    buffer = Buffer(data, [batch for some in batches for batch in some])
    store = FeatureStore(data.store)
    pack = Packer(dtype=None)

    def through_memmap(number: int) -> None:
        read = memmap_reader(data, buffer)  # mapped anew: what is mapped is not dropped
        for batch in batches[number]:
            read(batch)

    def through_preadv(read: Read) -> Callable[[int], object]:
        return lambda number: read(chosen[number])

    ways: dict[str, Callable[[int], object]] = {
        "memmap, copied": through_memmap,
        OWN_COLD: lambda number: with_threads(store, pack, batches[number], 4),
    }
    for name, threads in DISK.items():
        ways[name] = through_preadv(preadv_reader(data, threads))
    fetched: Speeds = {name: [] for name in ways}

    def measure(name: str, number: int) -> float:
        store.close()
        data.drop_from_memory()
        size, before = data.bytes_of(chosen[number]), from_disk()
        speed = size / seconds_of(lambda: ways[name](number))
        if number:
            fetched[name].append((from_disk() - before) / size)
        return speed

    return in_rounds(rounds, list(ways), measure), fetched


def from_disk() -> int:
    """Bytes that this process had the disk read so far; 0 where the system does not say."""
    counters = Path("/proc/self/io")
    lines = counters.read_text().splitlines() if counters.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), 0)


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
    parser.add_argument("--cold-proteins", type=int, default=1024, help="of the store for cold reads; twice on disk")
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
        # Before files are dropped: what Linux reads ahead when told to lies in small pages afterwards, which takes a
        # reader (not a memory map) up to twice as long to copy as pages that were written or read without it.
        reading = warm(data, store, batches, arguments.rounds)
        gc.collect()  # workers and memory maps
        fetching, fetched = cold(Data(folder / "cold", arguments.cold_proteins, others=False), arguments.rounds)
    finally:
        shutil.rmtree(folder)
    table("Random proteins, in memory already, one thread where none is named", reading)
    table(f"Random proteins of {arguments.cold_proteins}, not in memory", fetching)
    if any(fetched[OWN_COLD]):
        shares = (f"{name} {statistics.median(values):.1f}" for name, values in fetched.items())
        print(f"\nbytes from the disk for each that was asked for: {', '.join(shares)}")
    table("Loaders, useful bytes", loading)
    print("\n| what | at least | measured | holds |\n|---|---|---|---|")
    line("warm, without checksums, against memmap", 0.90, ratio(reading, "amma, no checksums", "memmap, copied"))
    line("with checksums, share of the speed kept", 0.70, ratio(reading, "amma", "amma, no checksums"))
    line("with checksums, against zarr-python", 7, ratio(reading, "amma", "zarr-python"))
    line("… against tensorstore", 2.2, ratio(reading, "amma", "tensorstore"))
    at_once = ratio(reading, "amma, 2 threads", "tensorstore, a batch at once")
    line("… 2 threads, against tensorstore with a batch at once", 2.2, at_once)
    line("… against h5py", 1.5, ratio(reading, "amma", "h5py"))
    line("… against MosaicML streaming", 1.5, ratio(reading, "amma", "MosaicML streaming"))
    line("cold, against cold memmap", 8, ratio(fetching, OWN_COLD, "memmap, copied"))
    best = max(DISK, key=lambda name: statistics.median(fetching[name]))
    line(f"cold, share of what the disk gives ({best})", 0.90, ratio(fetching, OWN_COLD, best))
    line("what the disk gives, against cold memmap", 8, ratio(fetching, best, "memmap, copied"))
    name = "amma loader, 2 threads"
    line("loader, against DataLoader, padded", 12, ratio(loading, name, "DataLoader, 2 workers, padded"))
    line("loader, against DataLoader, packed", 4, ratio(loading, name, "DataLoader, 2 workers, packed"))
    print(f"\n{machine()}\n{versions()}")


if __name__ == "__main__":
    main()
