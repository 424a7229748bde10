"""A damaged store is given back to the byte, or nothing of it is touched and one line says why."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.replay import ReplayOrigin
from amma.featurize.run import featurize
from amma.featurize.store.documents import render
from amma.featurize.store.layout import ledger_file
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.repair import Repair, repair_store
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.manifests.errors import FingerprintError, StoreError
from amma.manifests.table import Manifest, Modality

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
KNOWN = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60)
"""What has to be told again where the plan is lost; the number of threads is found by itself."""
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

    def repair(self, *, dry_run: bool = False, encoders: Any = None, asked: StoreSettings | None = None) -> Repair:
        origin = ReplayOrigin(self.manifest, self.encoders() if encoders is None else encoders)
        return repair_store(self.path, origin, asked or StoreSettings(), dry_run=dry_run)


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


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
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
        found = [finding.file for finding in verify_store(damaged.path).findings]
        # Of a seal that is whole, but another store's, everything else is told.
        assert name in found or ((name, what) == ("seal.json", "older") and "digests/ledger" in found), (name, what)
        done = damaged.repair(asked=KNOWN)
        assert done.is_whole, (name, what, done.lines())
        assert tree(damaged.path) == whole, (name, what)
        assert not any(path.is_symlink() for path in damaged.path.rglob("*"))
        assert done.files == [name], (name, what)


def test_damage_in_many_files_of_every_kind_at_once_is_given_back(damaged: Damaged, tree: Tree) -> None:
    whole = tree(damaged.whole)
    names = [
        "ids.parquet",
        "plan.json",
        "zarr.json",
        "quarantine.jsonl",
        "index.bin",
        "seq/zarr.json",
        "units/00000001.safetensors",
        ledger_file(0),
        "str/features/c/2/0",
        "seq/features/c/0/0",
        "func/cls/c/0/0",
        "digests/ids",
    ]
    assert set(names) <= set(whole)
    for name in names:
        (damaged.path / name).unlink()
    done = damaged.repair(asked=KNOWN)
    assert done.is_whole
    assert tree(damaged.path) == whole
    assert sorted(done.files) == sorted(names)


def test_only_damaged_units_are_encoded_and_rejects_and_cuts_are_those_of_the_ledger(
    damaged: Damaged, tree: Tree
) -> None:
    entry = json.loads((damaged.whole / ledger_file(0)).read_text())
    assert entry["splits"]
    os.truncate(damaged.path / "str/features/c/0/0", 5)
    encoders = damaged.encoders()
    done = damaged.repair(encoders=encoders)
    assert (done.units, done.files) == ([0], ["str/features/c/0/0"])
    assert tree(damaged.path) == tree(damaged.whole)
    with FeatureStore(damaged.whole) as store:
        members = {store.ids[row] for row in range(entry["proteins"])}
    assert {id for batch in encoders[Modality.SEQ].batches for id in batch} <= members
    assert max(map(len, encoders[Modality.STR].batches)) == 1  # as little as memory held when it was made


def test_links_are_removed_and_never_followed(damaged: Damaged, tree: Tree, memory_folder: Path) -> None:
    whole = tree(damaged.whole)
    outside = memory_folder / "outside"
    for name in ("seq/features", "units", "ledger", "func", "digests"):
        (damaged.path / name).rename(outside)
        (damaged.path / name).symlink_to(outside)
        before = tree(outside)
        found = {finding.file for finding in verify_store(damaged.path).findings}
        assert {file for file in whole if file.startswith(f"{name}/")} <= found
        assert damaged.repair().is_whole
        assert not (damaged.path / name).is_symlink()
        assert tree(damaged.path) == whole
        assert tree(outside) == before
        shutil.rmtree(outside)
    (damaged.path / "zarr.json").unlink()
    (damaged.path / "zarr.json").symlink_to(memory_folder / "nowhere")
    assert damaged.repair().is_whole
    assert tree(damaged.path) == whole


def test_what_is_not_of_the_store_is_named_and_left(damaged: Damaged) -> None:
    (damaged.path / "seq" / "notes.txt").write_text("mine")
    (damaged.path / "mine").mkdir()
    (damaged.path / "elsewhere").symlink_to("/nowhere")
    done = damaged.repair()
    assert not done.is_whole
    assert {finding.file for finding in done.left} == {"seq/notes.txt", "mine", "elsewhere"}
    assert (damaged.path / "seq" / "notes.txt").read_text() == "mine"
    shutil.rmtree(damaged.path / "mine")
    (damaged.path / "index.bin").unlink()
    (damaged.path / "index.bin").mkdir()
    (damaged.path / "index.bin" / "mine").write_text("keep")
    with pytest.raises(StoreError, match=r"index\.bin: is a folder with things in it.*Move it away") as caught:
        damaged.repair()
    assert caught.value.code == "E_REPAIR"
    assert (damaged.path / "index.bin" / "mine").read_text() == "keep"


def test_other_numbers_are_refused_and_nothing_is_touched(damaged: Damaged, tree: Tree, memory_folder: Path) -> None:
    (damaged.path / "seq/features/c/1/0").write_bytes(b"gone")
    before = tree(damaged.path)
    layer = damaged.encoders()
    layer[Modality.SEQ].layer = 2
    with pytest.raises(FingerprintError, match=r"seq\.layer: 1 -> 2"):
        damaged.repair(encoders=layer)
    # An encoder that says it is the same and is not: another device, other versions.
    drifted = damaged.encoders()
    drifted[Modality.SEQ]._encode = lambda item, encode=drifted[Modality.SEQ]._encode: _shifted(encode(item))
    with pytest.raises(StoreError, match=r"unit 1 was encoded again, and .*seq/features/c/1/0 is not what") as caught:
        damaged.repair(encoders=drifted)
    assert caught.value.code == "E_REPAIR"
    assert "\n" not in str(caught.value)
    # An input that is gone since.
    member = next(iter(FeatureStore(damaged.whole).ids[row] for row in range(2, 12) if row_has_structure(damaged, row)))
    structure = memory_folder / f"{member}.pdb"
    kept = structure.read_bytes()
    structure.unlink()
    for name in files_of(damaged.path):
        if name.startswith("str/features/c/"):
            (damaged.path / name).write_bytes(b"gone")
    before = tree(damaged.path)
    with pytest.raises(StoreError, match=rf"'{member}' left out now"):
        damaged.repair()
    after = tree(damaged.path)
    assert {name for name in before if before[name] != after.get(name)} <= {
        f"str/features/c/{unit}/0" for unit in range(9)
    }
    structure.write_bytes(kept)
    assert damaged.repair().is_whole
    assert tree(damaged.path) == tree(damaged.whole)


def row_has_structure(damaged: Damaged, row: int) -> bool:
    with FeatureStore(damaged.whole) as store:
        return bool(store.present(Modality.STR)[row])


def test_other_proteins_are_refused(
    damaged: Damaged, tree: Tree, memory_folder: Path, write_proteins: Callable[..., Manifest]
) -> None:
    (damaged.path / "seq/features/c/1/0").unlink()
    before = tree(damaged.path)
    other = ReplayOrigin(write_proteins(memory_folder / "other", 12, seed=1), damaged.encoders())
    with pytest.raises(StoreError, match="begun from other proteins"):
        repair_store(damaged.path, other, StoreSettings())
    assert tree(damaged.path) == before


def test_a_lost_plan_is_made_again_of_the_settings_it_had(damaged: Damaged, tree: Tree) -> None:
    plan = damaged.path / "plan.json"
    plan.unlink()
    with pytest.raises(StoreError, match=r"plan\.json is lost.*--shard-rows") as caught:
        damaged.repair()
    assert caught.value.code == "E_REPAIR"
    assert damaged.repair(asked=KNOWN).is_whole
    assert tree(damaged.path) == tree(damaged.whole)


def test_a_lost_seal_and_a_store_that_was_never_sealed(damaged: Damaged, tree: Tree) -> None:
    whole = tree(damaged.whole)
    seal = json.loads((damaged.whole / "seal.json").read_text())
    # With the seal gone, a ledger entry that its own files contradict is wrong.
    (damaged.path / "seal.json").unlink()
    entry = json.loads((damaged.path / ledger_file(0)).read_text())
    entry["files"]["seq/features/c/0/0"]["blake3"] = "0" * 64
    (damaged.path / ledger_file(0)).write_bytes(render(entry))
    done = damaged.repair()
    assert (done.is_whole, done.root) == (True, seal["root"])
    assert tree(damaged.path) == whole
    # A seal of which only the root is illegible, and one that speaks against what is there.
    text = (damaged.whole / "seal.json").read_text()
    (damaged.path / "seal.json").write_text(text.replace(seal["root"], "0" * 64))
    assert damaged.repair().is_whole
    assert tree(damaged.path) == whole
    listed = seal["files"]["plan.json"]["blake3"]
    (damaged.path / "seal.json").write_text(text.replace(seal["root"], "0" * 64).replace(listed, "1" * 64))
    with pytest.raises(StoreError, match=r"what is legible of it says otherwise of plan\.json"):
        damaged.repair()
    # Unfinished: what is committed is mended, and the run goes on.
    damaged.renew()
    (damaged.path / "seal.json").unlink()
    (damaged.path / ledger_file(2)).unlink()
    (damaged.path / "seq/features/c/1/0").unlink()
    done = damaged.repair()
    assert done.files == ["seq/features/c/1/0"]
    assert [finding.file for finding in done.left] == ["seal.json"]


def test_a_dry_run_names_the_damage_and_writes_nothing(damaged: Damaged, tree: Tree) -> None:
    root = json.loads((damaged.whole / "seal.json").read_text())["root"]
    assert damaged.repair(dry_run=True).lines() == [f"{damaged.path}: intact, nothing to repair; root {root}"]
    (damaged.path / "str/features/c/1/0").unlink()
    before = tree(damaged.path)
    encoders = damaged.encoders()
    done = damaged.repair(dry_run=True, encoders=encoders)
    assert (done.units, done.is_whole) == ([1], False)
    assert [finding.file for finding in done.findings] == ["str/features/c/1/0"]
    assert "nothing was written" in done.lines()[0]
    assert tree(damaged.path) == before
    assert not any(encoders[modality].batches for modality in Modality)


@pytest.mark.parametrize("stride", [29, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("disk_full", [False, True])
def test_a_repair_that_dies_or_has_no_room_at_any_operation_is_begun_again(
    damaged: Damaged, tree: Tree, children: Any, stride: int, disk_full: bool
) -> None:
    whole = tree(damaged.whole)
    names = ["seq/features/c/0/0", "func/field/c/1", ledger_file(1), "zarr.json", "ids.parquet", "seq/start/c/0"]
    for number in itertools.count(1, stride):
        for name in names:
            (damaged.path / name).unlink()
        intact = tree(damaged.path)
        ended = children.run_to_operation(number, damaged.repair, below=damaged.path, disk_full=disk_full)
        if ended == 0:
            break
        assert ended == (children.DISK_FULL if disk_full else children.KILLED), number
        now = tree(damaged.path)
        assert all(now[name] == digest for name, digest in intact.items())  # nothing intact was harmed
        assert all(now[name] == whole[name] for name in names if name in now)  # and nothing half made put in place
        assert damaged.repair().is_whole
        assert tree(damaged.path) == whole
    assert number > 60
