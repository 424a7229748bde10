"""Representations of whole stores: whose they are, that they depend on nothing else, and that no kill changes them."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from amma.featurize.store.filling import fill_store
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.manifests.errors import FingerprintError, InputError, StoreError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.table import MODALITIES, Modality
from amma.train.cli import main
from amma.train.data.collate import collate
from amma.train.data.corpus import Corpus
from amma.train.embed import EmbeddingOrigin
from amma.train.export import export_model
from amma.train.model.config import WITHOUT_EFFECT, Family
from amma.train.run.checkpoint import LoadedModel, load_model
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

Make = Callable[..., RunConfig]
Tree = Callable[[Path], dict[str, str]]
EXACT = StoreSettings(shard_rows=256, chunk_rows=64, dtype="float32", threads=1)
SEQ, STR, FUNC = MODALITIES


def of_family(config: Make, family: Family) -> RunConfig:
    """One step of a member of the family, without settings that it does not use."""
    unused, settings = WITHOUT_EFFECT[family], config(max_steps=1)
    sections: dict[str, Any] = {
        name: getattr(settings, name).model_dump(exclude=set(unused.get(name, ()))) for name in ("model", "mask")
    }
    sections["model"]["family"] = family
    return config(max_steps=1, **sections)


@pytest.fixture(scope="module")
def run(config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of training, so that no weight is as it was drawn; read-only."""
    folder = tmp_path_factory.mktemp("embed") / "run"
    pretrain(config(max_steps=1), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(run: Path) -> LoadedModel:
    return load_model(run)


def embed(loaded: LoadedModel, stores: list[Path], out: Path, settings: StoreSettings = EXACT, **options: Any) -> Any:
    corpus = Corpus.open(stores)
    try:
        return fill_store(out, EmbeddingOrigin(loaded, corpus, **options), settings)
    finally:
        corpus.close()


def alone(loaded: LoadedModel, store: FeatureStore, protein: int, shown: tuple[Modality, ...] = MODALITIES) -> Any:
    """The fused tokens of one protein in a batch of its own."""
    has = tuple(modality for modality in shown if store.length(modality)[protein])
    with torch.no_grad():
        return loaded.model.fuse(collate(store, [protein], has))


@pytest.fixture(scope="module")
def embedded(loaded: LoadedModel, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "out.zarr"
    embed(loaded, [store], out)
    return out


def test_every_protein_has_what_the_model_gives_for_it_alone(loaded: LoadedModel, store: Path, embedded: Path) -> None:
    with FeatureStore(store) as before, FeatureStore(embedded) as after:
        assert list(after.ids) == list(before.ids)
        assert list(after.sequences()) == list(before.sequences())
        assert after.kinds() == before.kinds()
        assert after.random_weights
        for protein in range(after.num_proteins):
            fused = alone(loaded, before, protein)
            for modality, tokens in fused.tokens.items():
                rows, source = after.read(modality, protein), before.read(modality, protein)
                np.testing.assert_allclose(rows.features, tokens.features_TD.numpy(), rtol=0, atol=1e-6)
                if source.index is not None:
                    assert rows.index.tolist() == source.index.tolist()
                if modality is not STR:
                    mean = rows.features.mean(axis=0, dtype=np.float64)
                    np.testing.assert_allclose(after.cls(modality, protein), mean, rtol=0, atol=1e-6)
    assert not verify_store(embedded).findings


@pytest.mark.parametrize("budget", [1, 100, 10**6])
def test_a_protein_is_represented_the_same_in_any_company(
    budget: int, loaded: LoadedModel, store: Path, embedded: Path, memory_folder: Path
) -> None:
    embed(loaded, [store], memory_folder / "out.zarr", EXACT.model_copy(update={"token_budget": budget}))
    with FeatureStore(embedded) as one, FeatureStore(memory_folder / "out.zarr") as other:
        for modality in MODALITIES:
            for protein in np.flatnonzero(one.present(modality)).tolist():
                rows = [each.read(modality, protein).features for each in (one, other)]
                np.testing.assert_allclose(*rows, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", get_args(Family))
def test_every_member_of_the_family_is_embedded_from_its_run_as_from_its_export(
    family: Family, store: Path, config: Make, memory_folder: Path, tree: Tree
) -> None:
    pretrain(of_family(config, family), memory_folder / "run")
    export_model(memory_folder / "run", memory_folder / "model")
    for name in ("run", "model"):
        embed(load_model(memory_folder / name), [store], memory_folder / f"{name}.zarr")
    assert tree(memory_folder / "run.zarr") == tree(memory_folder / "model.zarr")
    loaded = load_model(memory_folder / "model")
    with FeatureStore(store) as before, FeatureStore(memory_folder / "model.zarr") as after:
        for protein in (0, 7, 30):
            for modality, tokens in alone(loaded, before, protein).tokens.items():
                rows = after.read(modality, protein).features
                np.testing.assert_allclose(rows, tokens.features_TD.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("trials", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_operation_and_run_again_the_store_is_the_same_to_the_byte(
    loaded: LoadedModel, store: Path, memory_folder: Path, tree: Tree, children: Any, trials: int
) -> None:
    settings = EXACT.model_copy(update={"token_budget": 200})
    embed(loaded, [store], memory_folder / "whole.zarr", settings)
    with FeatureStore(memory_folder / "whole.zarr") as whole:
        assert whole.header.num_units > 2
    killed = 0
    out = memory_folder / "killed" / "out.zarr"
    for operation in random.Random(3).sample(range(1, 160), trials):
        ended = children.run_to_operation(operation, lambda: embed(loaded, [store], out, settings), below=out.parent)
        killed += ended == children.KILLED
        embed(loaded, [store], out, settings)
        assert tree(out) == tree(memory_folder / "whole.zarr")
        shutil.rmtree(out.parent)
    assert killed > trials // 2


def test_several_stores_become_one_in_their_order(
    loaded: LoadedModel, store: Path, make_store: Callable[..., Path], embedded: Path, memory_folder: Path
) -> None:
    other = make_store(memory_folder / "other.zarr", {"triplet": 5, "seq": 2}, seed=5, prefix="Q")
    embed(loaded, [store, other], memory_folder / "both.zarr")
    embed(loaded, [other], memory_folder / "alone.zarr")
    paths = (memory_folder / "both.zarr", embedded, memory_folder / "alone.zarr")
    with FeatureStore(paths[0]) as both, FeatureStore(paths[1]) as first, FeatureStore(paths[2]) as second:
        assert list(both.ids) == [*first.ids, *second.ids]
        for name, source in (("P3", first), ("Q0", second), ("Q6", second)):
            rows = [each.read(SEQ, each.row_of(name)).features for each in (both, source)]
            np.testing.assert_allclose(*rows, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="more than one store"):
        embed(loaded, [store, store], memory_folder / "twice.zarr")


def test_a_protein_is_shown_with_the_modalities_that_were_asked_for(
    loaded: LoadedModel, store: Path, memory_folder: Path
) -> None:
    outcome = embed(loaded, [store], memory_folder / "out.zarr", modalities=(STR, FUNC))
    with FeatureStore(store) as before, FeatureStore(memory_folder / "out.zarr") as after:
        nothing = [before.ids[p] for p, kind in enumerate(before.kinds()) if kind == "seq"]
        rejected = read_quarantine(memory_folder / "out.zarr" / "quarantine.jsonl")
        assert sorted(each.id for each in rejected) == sorted(nothing)
        assert {each.code for each in rejected} == {"E_ABSENT"}
        assert "no str or func features" in rejected[0].reason
        assert outcome.num_rejected == len(nothing) == 2
        assert not after.present(SEQ).any()
        protein = before.row_of("P2")
        fused = alone(loaded, before, protein, (STR, FUNC))
        whole = alone(loaded, before, protein)
        rows = after.read(STR, protein).features
        np.testing.assert_allclose(rows, fused.tokens[STR].features_TD.numpy(), rtol=0, atol=1e-6)
        assert np.abs(rows - whole.tokens[STR].features_TD.numpy()).max() > 1e-3
    assert not verify_store(memory_folder / "out.zarr").findings


def test_other_encoders_are_refused_before_anything_is_written(
    loaded: LoadedModel, make_store: Callable[..., Path], fingerprint: dict[str, Any], memory_folder: Path
) -> None:
    other = make_store(
        memory_folder / "o.zarr", {"triplet": 3}, fingerprint={**fingerprint, "seq": {"name": "another"}}
    )
    with pytest.raises(FingerprintError, match=r"seq\.name"):
        embed(loaded, [other], memory_folder / "out.zarr")
    assert not (memory_folder / "out.zarr").exists()


def test_what_was_begun_is_not_mixed_with_another_model_store_or_choice(
    loaded: LoadedModel, store: Path, embedded: Path, config: Make, make_store: Callable[..., Path], memory_folder: Path
) -> None:
    pretrain(config(max_steps=1, seed=1), memory_folder / "run")
    another = load_model(memory_folder / "run")
    shutil.copytree(embedded, memory_folder / "out.zarr")
    with pytest.raises(FingerprintError, match=r"model\.weights"):
        embed(another, [store], memory_folder / "out.zarr")
    with pytest.raises(FingerprintError, match="modalities"):
        embed(loaded, [store], memory_folder / "out.zarr", modalities=(SEQ,))
    with pytest.raises(FingerprintError, match="precision"):
        embed(loaded, [store], memory_folder / "out.zarr", precision="bf16")
    other = make_store(memory_folder / "other.zarr", {"triplet": 3}, seed=5, prefix="Q")
    with pytest.raises(StoreError, match="other proteins"):
        embed(loaded, [other], memory_folder / "out.zarr")
    embed(another, [store], memory_folder / "another.zarr")
    with pytest.raises(FingerprintError, match=r"model\.weights"):
        Corpus.open([embedded, memory_folder / "another.zarr"])
    with pytest.raises(FingerprintError, match="inputs"):
        Corpus.open([store, embedded])


def test_with_a_global_token_the_vector_of_a_protein_is_what_the_encoder_gives_at_it(
    store: Path, config: Make, memory_folder: Path
) -> None:
    model = {**config().model.model_dump(), "global_token": True}
    pretrain(config(max_steps=1, model=model), memory_folder / "run")
    loaded = load_model(memory_folder / "run")
    embed(loaded, [store], memory_folder / "out.zarr")
    with FeatureStore(store) as before, FeatureStore(memory_folder / "out.zarr") as after:
        fused = alone(loaded, before, 4)
        np.testing.assert_allclose(after.cls(SEQ, 4), fused.global_BD[0].numpy(), rtol=0, atol=1e-6)
        assert after.fingerprint["pooled"] == "global token"


def test_a_batch_that_memory_does_not_hold_is_halved_and_what_fails_alone_is_named(
    run: Path, store: Path, embedded: Path, memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(run)
    fuse = loaded.model.fuse

    def short_of_memory(batch: Any) -> Any:
        if batch.num_proteins > 3 or "P5" in batch.ids:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return fuse(batch)

    monkeypatch.setattr(loaded.model, "fuse", short_of_memory)
    outcome = embed(loaded, [store], memory_folder / "out.zarr")
    (rejected,) = read_quarantine(memory_folder / "out.zarr" / "quarantine.jsonl")
    assert (rejected.id, rejected.code, outcome.num_rejected) == ("P5", "E_OOM", 1)
    with FeatureStore(embedded) as whole, FeatureStore(memory_folder / "out.zarr") as after:
        lost = after.row_of("P5")
        assert not any(after.present(modality)[lost] for modality in MODALITIES)
        for protein in set(range(whole.num_proteins)) - {lost}:
            rows = [each.read(SEQ, protein).features for each in (whole, after)]
            np.testing.assert_allclose(*rows, rtol=0, atol=1e-6)
    splits = [json.loads(path.read_text()).get("splits") for path in (memory_folder / "out.zarr/ledger").iterdir()]
    assert any(splits)


def test_a_failure_that_is_not_of_memory_ends_the_run(
    run: Path, store: Path, memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(run)

    def broken(batch: Any) -> Any:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(loaded.model, "fuse", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        embed(loaded, [store], memory_folder / "out.zarr")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["amma-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


CPU = ["--device", "cpu", "--threads", "1"]


def test_the_command_tells_sizes_first_and_writes_vectors_that_other_tools_read(
    run: Path, store: Path, memory_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, vectors = memory_folder / "out.zarr", memory_folder / "vectors.parquet"
    asked = ["embed", run, store, out, *CPU, "--pooled", vectors, "--json"]
    assert command(monkeypatch, *asked, "--dry-run") == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["proteins"], planned["committed"]) == (42, 0)
    assert planned["bytes_needed"] > 0
    assert not out.exists()
    assert command(monkeypatch, *asked) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name: shown[name] for name in ("kinds", "rows")} == {name: planned[name] for name in ("kinds", "rows")}
    assert shown["random_encoders"] is True
    table = pq.read_table(vectors)
    assert table.num_rows == 42
    with FeatureStore(out) as stored:
        assert stored.dtype == np.float16
        place = table.column("id").to_pylist().index("P1")
        mean = stored.read(SEQ, stored.row_of("P1")).features.mean(axis=0, dtype=np.float32)
        assert np.array_equal(table.column("seq")[place].as_py(), mean)
        group = zarr.open_group(out, mode="r")
        row = stored.row_of("P1")
        begin, rows = int(group["seq/start"][row]), int(group["seq/length"][row])
        assert np.array_equal(group["seq/features"][begin : begin + rows], stored.read(SEQ, row).features)
    assert command(monkeypatch, *asked) == 0
    assert "was sealed already" in (told := capsys.readouterr().err)
    assert "is left as it is" in told
    shutil.rmtree(out)
    assert command(monkeypatch, *asked) == 2
    assert not out.exists()


def test_damage_is_found_and_made_again_to_the_byte(
    run: Path,
    store: Path,
    memory_folder: Path,
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = memory_folder / "out.zarr"
    assert command(monkeypatch, "embed", run, store, out, *CPU) == 0
    before = tree(out)
    shard = out / "seq/features/c/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    (out / "ledger" / "00000001.json").unlink()
    assert verify_store(out).findings
    assert command(monkeypatch, "embed", run, store, out, *CPU, "--repair", "--dry-run") == 1
    assert command(monkeypatch, "embed", run, store, out, *CPU, "--repair") == 0
    assert "as they were" in capsys.readouterr().out
    assert tree(out) == before


def test_parts_on_several_devices_are_the_store_of_one(
    run: Path, store: Path, memory_folder: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amma.featurize.workers.part import seal_parts

    assert command(monkeypatch, "embed", run, store, memory_folder / "one.zarr", *CPU) == 0
    for part in ("1/2", "0/2"):
        assert command(monkeypatch, "embed", run, store, memory_folder / "parts.zarr", *CPU, "--part", part) == 0
    seal_parts(memory_folder / "parts.zarr")
    assert tree(memory_folder / "parts.zarr") == tree(memory_folder / "one.zarr")


def test_what_is_left_out_is_counted_and_strict_says_so_in_the_exit_code(
    run: Path, store: Path, memory_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["embed", run, store, memory_folder / "out.zarr", *CPU, "--modality", "func", "--strict", "--json"]
    assert command(monkeypatch, *asked) == 3
    assert json.loads(capsys.readouterr().out)["quarantined"] == 12
    inside = memory_folder / "out.zarr" / "v.parquet"
    assert command(monkeypatch, "embed", run, store, memory_folder / "out.zarr", "--pooled", inside) == 2
    assert not inside.exists()
    assert command(monkeypatch, "embed", run, store) == 2
    assert "CHECKPOINT STORE [STORE...] OUT" in capsys.readouterr().err
