"""Whatever happens to a file of a store is found and named, and no wrong number is ever read."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.documents import read_document, render
from amma.featurize.store.finding import Verification
from amma.featurize.store.layout import VERSION
from amma.featurize.store.opened import OpenShards
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import index_bytes, index_size
from amma.featurize.store.verify import verify_store
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
SMALL = StoreSettings(shard_rows=64, chunk_rows=8)
Read = dict[tuple[str, str], bytes]


@pytest.fixture
def store(memory_folder: Path, random_proteins: Callable[..., list[ProteinArrays]]) -> Path:
    path = memory_folder / "s.zarr"
    write_store(
        path, random_proteins(9), widths=WIDTHS, settings=SMALL, fingerprint={"seq": {"layer": 1}}, random_weights=True
    )
    return path


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
    opened = FeatureStore(path)
    hit = set()
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


def test_any_flipped_bit_is_found_in_its_file_and_no_wrong_number_is_read(store: Path) -> None:
    intact, refused = read_everything(store)
    assert not refused
    rng = random.Random(7)
    names = files_of(store)
    chosen = names + rng.choices([name for name in names if is_shard(name)], k=120) + rng.choices(names, k=40)
    noticed = 0
    for name in chosen:
        path = store / name
        data = bytearray(path.read_bytes())
        if not data:
            assert name == "quarantine.jsonl"
            continue
        position, bit = rng.randrange(len(data)), rng.randrange(8)
        original = bytes(data)
        data[position] ^= 1 << bit
        path.write_bytes(data)
        report = verify_store(store)
        assert name in [finding.file for finding in report.findings], (name, position, bit)
        values, refused = read_everything(store)
        for key, value in values.items():
            assert value == intact[key], (name, position, bit, key)
        if is_shard(name):
            proteins = only_finding(report, name)
            in_index = position >= len(data) - index_size(8)
            assert set(proteins) == (set() if in_index else hit_by_reading(store))
            assert bool(refused) >= bool(proteins)
            noticed += bool(proteins)
        elif not may_go_unnoticed(name):
            assert refused, name
        path.write_bytes(original)
    assert noticed > 80
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
    path.write_bytes(swapped + raw + google_crc32c.value(raw).to_bytes(4, "little"))
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


def test_what_does_not_belong_to_a_store_is_found(store: Path, memory_folder: Path) -> None:
    (store / "seq" / "notes.txt").write_text("mine")
    (store / "linked").symlink_to(memory_folder)
    report = verify_store(store)
    assert {finding.file: finding.reason.split(";")[0] for finding in report.findings} == {
        "seq/notes.txt": "is not a file of this store",
        "linked": "is a symbolic link or a device",
    }


def test_an_unfinished_store_is_a_finding_and_its_units_are_checked(store: Path) -> None:
    (store / "seal.json").unlink()
    assert [finding.file for finding in verify_store(store).findings] == ["seal.json"]
    data = bytearray((store / "seq/features/c/1/0").read_bytes())
    data[3] ^= 1
    (store / "seq/features/c/1/0").write_bytes(data)
    (store / "ledger/00000000.json").unlink()
    report = verify_store(store)
    assert [finding.file for finding in report.findings] == ["seal.json", "seq/features/c/1/0"]
    assert len(report.findings[1].proteins) == 1


def test_a_newer_major_version_is_refused_and_a_newer_minor_one_is_read(store: Path) -> None:
    def rewrite(version: str) -> None:
        body = {key: value for key, value in read_document(store / "seal.json").items() if key != "root"}
        body["version"] = version
        (store / "seal.json").write_bytes(render({**body, "root": sha256_of_json(body)}))

    rewrite("2.0")
    for use in (FeatureStore, verify_store):
        with pytest.raises(StoreError, match=rf"store of format 2\.0, this program reads {VERSION}") as caught:
            use(store)
        assert caught.value.code == "E_VERSION"
    rewrite("1.7")
    FeatureStore(store).read(Modality.SEQ, 0)


def test_something_else_is_not_a_store(memory_folder: Path) -> None:
    for use in (FeatureStore, verify_store):
        with pytest.raises(StoreError, match="not a feature store"):
            use(memory_folder)
        with pytest.raises(StoreError, match="not a feature store"):
            use(memory_folder / "nowhere")


def test_a_file_cut_while_it_is_open_is_refused(store: Path) -> None:
    opened = FeatureStore(store)
    opened.read(Modality.SEQ, 0)
    name = opened.layout.features(Modality.SEQ).chunk_file(0)
    os.truncate(store / name, 10)
    last = int(np.flatnonzero(opened.start(Modality.SEQ) < 64)[-1])
    with pytest.raises(CorruptStoreError, match="was cut while it was open"):
        opened.read(Modality.SEQ, last)
    opened._shards = OpenShards(store, opened.layout)
    with pytest.raises(CorruptStoreError, match="is not a shard of this store"):
        opened.read(Modality.SEQ, 0)
