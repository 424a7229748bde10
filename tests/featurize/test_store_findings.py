"""What `verify` says of a store: the file, the proteins that are hit, and why."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.featurize.store.documents import read_document, read_regular, render
from amma.featurize.store.index import RECORD
from amma.featurize.store.layout import VERSION
from amma.featurize.store.ledger import sweep
from amma.featurize.store.opened import OpenShards
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.verify import verify_store
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import Modality


def files_of(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def test_every_message_names_the_proteins_that_are_hit(store: Path) -> None:
    with FeatureStore(store) as opened:
        ids = list(opened.ids)
        begins = [opened.entries([row]).start_BM[0, 0] // 64 for row in range(len(ids))]
        units = opened.header.num_units

    def finding_of(name: str) -> Any:
        (found,) = [finding for finding in verify_store(store).findings if finding.file == name]
        return found

    for unit in range(units):
        name = f"ledger/{unit:08d}.json"
        content = (store / name).read_bytes()
        (store / name).write_bytes(content.replace(b"files", b"fires"))
        members = tuple(id for id, begin in zip(ids, begins, strict=True) if begin == unit)
        found = finding_of(name)
        assert (found.proteins, found.num_hit, found.unit) == (members, len(members), unit)
        assert repr(members[0]) in found.line()
        (store / name).write_bytes(content)
    for name in ("zarr.json", "seq/zarr.json", "plan.json", "func/field/zarr.json", "ids.parquet"):
        content = (store / name).read_bytes()
        (store / name).write_bytes(content[:-1] + b"\r")
        verified = finding_of(name)
        assert name == "plan.json" or verified.line().endswith(f"hits all {len(ids)} proteins")
        (store / name).write_bytes(content)
    content = bytearray((store / "index.bin").read_bytes())
    content[RECORD.itemsize * 4 + 7] ^= 1
    (store / "index.bin").write_bytes(content)
    assert finding_of("index.bin").proteins == (ids[4],)


def test_a_pipe_is_not_waited_for_and_a_huge_or_nested_file_not_read(store: Path) -> None:
    for name in ("seq/features/c/0/0", "seal.json", "plan.json", "ledger/00000000.json", "zarr.json", "index.bin"):
        content = (store / name).read_bytes()
        (store / name).unlink()
        os.mkfifo(store / name)
        assert name in [finding.file for finding in verify_store(store).findings]
        (store / name).unlink()
        # Sparse: 64 GiB that take no room, and would take all memory if they were read.
        (store / name).touch()
        os.truncate(store / name, 1 << 36)
        for quick in (False, True):
            assert name in [finding.file for finding in verify_store(store, quick=quick).findings]
        (store / name).write_bytes(b'{"a":' + b"[" * 200_000)
        assert name in [finding.file for finding in verify_store(store).findings]
        (store / name).write_bytes(content)
    os.truncate(store / "seal.json", 1 << 36)
    with pytest.raises(CorruptStoreError, match=r"has 68719476736 bytes, should have at most"):
        read_regular(store / "seal.json")


def test_files_behind_a_link_are_found_one_by_one(store: Path, memory_folder: Path) -> None:
    inside = [name for name in files_of(store) if name.startswith("str/features/")]
    (store / "str/features").rename(memory_folder / "moved")
    (store / "str/features").symlink_to(memory_folder / "moved")
    found = {finding.file: finding for finding in verify_store(store).findings}
    assert set(found) == set(inside)
    shard = found["str/features/c/0/0"]
    assert shard.reason.startswith("lies behind the symbolic link str/features")
    assert shard.proteins
    # An unfinished store is not written through it.
    (store / "seal.json").unlink()
    with pytest.raises(CorruptStoreError, match="str/features: is a symbolic link"):
        sweep(store, FeatureStore(store, partial=True).layout, [])


def test_what_does_not_belong_to_a_store_is_found(store: Path, memory_folder: Path) -> None:
    (store / "seq" / "notes.txt").write_text("mine")
    (store / "linked").symlink_to(memory_folder)
    (store / "seq" / "empty").mkdir()
    (store / "str" / "0.tmp").touch()
    (store / "lock").touch()
    report = verify_store(store)
    assert {finding.file: finding.reason.split(";")[0] for finding in report.findings} == {
        "seq/notes.txt": "is not a file of this store",
        "seq/empty": "is not a folder of this store",
        "str/0.tmp": "was left by a run or a repair that was killed",
        "lock": "was left by a run that was killed as it ended",
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

    rewrite("3.0")
    for use in (FeatureStore, verify_store):
        with pytest.raises(StoreError, match=rf"store of format 3\.0, this program reads {VERSION}") as caught:
            use(store)
        assert caught.value.code == "E_VERSION"
    rewrite("2.7")
    FeatureStore(store).read(Modality.SEQ, 0)


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
