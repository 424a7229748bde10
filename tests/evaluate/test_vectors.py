from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from amma.evaluate.analyses.subject import AnalysisSubject, HeldOut, choose_held_out, open_analysis
from amma.evaluate.analyses.vectors import (
    Vectors,
    alone,
    batches,
    collect,
    lifted,
    lifts_of,
    projected,
    raw,
    together,
    write_vectors,
)
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.collate import collate
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model


@pytest.fixture(scope="module")
def subject(planted) -> Iterator[AnalysisSubject]:
    opened = open_analysis(planted.run, str(planted.store))
    yield opened
    opened.store.close()


@pytest.fixture(scope="module")
def held_out(subject: AnalysisSubject) -> HeldOut:
    return choose_held_out(subject, number=6)


@pytest.fixture(scope="module")
def found(subject: AnalysisSubject, held_out: HeldOut) -> dict[str, Vectors]:
    model = subject.trained.model
    views = {"raw": raw, "projected": projected(model), "together": together(model), "alone": alone(model)}
    return collect(subject.store, held_out.rows, views)


def one_by_one(subject: AnalysisSubject, held_out: HeldOut) -> Iterator[tuple[int, PackedBatch]]:
    for place, row in enumerate(held_out.rows.tolist()):
        yield place, collate(subject.store, [row], MODALITIES)


def test_raw_vectors_are_means_of_what_is_stored(
    subject: AnalysisSubject, held_out: HeldOut, found: dict[str, Vectors]
) -> None:
    for place, row in enumerate(held_out.rows):
        for modality in MODALITIES:
            expected = subject.store.read(modality, row).features.astype(np.float64).mean(axis=0)
            assert np.allclose(found["raw"][modality][place], expected, atol=1e-5)


@torch.no_grad()
def test_each_view_is_what_the_model_gives_of_each_protein_by_itself(
    subject: AnalysisSubject, held_out: HeldOut, found: dict[str, Vectors]
) -> None:
    model = subject.trained.model
    for place, batch in one_by_one(subject, held_out):
        fused = model.fuse(batch)
        for modality, tokens in batch.tokens.items():
            rows_TD = model.projections[modality](model.standardiser(modality, tokens.features_TD))
            by_itself = model.fuse(PackedBatch(batch.ids, {modality: tokens})).tokens[modality]
            expected = {
                "projected": rows_TD.mean(dim=0),
                "together": fused.tokens[modality].of(0).mean(dim=0),
                "alone": by_itself.of(0).mean(dim=0),
            }
            for name, vector_D in expected.items():
                assert np.allclose(found[name][modality][place], vector_D.numpy(), atol=1e-5), name
    assert not np.allclose(found["together"][Modality.SEQ], found["alone"][Modality.SEQ], atol=1e-3)


@torch.no_grad()
def test_a_lifted_mean_is_the_mean_of_lifted_tokens(
    subject: AnalysisSubject, held_out: HeldOut, found: dict[str, Vectors]
) -> None:
    model = subject.trained.model
    lifts = lifts_of(model)
    assert lifts is not None
    behind = lifted(model, found["together"])
    for place, batch in one_by_one(subject, held_out):
        for modality, tokens in model.fuse(batch).tokens.items():
            expected = lifts[modality](tokens.of(0)).mean(dim=0)
            assert np.allclose(behind[modality][place], expected.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_contrastive_models_vectors_are_those_of_eq_14_and_know_no_together() -> None:
    torch.manual_seed(0)
    widths = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
    config = ModelConfig.model_validate({"family": "contrastive", "width": 16, "ffn": 32, "num_heads": 2})
    model = make_model(config, widths).eval()
    lengths = torch.tensor([3, 5])
    offsets = torch.tensor([0, 3, 8])
    tokens = {
        m: Tokens(torch.randn(8, width), offsets, torch.cat([torch.arange(int(n)) for n in lengths]))
        for m, width in widths.items()
    }
    batch = PackedBatch(("a", "b"), tokens)
    found = {name: view(batch) for name, view in (("t", together(model)), ("a", alone(model)), ("p", projected(model)))}
    contrasted = model(batch)
    for modality in MODALITIES:
        assert torch.allclose(found["t"][modality], found["a"][modality], atol=1e-6)
        assert torch.allclose(found["p"][modality], contrasted.projected[modality], atol=1e-5)
    assert torch.allclose(found["t"][Modality.SEQ], contrasted.encoded_BD, atol=1e-5)
    assert lifts_of(model) is None
    with pytest.raises(ValueError, match="no map"):
        lifted(model, {m: vector.numpy() for m, vector in found["t"].items()})


def test_batches_hold_every_protein_once_within_the_budget(subject: AnalysisSubject, held_out: HeldOut) -> None:
    cost = np.sum([subject.store.length(modality)[held_out.rows] for modality in MODALITIES], axis=0)
    for budget in (1, 40, 10_000):
        cut = list(batches(subject.store, held_out.rows, MODALITIES, budget))
        assert sorted(place for batch in cut for place in batch) == list(range(len(held_out.rows)))
        assert all(len(batch) == 1 or cost[batch].sum() <= budget for batch in cut)


def test_vectors_can_be_read_back(held_out: HeldOut, found: dict[str, Vectors], tmp_path: Path) -> None:
    write_vectors(tmp_path / "vectors.parquet", held_out.ids, found)
    rows = pq.read_table(tmp_path / "vectors.parquet").to_pylist()
    assert len(rows) == 4 * 3 * len(held_out.ids)
    for row in rows:
        expected = found[row["kind"]][Modality(row["modality"])][held_out.ids.index(row["id"])]
        assert np.array_equal(np.array(row["vector"], dtype=np.float32), expected)
