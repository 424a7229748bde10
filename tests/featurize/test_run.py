"""`featurize` with a fake encoder: what is stored, what is left out, what is refused."""

import errno
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amma.featurize.encoders.protocol import EncoderInput
from amma.featurize.encoding import is_out_of_memory
from amma.featurize.run import featurize, preview_run
from amma.featurize.store import disk
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.status import status
from amma.featurize.store.verify import verify_store
from amma.manifests.errors import ConfigError, FingerprintError, StoreError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.structures import load_chain
from amma.manifests.table import MODALITIES, Manifest, Modality

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Tree = Callable[[Path], dict[str, str]]


def test_each_protein_has_the_rows_its_encoders_gave(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder, 40)
    encoders = fake_encoders()
    outcome = featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert (outcome.num_rejected, outcome.was_sealed) == (0, False)
    store = FeatureStore(memory_folder / "s.zarr")
    assert store.root_hash == outcome.root
    assert store.random_weights
    kinds = dict(zip(store.ids, store.kinds(), strict=True))
    sequences = dict(zip(store.ids, store.sequences(), strict=True))
    for protein in manifest:
        assert kinds[protein.id] == protein.kind
        assert sequences[protein.id] == protein.sequence
        for modality in protein.modalities:
            chain = load_chain(manifest, protein) if modality is Modality.STR else None
            (expected,) = encoders[modality].encode([EncoderInput(protein, chain)])
            rows = store.read(modality, store.row_of(protein.id))
            np.testing.assert_array_equal(rows.features, expected.features.astype(np.float16))
            if modality is Modality.STR:
                np.testing.assert_array_equal(rows.index, chain.residue)
    assert set(kinds.values()) == {"triplet", "seq-str", "seq-func", "seq"}


def test_batches_keep_to_the_budget_and_to_their_unit(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder, 30)
    encoders = fake_encoders()
    featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    store = FeatureStore(memory_folder / "s.zarr")
    for modality in MODALITIES:
        batches = encoders[modality].batches
        assert max(map(len, batches)) > 1
        for batch in batches:
            rows = [store.row_of(id) for id in batch]
            lengths = store.length(modality)[rows]
            assert len(batch) == 1 or (lengths + 2).sum() <= 60
            assert len(set(store.start(modality)[rows] // 64)) == 1
        assert sorted(id for batch in batches for id in batch) == sorted(
            store.ids[int(row)] for row in np.flatnonzero(store.present(modality))
        )


def test_a_protein_that_fails_alone_is_left_out_and_the_others_are_as_without_the_failure(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    encoders = fake_encoders()
    with_all = [protein.id for protein in manifest if protein.kind == "triplet"]
    no_text, no_structure, not_finite, nothing, gone, changed = with_all[:6]
    encoders[Modality.FUNC].failing = {no_text: RuntimeError("secret at 0x7f01"), not_finite: float("nan")}
    encoders[Modality.STR].failing = {no_structure: MemoryError()}
    encoders[Modality.SEQ].failing = {nothing: ValueError("bad letter")}
    (memory_folder / f"{gone}.pdb").unlink()
    (memory_folder / f"{changed}.pdb").write_text("END\n")
    outcome = featurize(manifest, memory_folder / "holed.zarr", encoders, SMALL)
    assert outcome.num_rejected == 6
    assert verify_store(memory_folder / "holed.zarr").findings == []

    whole, holed = FeatureStore(memory_folder / "whole.zarr"), FeatureStore(memory_folder / "holed.zarr")
    kinds = {id: holed.kinds()[holed.row_of(id)] for id in (*with_all[:6], with_all[6])}
    assert kinds == {
        no_text: "seq-str",
        not_finite: "seq-str",
        no_structure: "seq-func",
        gone: "seq-func",
        changed: "seq-func",
        nothing: "absent",
        with_all[6]: "triplet",
    }
    missing = 0
    for modality in MODALITIES:
        np.testing.assert_array_equal(whole.start(modality), holed.start(modality))
        for row in np.flatnonzero(whole.present(modality)):
            if holed.present(modality)[row]:
                np.testing.assert_array_equal(whole.read(modality, row).features, holed.read(modality, row).features)
            else:
                missing += 1
                assert holed.length(modality)[row] == 0
    assert missing == 5 + 3
    lines = {line.id: line for line in read_quarantine(memory_folder / "holed.zarr" / "quarantine.jsonl")}
    assert {id: line.code for id, line in lines.items()} == {
        no_text: "E_CRASH",
        not_finite: "E_NONFINITE",
        no_structure: "E_OOM",
        nothing: "E_CRASH",
        gone: "E_FILE",
        changed: "E_CHANGED",
    }
    assert manifest[lines[gone].position - 1].id == gone
    assert sorted(holed.rejections(), key=str) == sorted(lines.values(), key=str)
    (memory_folder / "holed.zarr" / "seal.json").unlink()
    unsealed = FeatureStore(memory_folder / "holed.zarr", partial=True)
    assert sorted(unsealed.rejections(), key=str) == sorted(lines.values(), key=str)
    text = (memory_folder / "holed.zarr" / "quarantine.jsonl").read_text()
    assert "0x7f01" not in text
    assert str(memory_folder) not in text


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_fits_and_the_ledger_says_so(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder, 30)
    roomy, narrow = fake_encoders(), fake_encoders()
    narrow[Modality.FUNC].room = 2
    for name, encoders in (("roomy", roomy), ("narrow", narrow)):
        assert featurize(manifest, memory_folder / f"{name}.zarr", encoders, SMALL).num_rejected == 0
        assert verify_store(memory_folder / f"{name}.zarr").findings == []

    def halves(batch: list[str]) -> list[list[str]]:
        half = (len(batch) + 1) // 2
        return [batch] if len(batch) <= 2 else halves(batch[:half]) + halves(batch[half:])

    whole = roomy[Modality.FUNC].batches
    assert narrow[Modality.FUNC].batches == [part for batch in whole for part in halves(batch)]
    entries = [json.loads(path.read_text()) for path in sorted((memory_folder / "narrow.zarr" / "ledger").iterdir())]
    splits = [split for entry in entries for split in entry.get("splits", [])]
    assert [split["sizes"] for split in splits] == [
        [len(part) for part in halves(batch)] for batch in whole if len(batch) > 2
    ]
    assert {split["modality"] for split in splits} == {"func"}
    assert status(memory_folder / "narrow.zarr").batches_split == len(splits) > 0
    assert status(memory_folder / "roomy.zarr").batches_split == 0


def test_a_batch_that_fails_in_company_only_is_encoded_one_by_one_and_the_ledger_says_so(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder, 12)
    encoders = fake_encoders()
    encode = encoders[Modality.SEQ].encode

    def shy(batch: list[EncoderInput]) -> Any:
        if len(batch) > 1:
            raise RuntimeError("too many")
        return encode(batch)

    encoders[Modality.SEQ].encode = shy
    assert featurize(manifest, memory_folder / "s.zarr", encoders, SMALL).num_rejected == 0
    entries = [json.loads(path.read_text()) for path in sorted((memory_folder / "s.zarr" / "ledger").iterdir())]
    splits = [split for entry in entries for split in entry.get("splits", [])]
    assert splits
    assert all(split["modality"] == "seq" and set(split["sizes"]) == {1} for split in splits)


def test_torch_out_of_memory_on_a_cpu_is_known_for_what_it_is() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**15)
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_an_encoder_that_fails_on_everything_stops_the_run(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder)
    encoders = fake_encoders()
    encoders[Modality.FUNC].failing = {protein.id: RuntimeError("no kernel") for protein in manifest}
    # Units of a handful: one with four texts or more decides.
    with pytest.raises(StoreError, match="func encoder fake-func failed on each of"):
        featurize(manifest, memory_folder / "s.zarr", encoders, SMALL.model_copy(update={"shard_rows": 256}))


def test_an_encoder_that_breaks_its_promises_is_caught(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder, 6)
    encoders = fake_encoders()
    encoders[Modality.SEQ].encode = lambda batch: []
    with pytest.raises(StoreError, match="gave 0 results for"):
        featurize(manifest, memory_folder / "a.zarr", encoders, SMALL)
    encoders = fake_encoders()
    encoders[Modality.SEQ].width = 5
    honest = encoders[Modality.SEQ].encode
    encoders[Modality.SEQ].encode = lambda batch: honest(batch)
    encoders[Modality.SEQ]._encode = fake_encoders()[Modality.SEQ]._encode
    with pytest.raises(StoreError, match="rows of 8, promised 5"):
        featurize(manifest, memory_folder / "b.zarr", encoders, SMALL)
    encoders = fake_encoders()
    honest_lengths = encoders[Modality.FUNC].lengths
    encoders[Modality.FUNC].lengths = lambda proteins: [n + (n == 8) for n in honest_lengths(proteins)]
    outcome = featurize(manifest, memory_folder / "c.zarr", encoders, SMALL)
    codes = {line.code for line in read_quarantine(memory_folder / "c.zarr" / "quarantine.jsonl")}
    assert outcome.num_rejected > 0
    assert codes == {"E_LENGTH"}


def test_another_encoder_is_refused_before_it_runs_and_the_field_is_named(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder, 8)
    featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    (memory_folder / "s.zarr" / "seal.json").unlink()
    changed = fake_encoders()
    changed[Modality.STR].layer = 2
    with pytest.raises(FingerprintError, match=r"str\.layer: 1 -> 2"):
        featurize(manifest, memory_folder / "s.zarr", changed, SMALL)
    assert not any(changed[modality].batches for modality in MODALITIES)
    with pytest.raises(FingerprintError, match='dtype: "float16" -> "float32"'):
        featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL.model_copy(update={"dtype": "float32"}))


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("shard_rows", 128), ("chunk_rows", 16), ("token_budget", 61), ("threads", 2)]
)
def test_a_begun_store_keeps_its_settings_and_names_the_one_that_differs(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any], name: str, value: int
) -> None:
    manifest = write_proteins(memory_folder, 8)
    first = featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    with pytest.raises(StoreError, match=rf"{name} \d+ -> {value}"):
        featurize(manifest, memory_folder / "s.zarr", fake_encoders(), StoreSettings(**{name: value}))
    again = featurize(manifest, memory_folder / "s.zarr", fake_encoders())
    assert (again.root, again.was_sealed, again.num_written) == (first.root, True, 0)


def test_another_manifest_is_refused_but_a_moved_or_rewritten_one_is_not(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any]
) -> None:
    manifest = write_proteins(memory_folder / "here", 8)
    featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    with pytest.raises(StoreError, match="begun from other proteins"):
        featurize(write_proteins(memory_folder / "other", 8, seed=1), memory_folder / "s.zarr", fake_encoders())
    with pytest.raises(StoreError, match="begun from other proteins"):
        featurize(write_proteins(memory_folder / "more", 9), memory_folder / "s.zarr", fake_encoders())
    moved = write_proteins(memory_folder / "there", 8)
    os.utime(moved.path, (0, 0))
    assert featurize(moved, memory_folder / "s.zarr", fake_encoders()).was_sealed


def test_a_preview_counts_and_writes_nothing(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any], tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    before = tree(memory_folder)
    encoders = fake_encoders()
    plan = preview_run(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert tree(memory_folder) == before
    assert not any(encoders[modality].batches for modality in MODALITIES)
    featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    store = FeatureStore(memory_folder / "s.zarr")
    assert (plan.header.num_units, plan.header.num_proteins) == (store.header.num_units, len(manifest))
    assert plan.header.rows == {modality: int(store.length(modality).sum()) for modality in MODALITIES}
    shards = sum(path.stat().st_size for path in store.path.rglob("*") if "/c/" in str(path))
    assert plan.needed > shards
    after = preview_run(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert (after.sealed, after.committed, after.needed) == (True, plan.header.num_units, 0)


def test_too_little_room_is_said_before_anything_is_written(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = write_proteins(memory_folder)
    monkeypatch.setattr(disk, "free_bytes", lambda store: 1000)
    encoders = fake_encoders()
    with pytest.raises(StoreError, match=r"needs [\d.]+ kB, 1\.0 kB are free; 0 of \d+ units are safe") as caught:
        featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert caught.value.code == "E_DISK"
    assert not encoders[Modality.SEQ].batches
    assert not (memory_folder / "s.zarr").exists()


def test_a_disk_that_fills_up_is_said_and_the_run_goes_on_to_the_same_bytes(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    tree: Tree,
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    whole = tree(memory_folder / "whole.zarr")
    fsync = os.fsync
    safe = set()
    for last in itertools.count(1, 17):
        store = memory_folder / f"{last}.zarr"
        calls = itertools.count(1)

        def full(descriptor: int, last: int = last, calls: Iterator[int] = calls) -> None:
            if next(calls) == last:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        try:
            featurize(manifest, store, fake_encoders(), SMALL)
            break
        except StoreError as error:
            said = f"{error.code}: {error}"
        safe.add(re.fullmatch(r"E_DISK: .* the disk is full \(.* free\); (\d+)( of \d+)? units are safe.*", said)[1])
        monkeypatch.setattr(os, "fsync", fsync)
        featurize(manifest, store, fake_encoders(), SMALL)
        assert tree(store) == whole
    assert len(safe) > 3


def test_a_folder_of_other_things_is_never_touched(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any], tree: Tree
) -> None:
    manifest = write_proteins(memory_folder, 4)
    (memory_folder / "mine").mkdir()
    (memory_folder / "mine" / "notes.tmp").write_text("keep")
    before = tree(memory_folder)
    with pytest.raises(StoreError, match=r"holds other things \(notes\.tmp\)"):
        featurize(manifest, memory_folder / "mine", fake_encoders(), SMALL)
    with pytest.raises(StoreError, match="is a file"):
        featurize(manifest, memory_folder / "m.parquet", fake_encoders(), SMALL)
    assert tree(memory_folder) == before


def test_nothing_in_a_store_tells_when_where_or_by_whom_it_was_made(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Callable[[], Any], tree: Tree
) -> None:
    for place in ("a", "b/c"):
        featurize(write_proteins(memory_folder / place), memory_folder / place / "s.zarr", fake_encoders(), SMALL)
    assert tree(memory_folder / "a" / "s.zarr") == tree(memory_folder / "b" / "c" / "s.zarr")
    names = {path.name for path in (memory_folder / "a" / "s.zarr").iterdir()}
    assert "lock" not in names
    written = b"".join(path.read_bytes() for path in (memory_folder / "a").rglob("*.json"))
    assert str(memory_folder).encode() not in written
    assert os.uname().nodename.encode() not in written
    assert json.loads((memory_folder / "a" / "s.zarr" / "plan.json").read_text())["settings"]["threads"] == 1


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"chunk_rows \(256\) must divide shard_rows \(300\)"):
        StoreSettings.parse({"shard_rows": 300}, source="the options")
    assert StoreSettings(shard_rows=100).inner_rows == 100
    assert StoreSettings().inner_rows == 256
