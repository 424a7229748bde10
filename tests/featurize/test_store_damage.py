"""Whatever happens to a file of a store is found and named, and no wrong number is ever read."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from awscrt.checksums import crc32c

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.finding import Verification
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import index_bytes, index_size
from amma.featurize.store.verify import verify_store
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
SMALL = StoreSettings(shard_rows=64, chunk_rows=8)
Read = dict[tuple[str, str], bytes]


def read_everything(path: Path) -> tuple[Read, list[str]]:
    """Everything that can be read of a store, and the messages of what cannot."""
    values: Read = {}
    refused: list[str] = []
    try:
        opened = FeatureStore(path)
    except StoreError as error:
        return {}, [str(error)]
    with opened:

        def attempt(key: tuple[str, str], read: Callable[[], bytes]) -> None:
            try:
                values[key] = read()
            except CorruptStoreError as error:
                refused.append(str(error))

        attempt(("ids", ""), lambda: repr(list(opened.ids)).encode())
        attempt(("sequences", ""), lambda: repr(list(opened.sequences())).encode())
        attempt(("kinds", ""), lambda: repr(opened.kinds()).encode())
        for modality in MODALITIES:
            for column in (opened.present, opened.length, opened.start):
                attempt((modality, column.__name__), lambda column=column, m=modality: column(m).tobytes())
            for row in range(len(opened)):
                attempt((modality, f"entry {row}"), lambda row=row: repr(opened.entries([row])).encode())
                if not has(opened, row, modality):
                    continue

                def rows(modality: Modality = modality, row: int = row) -> bytes:
                    found = opened.read(modality, row)
                    return found.features.tobytes() + (b"" if found.index is None else found.index.tobytes())

                attempt((modality, str(row)), rows)
                if modality is not Modality.STR:
                    attempt((modality, f"cls {row}"), lambda m=modality, row=row: opened.cls(m, row).tobytes())
    return values, refused


def has(opened: FeatureStore, row: int, modality: Modality) -> bool:
    """As the protein's own record says; True where that is damaged, for the read to refuse."""
    try:
        return bool(opened.entries([row]).length_BM[0, MODALITIES.index(modality)])
    except CorruptStoreError:
        return True


def may_go_unnoticed(name: str) -> bool:
    """What our reader does not need: what decides no number, and what tells other readers of rows it checks itself."""
    for_others = "crc32c" in name or is_shard(name.replace("zarr.json", "c/"))
    return for_others or name.startswith(("ledger/", "units/", "digests/ledger")) or name == "quarantine.jsonl"


def files_of(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def is_shard(name: str) -> bool:
    return "features/c/" in name or "residue/c/" in name or "field/c/" in name


def hit_by_reading(path: Path) -> set[str]:
    """The ids that our reader names when it refuses."""
    hit = set()
    with FeatureStore(path) as opened:
        for modality in MODALITIES:
            for row in np.flatnonzero(opened.present(modality)).tolist():
                try:
                    opened.read(modality, row)
                except CorruptStoreError as error:
                    hit |= {id for id in opened.ids if repr(id) in str(error)}
    return hit


def only_finding(report: Verification, name: str) -> tuple[str, ...]:
    assert [finding.file for finding in report.findings] == [name]
    return report.findings[0].proteins


def test_an_intact_store_has_nothing_to_find(store: Path) -> None:
    for quick in (False, True):
        report = verify_store(store, quick=quick)
        assert report.findings == []
        assert report.sealed
        assert report.files == len(files_of(store))
        assert report.root == FeatureStore(store).root_hash


@pytest.mark.parametrize("flips", [160, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_found_in_its_file_and_no_wrong_number_is_read(store: Path, flips: int) -> None:
    intact, refused = read_everything(store)
    assert not refused
    rng = random.Random(7)
    names = [name for name in files_of(store) if name != "quarantine.jsonl"]  # it is empty
    shards, others = [name for name in names if is_shard(name)], [name for name in names if not is_shard(name)]
    # Shards vouch for nothing: one bit in each of twelve is twelve trials, if no two hold the same protein's modality
    # (its checksum is over both). In any other file one bit is alone.
    by_owner: dict[tuple[str, str], list[str]] = {}
    for name in shards:
        by_owner.setdefault((name.split("/")[0], name.split("/")[3]), []).append(name)
    rounds = [[name] for name in others] + [[name] for name in rng.choices(others, k=flips // 10)]
    owners = list(by_owner.values())
    rounds += [[rng.choice(of_owner) for of_owner in rng.sample(owners, k=12)] for _ in range(flips * 3 // 40)]
    assert sum(map(len, rounds)) >= flips
    noticed = 0
    for chosen in rounds:
        originals = {name: (store / name).read_bytes() for name in chosen}
        in_numbers = set()
        for name, data in originals.items():
            position, bit = rng.randrange(len(data)), rng.randrange(8)
            (store / name).write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
            if is_shard(name) and position < len(data) - index_size(8):
                in_numbers.add(name)
        report = verify_store(store)
        found = {finding.file: finding for finding in report.findings}
        assert set(chosen) <= set(found), chosen
        values, refused = read_everything(store)
        assert all(value == intact[key] for key, value in values.items()), chosen
        if is_shard(chosen[0]):
            assert set(found) == set(chosen)
            # What hits a shard's index hits every protein in it for our reader, and none for who reads the numbers.
            by_numbers = {id for name in in_numbers for id in found[name].proteins}
            assert by_numbers <= hit_by_reading(store)
            if in_numbers == set(chosen):
                assert by_numbers == hit_by_reading(store)
            assert not any(found[name].proteins for name in set(chosen) - in_numbers)
            assert bool(refused) >= bool(by_numbers)
            noticed += sum(bool(found[name].proteins) for name in chosen)
        elif not may_go_unnoticed(chosen[0]):
            assert refused, chosen
        for name, data in originals.items():
            (store / name).write_bytes(data)
    assert noticed > flips / 3  # the others hit an index or the padding of a chunk
    assert verify_store(store).findings == []


def damaged(path: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    yield "deleted", lambda file: file.unlink()
    yield "emptied", lambda file: file.write_bytes(b"")
    yield "cut", lambda file: os.truncate(file, file.stat().st_size // 2)
    yield "cut by a byte", lambda file: os.truncate(file, file.stat().st_size - 1)
    yield "longer", lambda file: file.write_bytes(file.read_bytes() + b"\0")
    yield "a link", lambda file: (file.rename(path.parent / "elsewhere"), file.symlink_to(path.parent / "elsewhere"))


def test_every_file_deleted_emptied_cut_lengthened_or_linked_is_named(store: Path) -> None:
    intact, _ = read_everything(store)
    sized = [name for name in files_of(store) if (store / name).stat().st_size]
    kinds = list(damaged(store))
    for number, name in enumerate(sized):
        original = (store / name).read_bytes()
        # Two kinds of damage a file, each kind to a third of all files, so that the whole takes seconds.
        for what, damage in (kinds[number % 6], kinds[(number + 2) % 6]):
            damage(store / name)
            for quick in (False, True):
                report = verify_store(store, quick=quick)
                assert name in [finding.file for finding in report.findings], (name, what, quick)
            values, refused = read_everything(store)
            assert all(value == intact[key] for key, value in values.items()), (name, what)
            if is_shard(name):
                assert any(name in message for message in refused), (name, what)
            (store / name).unlink(missing_ok=True)
            (store / name).write_bytes(original)
    assert verify_store(store).findings == []


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_any_two_files_that_changed_places_are_both_named(store: Path, stride: int) -> None:
    intact, _ = read_everything(store)
    by_folder = sorted(files_of(store), key=lambda name: (name.count("/"), name.split("/")[1:], name))
    pairs = [pair for pair in pairwise(by_folder) if len({(store / name).read_bytes() for name in pair}) > 1]
    for first, second in pairs[::stride]:
        contents = (store / first).read_bytes(), (store / second).read_bytes()
        (store / first).write_bytes(contents[1])
        (store / second).write_bytes(contents[0])
        # What vouches for other files is named at least: without it there is nothing to hold those against.
        vouchers = {name for name in (first, second) if name.startswith(("seal.json", "digests/", "ledger/"))}
        named = vouchers or {first, second}
        assert named <= {finding.file for finding in verify_store(store).findings}
        values, _ = read_everything(store)
        assert all(value == intact[key] for key, value in values.items()), (first, second)
        (store / first).write_bytes(contents[0])
        (store / second).write_bytes(contents[1])
    assert len(pairs) > 70
    assert verify_store(store).findings == []


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_any_file_of_an_older_store_with_the_same_proteins_is_found_in_this_one(
    store: Path, memory_folder: Path, stride: int
) -> None:
    rng = np.random.default_rng(5)
    older = memory_folder / "older.zarr"
    with FeatureStore(store) as opened:
        sequences = list(opened.sequences())
        proteins = [
            ProteinArrays(
                id, sequences[row], {m: _noisy(opened, m, row, rng) for m in MODALITIES if has(opened, row, m)}
            )
            for row, id in enumerate(opened.ids)
        ]
        back = np.argsort(np.random.Generator(np.random.PCG64(0)).permutation(len(proteins)))
    # In the order of the manifest, so that both stores have the same plan.
    proteins = [proteins[row] for row in back.tolist()]
    write_store(older, proteins, widths=WIDTHS, settings=SMALL, fingerprint={"seq": {"layer": 1}}, random_weights=True)
    intact, _ = read_everything(store)
    assert files_of(older) == files_of(store)
    differing = [name for name in files_of(store) if (older / name).read_bytes() != (store / name).read_bytes()]
    assert len(differing) >= 30
    for name in differing[::stride]:
        original = (store / name).read_bytes()
        (store / name).write_bytes((older / name).read_bytes())
        found = {finding.file for finding in verify_store(store).findings}
        # The seal of the older store is whole in itself: then it is everything else that is not what it says.
        assert name in found or (name == "seal.json" and len(found) > 5)
        values, _ = read_everything(store)
        if name != "seal.json":
            assert all(value == intact[key] for key, value in values.items()), name
        (store / name).write_bytes(original)
    assert verify_store(store).findings == []


def test_two_shards_that_changed_places_are_both_named_with_the_proteins_hit(store: Path) -> None:
    for array in ("seq/features", "str/features", "func/field"):
        paths = [path for path in sorted((store / array / "c").rglob("*")) if path.is_file()]
        same = {}
        for path in paths:
            same.setdefault(path.stat().st_size, []).append(path)
        pairs = [group[:2] for group in same.values() if len(group) > 1]
        for first, second in pairs:
            contents = first.read_bytes(), second.read_bytes()
            first.write_bytes(contents[1])
            second.write_bytes(contents[0])
            report = verify_store(store)
            names = {path.relative_to(store).as_posix() for path in (first, second)}
            assert {finding.file for finding in report.findings} == names
            assert {id for finding in report.findings for id in finding.proteins} == hit_by_reading(store) != set()
            first.write_bytes(contents[0])
            second.write_bytes(contents[1])
    assert pairs


def test_a_shard_whose_last_chunk_was_dropped_with_its_index_made_to_agree_is_refused(store: Path) -> None:
    name = "seq/features/c/0/0"
    data = (store / name).read_bytes()
    chunk = 8 * 8 * 2
    used = (len(data) - index_size(8)) // chunk
    (store / name).write_bytes(data[: (used - 1) * chunk] + index_bytes(used - 1, chunk, 8))
    proteins = only_finding(verify_store(store), name)
    assert proteins
    assert hit_by_reading(store) == set(proteins)
    opened = FeatureStore(store)
    with pytest.raises(CorruptStoreError, match=r"seq/features/c/0/0: ends before row"):
        opened.read(Modality.SEQ, opened.row_of(proteins[-1]))


def test_a_shard_that_is_valid_zarr_but_not_flat_is_read_through_zarr_with_the_same_numbers(store: Path) -> None:
    intact, _ = read_everything(store)
    path = store / "seq/features/c/0/0"
    data = path.read_bytes()
    chunk, size = 8 * 8 * 2, index_size(8)
    index = np.frombuffer(data[-size:-4], dtype="<u8").reshape(8, 2).copy()
    index[[0, 1]] = index[[1, 0]]
    raw = index.tobytes()
    swapped = data[chunk : 2 * chunk] + data[:chunk] + data[2 * chunk : -size]
    path.write_bytes(swapped + raw + crc32c(raw).to_bytes(4, "little"))
    values, refused = read_everything(store)
    assert values == intact
    assert not refused
    # The same chunks under the old index are other rows: found by their checksums.
    path.write_bytes(swapped + data[-size:])
    with pytest.raises(CorruptStoreError, match=r"seq/features/c/0/0: protein .* crc32c is"):
        FeatureStore(store).read(Modality.SEQ, 0)
    assert only_finding(verify_store(store), "seq/features/c/0/0")


def test_zeros_and_an_older_version_of_a_shard_are_found(store: Path, memory_folder: Path) -> None:
    path = store / "str/features/c/0/0"
    data = path.read_bytes()
    path.write_bytes(bytes(len(data) - index_size(8)) + data[-index_size(8) :])
    assert only_finding(verify_store(store), "str/features/c/0/0")
    assert hit_by_reading(store)
    path.write_bytes(data)
    shutil.copytree(store, memory_folder / "older.zarr")
    shutil.rmtree(store)
    rng = np.random.default_rng(5)
    older = FeatureStore(memory_folder / "older.zarr")
    write_store(
        store,
        [
            ProteinArrays(id, sequence, {m: _noisy(older, m, row, rng) for m in MODALITIES if older.present(m)[row]})
            for row, (id, sequence) in enumerate(zip(older.ids, older.sequences(), strict=True))
        ],
        widths=WIDTHS,
        settings=SMALL,
        fingerprint={"seq": {"layer": 1}},
        random_weights=True,
    )
    name = "seq/features/c/1/0"
    (store / name).write_bytes((memory_folder / "older.zarr" / name).read_bytes())
    assert verify_store(store).findings[0].file == name


def _noisy(store: FeatureStore, modality: Modality, row: int, rng: np.random.Generator) -> Any:
    rows = store.read(modality, row)
    features = rows.features.astype(np.float32) + rng.standard_normal(rows.features.shape, dtype=np.float32)
    cls = None if modality is Modality.STR else store.cls(modality, row).astype(np.float32)
    return Encoded(features, rows.index, cls)
