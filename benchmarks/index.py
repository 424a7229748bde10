"""What ten million proteins cost before any feature is read: to open, to draw from, to hold in memory.

    python benchmarks/index.py [--proteins 10000000] [--folder DIR]

Writes the index of a store with that many proteins (and one of 1,000) into a temporary folder, without features, and
prints the seconds it takes to open, what drawing a batch costs beside the small store, and the resident memory a
protein of planning a store and of preparing a training run, each measured in a process of its own. About 2 GB on disk
and a few minutes for ten million.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from amma.featurize.store.header import Header
from amma.featurize.store.ids import write_ids
from amma.featurize.store.index import IndexWriter
from amma.featurize.store.layout import INDEX_FILE, LEDGER_GROUP, PLAN_FILE, array_group
from amma.featurize.store.plan import Plan, Survey, make_plan, survey
from amma.featurize.store.seal import ColumnWriter, write_seal
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import FileRecord
from amma.manifests.files import write_json_atomically
from amma.manifests.table import MODALITIES, Modality, Protein

WIDTHS = {Modality.SEQ: 1280, Modality.STR: 3072, Modality.FUNC: 768}
SMALL = 1000
MEDIUM = 200_000
"""Memory is counted from here on: below, what is read at a time grows with the store."""
AT_ONCE = 1 << 16
NOT_WRITTEN = FileRecord(0, "0" * 64)
"""Stands for the files that opening and drawing never touch: ledger entries and special-token rows."""


def synthetic_index(store: Path, proteins: int) -> None:
    """All that a sealed store of so many proteins has beside features, special-token rows and ledger."""
    rng = np.random.default_rng(0)
    lengths = {
        Modality.SEQ: np.clip(rng.lognormal(np.log(250), 0.6, proteins), 30, 1022).astype(np.int32),
        Modality.FUNC: np.clip(rng.lognormal(np.log(120), 0.55, proteins), 10, 512).astype(np.int32),
    }
    lengths[Modality.STR] = lengths[Modality.SEQ] * (rng.random(proteins) < 0.9)
    lengths[Modality.FUNC] *= rng.random(proteins) < 0.9
    settings = StoreSettings(chunk_rows=256, threads=1)
    plan = make_plan(Survey(lengths, "0" * 64), settings, str)
    header = Header(
        settings=settings,
        widths=WIDTHS,
        fingerprint={},
        random_weights=True,
        content_sha256=plan.content_sha256,
        plan_sha256=plan.sha256,
        num_proteins=plan.num_proteins,
        num_units=plan.num_units,
        rows={modality: plan.total_rows(modality) for modality in MODALITIES},
        kinds={},
    )
    store.mkdir()
    write_json_atomically(store / PLAN_FILE, header.as_json())
    write_ids(store / "ids.parquet", plan, _identities)
    write_seal(store, header, _write_entries(store, header, plan), (), store)


def _identities(rows: np.ndarray) -> tuple[list[str], list[str]]:
    """Ids as UniProt's are long; sequences of forty residues, some of them the same."""
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    draws = np.random.default_rng(int(rows[0])).integers(0, 20, (len(rows), 40))
    return [f"A0A{row:08d}" for row in rows.tolist()], [bytes(line).decode() for line in letters[draws]]


def _write_entries(store: Path, header: Header, plan: Plan) -> dict[str, list[FileRecord]]:
    layout = header.layout
    unit = np.repeat(np.arange(plan.num_units), np.diff(plan.first))
    index = IndexWriter(store, plan.num_proteins, plan.sha256)
    writers = {
        spec.path: ColumnWriter(store, layout, spec)
        for modality in MODALITIES
        for spec in layout.protein_arrays(modality)
        if spec.width is None
    }
    rng = np.random.default_rng(1)
    for begin in range(0, plan.num_proteins, AT_ONCE):
        span = slice(begin, begin + AT_ONCE)
        length = np.stack([plan.length[modality][span] for modality in MODALITIES], axis=1).astype(np.int64)
        offset = np.stack([plan.offset[modality][span] for modality in MODALITIES], axis=1)
        start = offset + unit[span, None] * header.settings.shard_rows
        crc32c = rng.integers(0, 1 << 32, length.shape, dtype=np.uint32)
        index.append(_identities(plan.order[span])[0], start, length, crc32c)
        for place, modality in enumerate(MODALITIES):
            columns = {"start": start, "length": length, "crc32c": crc32c, "present": length > 0}
            for name, values in columns.items():
                writers[f"{modality}/{name}"].append(values[:, place])
    index.close()
    tables = {LEDGER_GROUP: [NOT_WRITTEN] * plan.num_units}
    for modality in MODALITIES:
        for spec in layout.protein_arrays(modality):
            written = spec.path in writers
            files = layout.protein_files(spec)
            tables[array_group(spec)] = writers[spec.path].close() if written else [NOT_WRITTEN] * len(files)
    return tables


def resident() -> int:
    """Bytes that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_opening(store: Path) -> dict[str, Any]:
    """Seconds to open, the median of five in one process after a first; and of the very first."""
    from amma.featurize.store.reader import FeatureStore

    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        FeatureStore(store)
        seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "median": statistics.median(seconds[1:])}


def measure_training(store: Path) -> dict[str, Any]:
    """Bytes in memory before and after a training set was prepared, and at most in between."""
    from amma.train.data.training_set import prepare_training_set
    from amma.train.run.recipe import resolve

    before = resident()
    config = resolve({"preset": "tiny", "validation_fraction": 0}, stores=[str(store)])
    began = time.perf_counter()
    training_set = prepare_training_set(config)
    seconds = time.perf_counter() - began
    training_set.mix.plan(0)
    lengths = [training_set.corpus.length(modality) for modality in MODALITIES]  # as the run will ask, and keep
    after, most = resident(), most_resident()
    return {"before": before, "after": after, "most": most, "seconds": seconds, "proteins": len(lengths[0])}


def measure_planning(store: Path, proteins: int) -> dict[str, Any]:
    """Bytes in memory before and after a store was planned, and at most in between."""
    before = resident()

    def stream() -> Iterator[Protein]:
        for row in range(proteins):
            yield Protein(f"A0A{row:08d}", "ACDEFGHIKL")

    def lengths(batch: Any) -> dict[Modality, list[int]]:
        return {modality: [len(protein.sequence) for protein in batch] for modality in MODALITIES}

    plan = make_plan(survey(stream(), lengths, source="synthetic"), StoreSettings(), str)
    after, most = resident(), most_resident()
    return {"before": before, "after": after, "most": most, "proteins": plan.num_proteins}


def measure_draws(small: Path, large: Path) -> dict[str, Any]:
    """Seconds to draw a batch of 32 (plan it, look its proteins up), from both stores in turn."""
    from amma.train.data.corpus import Corpus
    from amma.train.data.streams import Mix, Stream
    from amma.train.run.config import MixConfig

    def drawer(path: Path) -> Callable[[int], float]:
        corpus = Corpus.open([path])
        whole = np.flatnonzero(corpus.kind_codes() == 7)
        mix = Mix([Stream("triplet", whole, seed=0)], MixConfig(batch_size=32))

        def draw(step: int) -> float:
            began = time.perf_counter()
            (portion,) = mix.plan(step)
            corpus.stores[0].entries([draw.protein for draw in portion.draws])
            return time.perf_counter() - began

        return draw

    draws = {"small": drawer(small), "large": drawer(large)}
    times: dict[str, list[float]] = {name: [] for name in draws}
    for step in range(4000):
        for name in draws if step % 2 else reversed(draws):
            took = draws[name](step)
            if step >= 1000:  # before, the kernel reads what was never read
                times[name].append(took)
    found = {name: statistics.median(values) for name, values in times.items()}
    return {**found, "first of large": draws["large"](10**6)}


def most_resident() -> int:
    """The most bytes that this process ever had in memory (`ru_maxrss` would count its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


TASKS = {"opening": measure_opening, "training": measure_training}


def in_own_process(task: str, *arguments: str | Path | int) -> dict[str, Any]:
    """What a task gives in a process that has done nothing else."""
    command = [sys.executable, __file__, "--task", task, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def a_protein(medium: dict[str, Any], large: dict[str, Any], key: str, proteins: int) -> float:
    """Bytes a protein beyond a constant."""
    return float((large[key] - large["before"] - medium[key] + medium["before"]) / (proteins - MEDIUM))


def run_task(task: str, rest: list[str]) -> None:
    if task == "planning":
        print(json.dumps(measure_planning(Path(), int(rest[0]))))
    elif task == "draws":
        print(json.dumps(measure_draws(Path(rest[0]), Path(rest[1]))))
    else:
        print(json.dumps(TASKS[task](Path(rest[0]))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_task(arguments.task, arguments.rest)
        return
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        small, medium, large = (folder / f"{name}.zarr" for name in ("small", "medium", "large"))
        synthetic_index(small, SMALL)
        synthetic_index(medium, MEDIUM)
        began = time.perf_counter()
        synthetic_index(large, arguments.proteins)
        size = (large / INDEX_FILE).stat().st_size
        made = time.perf_counter() - began
        opening = in_own_process("opening", large)
        draws = in_own_process("draws", small, large)
        training = [in_own_process("training", path) for path in (medium, large)]
        planning = [in_own_process("planning", proteins) for proteins in (MEDIUM, arguments.proteins)]
    finally:
        shutil.rmtree(folder)
    found: dict[str, Any] = {
        "proteins": arguments.proteins,
        "open": opening,
        "draw": {**draws, "share": draws["large"] / draws["small"] - 1},
    }
    for name, (less, more) in (("train", training), ("featurize", planning)):
        keys = {"bytes": "after", "most": "most"}
        found[name] = {key: a_protein(less, more, of, arguments.proteins) for key, of in keys.items()}
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{arguments.proteins:,} proteins, index of {size / 1e9:.2f} GB made in {made:.0f} s")
    print("\n| what | at most | measured |\n|---|---|---|")
    print(f"| seconds to open | 0.5 | {opening['median']:.3f} (the first time {opening['first']:.3f}) |")
    drawn = f"{found['draw']['share']:+.1%} ({draws['large'] * 1e6:.0f} µs)"
    print(f"| drawing a batch of 32, beside {SMALL:,} proteins | ±15 % | {drawn} |")
    for name in ("train", "featurize"):
        memory = f"{found[name]['bytes']:.0f} (at most {found[name]['most']:.0f} meanwhile)"
        print(f"| resident bytes a protein, {name} | 64 | {memory} |")
    print(f"\n{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(f"preparing the training set took {training[1]['seconds']:.0f} s")


if __name__ == "__main__":
    main()
