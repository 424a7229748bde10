"""Stores in a bucket of a real S3 server in this process: what is pushed, and what is read there."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from amma.featurize.cli import app
from amma.featurize.store.bucket import Bucket
from amma.featurize.store.push import push_store
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.remote_verify import verify_remote
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, StoreError, UsageError
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
ADDRESS = "s3://proteins/stores/first.zarr"
PREFIX = "stores/first.zarr/"

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


@pytest.fixture
def store(memory_folder: Path, random_proteins: Callable[..., list[ProteinArrays]]) -> Path:
    path = memory_folder / "s.zarr"
    settings = StoreSettings(shard_rows=256, chunk_rows=16)
    write_store(path, random_proteins(24), widths=WIDTHS, settings=settings, fingerprint={}, random_weights=True)
    return path


def files_of(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def objects_of(bucket: Any) -> dict[str, bytes]:
    return {each.key.removeprefix(PREFIX): each.get()["Body"].read() for each in bucket.objects.all()}


def everything(store: FeatureStore) -> dict[tuple[str, str], bytes]:
    values = {}
    for modality in MODALITIES:
        for row in np.flatnonzero(store.present(modality)).tolist():
            rows = store.read(modality, row)
            index = b"" if rows.index is None else rows.index.tobytes()
            values[modality, store.ids[row]] = rows.features.tobytes() + index
    return values


def test_a_pushed_store_is_the_local_one_object_by_object(store: Path, bucket: Any) -> None:
    planned = push_store(store, ADDRESS, dry_run=True)
    assert objects_of(bucket) == {}
    pushed = push_store(store, ADDRESS)
    assert (planned.sent, planned.sent_bytes) == (pushed.sent, pushed.sent_bytes)
    assert objects_of(bucket) == files_of(store)
    assert pushed.sent == len(files_of(store))
    assert pushed.sent_bytes == sum(map(len, files_of(store).values()))
    again = push_store(store, ADDRESS)
    assert (again.sent, again.there) == (0, pushed.sent)


def test_everything_reads_there_as_it_does_here(store: Path, bucket: Any) -> None:
    push_store(store, ADDRESS)
    with FeatureStore(store) as local, FeatureStore(ADDRESS) as remote:
        assert everything(remote) == everything(local)
        assert list(remote.ids) == list(local.ids)
        assert list(remote.sequences()) == list(local.sequences())
        complete = [row for row, kind in enumerate(local.kinds()) if kind == "triplet"]
        here, there = local.read_many(complete, MODALITIES), remote.read_many(complete, MODALITIES)
        for modality in MODALITIES:
            np.testing.assert_array_equal(here.rows[modality].features, there.rows[modality].features)
        np.testing.assert_array_equal(local.cls(Modality.FUNC, complete[0]), remote.cls(Modality.FUNC, complete[0]))
    array = zarr.open_group(ADDRESS, mode="r")["seq/features"]
    np.testing.assert_array_equal(array[:], zarr.open_group(store, mode="r")["seq/features"][:])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 9, -1])
def test_a_push_that_is_killed_leaves_no_seal_and_goes_on(
    store: Path, bucket: Any, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = len(files_of(store))
    put, sent = Bucket.put, []

    def dies(self: Bucket, path: Path, name: str, record: Any) -> None:
        if len(sent) >= after % total:
            raise Killed
        sent.append(name)
        return put(self, path, name, record)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", dies)
        with pytest.raises(Killed):
            push_store(store, ADDRESS)
    there = objects_of(bucket)
    assert len(there) == len(sent) == after % total
    assert "seal.json" not in there
    assert sent[0] == "plan.json"
    with pytest.raises(StoreError, match=r"not sealed|not a feature store"):
        FeatureStore(ADDRESS)
    resumed = push_store(store, ADDRESS)
    assert resumed.sent == total - len(sent)
    assert objects_of(bucket) == files_of(store)


def test_a_push_killed_by_the_system_goes_on(store: Path, bucket: Any) -> None:
    code = f"""
import time
from amma.featurize.cli import app
from amma.featurize.store.bucket import Bucket
put = Bucket.put
Bucket.put = lambda *arguments: (time.sleep(0.05), put(*arguments))[1]
app(["push", {str(store)!r}, {ADDRESS!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(bucket.objects.all())) < 12 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    there = objects_of(bucket)
    assert 12 <= len(there) < len(files_of(store))
    assert "seal.json" not in there
    assert push_store(store, ADDRESS).there >= 12
    assert objects_of(bucket) == files_of(store)


def test_what_was_changed_there_is_sent_again_and_the_seal_comes_last(
    store: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_store(store, ADDRESS)
    name = "func/features/c/0/0"
    data = bytearray(files_of(store)[name])
    data[0] ^= 1
    bucket.put_object(Key=PREFIX + name, Body=bytes(data))
    bucket.Object(PREFIX + "index.bin").delete()
    order: list[str] = []
    put = Bucket.put

    def noted(self: Bucket, path: Path, name: str, record: Any) -> str | None:
        assert "seal.json" not in self.sizes()
        order.append(name)
        return put(self, path, name, record)

    monkeypatch.setattr(Bucket, "put", noted)
    assert push_store(store, ADDRESS).sent == 3
    assert set(order[:2]) == {name, "index.bin"}
    assert order[2] == "seal.json"
    assert objects_of(bucket) == files_of(store)


def test_a_server_that_keeps_something_else_is_found_out_before_the_seal(
    store: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bytes = Bucket.put_bytes

    def careless(self: Bucket, data: bytes, name: str) -> None:
        put_bytes(self, data[:-1] + b"?" if name == "index.bin" else data, name)

    monkeypatch.setattr(Bucket, "put_bytes", careless)
    with pytest.raises(StoreError, match=r"index\.bin: the server keeps something else") as caught:
        push_store(store, ADDRESS)
    assert caught.value.code == "E_REMOTE"
    assert "seal.json" not in objects_of(bucket)


def test_a_large_file_goes_in_parts_and_is_read_back(store: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amma.featurize.store.bucket._MOST_AT_ONCE", 1000)
    push_store(store, ADDRESS)
    assert objects_of(bucket) == files_of(store)
    assert push_store(store, ADDRESS).sent == 0


def test_what_is_not_whole_or_not_sealed_is_not_pushed(store: Path, bucket: Any) -> None:
    unsealed = store.with_name("unsealed.zarr")
    shutil.copytree(store, unsealed)
    (unsealed / "seal.json").unlink()
    with pytest.raises(StoreError, match="not sealed") as caught:
        push_store(unsealed, ADDRESS)
    assert caught.value.code == "E_UNSEALED"
    assert objects_of(bucket) == {}
    damaged = store / "seq/features/c/0/0"
    data = bytearray(damaged.read_bytes())
    data[5] ^= 4
    damaged.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"seq/features/c/0/0: not what the seal says"):
        push_store(store, ADDRESS)
    assert "seal.json" not in objects_of(bucket)


def test_another_store_is_not_written_over(
    store: Path, bucket: Any, memory_folder: Path, random_proteins: Callable[..., list[ProteinArrays]]
) -> None:
    other = memory_folder / "other.zarr"
    settings = StoreSettings(shard_rows=256, chunk_rows=16)
    write_store(
        other, random_proteins(24, seed=1), widths=WIDTHS, settings=settings, fingerprint={}, random_weights=True
    )
    push_store(store, ADDRESS)
    before = objects_of(bucket)
    with pytest.raises(StoreError, match=r"first\.zarr: holds another store"):
        push_store(other, ADDRESS)
    bucket.Object(PREFIX + "seal.json").delete()
    with pytest.raises(StoreError, match="holds the beginning of another store"):
        push_store(other, ADDRESS)
    bucket.put_object(Key=PREFIX + "notes.txt", Body=b"x")
    with pytest.raises(StoreError, match=r"holds what is no part of this store \(notes\.txt\)"):
        push_store(store, ADDRESS)
    assert {**objects_of(bucket), "seal.json": before["seal.json"]} == {**before, "notes.txt": b"x"}


def test_damage_there_is_caught_on_reading_and_named_by_verify(store: Path, bucket: Any) -> None:
    push_store(store, ADDRESS)
    assert not verify_remote(ADDRESS).findings
    name = "seq/features/c/0/0"
    data = bytearray(files_of(store)[name])
    data[0] ^= 1
    bucket.put_object(Key=PREFIX + name, Body=bytes(data))
    with FeatureStore(ADDRESS) as opened:
        hit = opened.ids[0]
        with pytest.raises(CorruptStoreError, match=rf"s3://proteins/.*{name}.*{hit}.*crc32c is"):
            opened.read(Modality.SEQ, 0)
    assert not verify_remote(ADDRESS, quick=True).findings
    (found,) = verify_remote(ADDRESS).findings
    assert (found.file, found.unit) == (name, 0)
    assert hit in found.proteins
    bucket.put_object(Key=PREFIX + name, Body=bytes(data[:-40]))  # now its index is gone
    with FeatureStore(ADDRESS) as opened, pytest.raises(CorruptStoreError, match=rf"{name}.*index is damaged"):
        opened.read(Modality.SEQ, 0)
    bucket.Object(PREFIX + name).delete()
    bucket.put_object(Key=PREFIX + "ledger/00000001.json", Body=b"{}\n")
    bucket.put_object(Key=PREFIX + "extra", Body=b"x")
    with FeatureStore(ADDRESS) as opened, pytest.raises(CorruptStoreError, match=rf"{name}: is missing"):
        opened.read(Modality.SEQ, 0)
    assert {found.file for found in verify_remote(ADDRESS, quick=True).findings} == {
        name,
        "ledger/00000001.json",
        "extra",
    }
    bucket.put_object(Key=PREFIX + "seal.json", Body=b"{}\n")
    with pytest.raises(CorruptStoreError, match=r"seal\.json"):
        FeatureStore(ADDRESS)
    assert [found.file for found in verify_remote(ADDRESS).findings] == ["seal.json"]


def test_commands_take_the_address(
    store: Path, bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["push", str(store), ADDRESS, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["address"] == ADDRESS
    here, there = {}, {}
    for place, report in ((str(store), here), (ADDRESS + "/", there)):
        app(["inspect", place, "--json"], standalone_mode=False)
        report.update(json.loads(capsys.readouterr().out))
    assert there.pop("store") == ADDRESS
    assert here.pop("store") == str(store)
    assert there == here
    for options in ([], ["--quick"]):
        app(["verify", ADDRESS, *options], standalone_mode=False)
        assert "intact" in capsys.readouterr().out
    app(["export", ADDRESS, str(tmp_path / "out"), "--format", "npy"], standalone_mode=False)
    app(["export", str(store), str(tmp_path / "local"), "--format", "npy"], standalone_mode=False)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_what_is_wrong_with_the_connection_is_one_line(
    store: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for attempt in (lambda: push_store(store, "s3://nowhere-at-all/x"), lambda: FeatureStore("s3://nowhere-at-all/x")):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert caught.value.code == "E_REMOTE"
        assert "bucket" in one_line(caught.value)
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore("s3://proteins/nothing-here")
    for address in ("s3://proteins", "gopher://proteins/x"):
        with pytest.raises(UsageError, match=address):
            push_store(store, address)
    with pytest.raises(UsageError, match="gopher"):
        FeatureStore("gopher://proteins/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    for attempt in (lambda: push_store(store, ADDRESS), lambda: FeatureStore(ADDRESS)):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert caught.value.code == "E_REMOTE"
        assert "AWS_ENDPOINT_URL" in one_line(caught.value)


def test_missing_credentials_are_one_line(
    store: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    for attempt in (lambda: push_store(store, ADDRESS), lambda: FeatureStore(ADDRESS)):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert "AWS_ACCESS_KEY_ID" in one_line(caught.value)


def test_arrays_that_another_program_rewrote_are_read_there_too(
    store: Path, bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    push_store(store, ADDRESS)
    with FeatureStore(store) as opened:
        expected = everything(opened)
    group = zarr.open_group(store, mode="a")
    rows = group["func/features"][:]
    group.create_array("func/features", data=rows, chunks=(32, rows.shape[1]), overwrite=True, fill_value=np.nan)
    for each in bucket.objects.filter(Prefix=PREFIX + "func/features/"):
        each.delete()
    for path in (store / "func/features").rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), PREFIX + path.relative_to(store).as_posix())
    with caplog.at_level(logging.WARNING), FeatureStore(ADDRESS) as opened:
        assert everything(opened) == expected
    assert "through zarr" in caplog.text
