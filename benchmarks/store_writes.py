"""Write units of features to disk, once as a store does and once as plain files of the same bytes.

    python benchmarks/store_writes.py FOLDER [--units 6] [--rounds 9]

Units are as large as they come: 16,384 rows of 1280, 3072 and 768 numbers, float16, of 60 proteins. Ours is the whole
of `write_while_filling` and `commit`: aside, fsync, read back and compared, found by zarr, hashed, renamed, checksums
of each protein, channel moments, ledger. Plain is `write` and `fsync` of the same files, nothing else. The two take
turns, each unit in new files; FOLDER should be on the disk that is meant. Prints a Markdown table of medians; the
seconds of a processor tell what is the machine's doing and what the writer's.
"""

import argparse
import os
import platform
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from amma.featurize.store.filling import write_while_filling
from amma.featurize.store.layout import LEDGER_FOLDER, UNITS_FOLDER, Layout
from amma.featurize.store.ledger import commit
from amma.featurize.store.plan import Survey, make_plan
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import StockReader, make_folder
from amma.featurize.store.unit import UnitContents
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 1280, Modality.STR: 3072, Modality.FUNC: 768}
PROTEINS = 60
LEAST = 0.8
"""Of the speed of plain writes."""


def filled_unit(plan_units: int) -> list[UnitContents]:
    """Units whose rows are all in use, with random numbers in them."""
    settings = StoreSettings(threads=1).resolved(None)
    rows = settings.shard_rows // PROTEINS
    lengths = np.full(PROTEINS * plan_units, rows, dtype=np.int32)
    surveyed = Survey(dict.fromkeys(MODALITIES, lengths), "0" * 64)
    plan = make_plan(surveyed, settings, str)
    layout = Layout(
        shard_rows=settings.shard_rows,
        chunk_rows=settings.inner_rows,
        dtype=np.dtype(settings.dtype),
        widths=WIDTHS,
        num_proteins=plan.num_proteins,
        num_units=plan.num_units,
    )
    rng = np.random.default_rng(0)
    units = []
    for unit in range(plan_units):
        contents = UnitContents(plan, layout, unit)
        for path, array in contents.rows.items():
            if "features" in path:
                array[: rows * PROTEINS] = rng.standard_normal((rows * PROTEINS, array.shape[1]), dtype=np.float32)
        for modality in MODALITIES:
            contents.present[modality][:] = True
        units.append(contents)
    return units


def write_ours(folder: Path, units: list[UnitContents]) -> None:
    documents = units[0].layout.zarr_documents(sealed=False)
    stock = StockReader(documents)
    for name in (LEDGER_FOLDER, UNITS_FOLDER):
        make_folder(folder / name)
    for entry in write_while_filling(folder, iter(units), stock):
        commit(folder, entry)


def write_plain(folder: Path, files: list[tuple[str, bytes]]) -> None:
    for name, data in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--units", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    units = filled_unit(arguments.units)
    ours, plain = arguments.folder / "ours", arguments.folder / "plain"
    write_ours(ours, units)
    files = [(str(path.relative_to(ours)), path.read_bytes()) for path in sorted(ours.rglob("*")) if path.is_file()]
    size = sum(len(data) for _, data in files)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    busy: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(arguments.rounds):
        for name, folder in (("plain", plain), ("ours", ours)):
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()
            began, busy_before = time.perf_counter(), time.process_time()
            write_plain(folder, files) if name == "plain" else write_ours(folder, units)
            seconds[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - busy_before)
    for folder in (plain, ours):
        shutil.rmtree(folder)
    print(f"{size / 1e6:.0f} MB in {len(files)} files, {arguments.rounds} rounds; {os.cpu_count()} processors,")
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    print("| writer | MB/s (median) | lowest | highest | processor s/GB |\n|---|---|---|---|---|")
    for name, taken in seconds.items():
        rates = sorted(size / 1e6 / each for each in taken)
        used = statistics.median(busy[name]) / size * 1e9
        print(f"| {name} | {statistics.median(rates):.0f} | {rates[0]:.0f} | {rates[-1]:.0f} | {used:.2f} |")
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True))
    held = "yes" if ratio >= LEAST else "**no**"
    print(f"\nours / plain: {ratio:.2f} (median over rounds); at least {LEAST}: {held}")


if __name__ == "__main__":
    main()
