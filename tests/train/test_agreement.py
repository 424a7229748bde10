from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.collate import collate
from amma.train.data.streams import STREAMS, Draw, Portion
from amma.train.data.training_set import prepare_training_set
from amma.train.model.alignment import debiased_cka, effective_rank, recall_at, spread
from amma.train.model.amma import AMMA
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.config import ModelConfig
from amma.train.run.agreement import Agreement, choose_batches, describe, vectors_alone
from amma.train.run.checkpoint import Checkpoints, load_model
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain


def portions(*sizes: tuple[str, int]) -> list[Portion]:
    draws = tuple(Draw(protein, -1, protein) for protein in range(100))
    return [Portion(stream, 1.0, draws[:size]) for stream, size in sizes]  # type: ignore[arg-type]


def test_what_is_watched_is_bounded_drawn_by_seed_and_triplets_come_first() -> None:
    validation = portions(*[("seq-str", 4)] * 20, *[("triplet", 4)] * 20, *[("seq-func", 4)] * 20)
    for seed in range(3):
        chosen = choose_batches(validation, seed=seed, most=40)
        assert len(chosen) == 10
        assert {validation[number].stream for number in chosen} == {"triplet"}
        assert choose_batches(validation, seed=seed, most=40) == chosen
    assert len({choose_batches(validation, seed=seed, most=40) for seed in range(5)}) > 1
    beyond = choose_batches(validation, seed=0, most=90)
    assert {number for number, portion in enumerate(validation) if portion.stream == "triplet"} < beyond
    assert sum(len(validation[number].draws) for number in beyond) == 88
    assert choose_batches(validation, seed=0) == frozenset(range(60))


def test_a_modality_is_encoded_without_the_others(store: Path, small: ModelConfig, widths: dict[Modality, int]) -> None:
    torch.manual_seed(1)
    model = AMMA(small, widths).eval()
    with FeatureStore(store) as features:
        rows = [row for row, kind in enumerate(features.kinds()) if kind == "triplet"][:4]
        batch = collate(features, rows, MODALITIES)
    other = {m: Tokens(-tokens.features_TD, tokens.offsets, tokens.position_T) for m, tokens in batch.tokens.items()}
    vectors = vectors_alone(model, batch)
    for modality in MODALITIES:
        swapped = PackedBatch(batch.ids, {**other, modality: batch.tokens[modality]})
        assert torch.equal(vectors_alone(model, swapped)[modality], vectors[modality])
        with torch.no_grad():
            alone = model.fuse(PackedBatch(batch.ids, {modality: batch.tokens[modality]})).tokens[modality]
        expected = torch.stack([alone.of(protein).mean(dim=0) for protein in range(4)])
        assert torch.allclose(vectors[modality], expected, atol=1e-6)


def test_the_log_says_how_held_out_vectors_agree(
    config: Callable[..., RunConfig], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(epochs=1, validation_fraction=0.5, mix={"batch_size": 3})
    pretrain(settings, tmp_path / "run")
    (line,) = (line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "epoch")
    logged = line["validation"]["vectors"]
    loaded = load_model(Checkpoints(tmp_path / "run").newest_first()[0])
    assert loaded.state["metrics"]["validation"]["vectors"] == logged
    held_out = [draw.protein for portion in prepare_training_set(settings).validation for draw in portion.draws]
    vector: dict[Modality, dict[int, np.ndarray]] = {modality: {} for modality in MODALITIES}
    with FeatureStore(store) as features:
        kinds = features.kinds()
        for row in held_out:
            for modality, vector_1D in vectors_alone(
                loaded.model, collate(features, [row], STREAMS[kinds[row]])
            ).items():
                vector[modality][row] = vector_1D[0].numpy()
    for a, b in ((Modality.SEQ, Modality.STR), (Modality.SEQ, Modality.FUNC), (Modality.STR, Modality.FUNC)):
        both = [row for row in held_out if row in vector[a] and row in vector[b]]
        ours, theirs = (np.stack([vector[m][row] for row in both]) for m in (a, b))
        said = logged["pairs"][f"{a}-{b}"]
        assert said["proteins"] == len(both) >= 4
        assert said["cka"] == pytest.approx(debiased_cka(ours, theirs), abs=1e-4)
        assert abs(said["cka_shuffled"]["mean"]) < 1
        for way, expected in (
            (f"{a}-{b}", recall_at([1, 5], ours, theirs)),
            (f"{b}-{a}", recall_at([1, 5], theirs, ours)),
        ):
            assert {k: said["recall"][way][str(k)] for k in (1, 5)} == pytest.approx(expected)
        assert said["chance"]["1"] == pytest.approx(1 / len(both))
        assert said["recall"][f"{a}-{b}"]["10"] >= said["recall"][f"{a}-{b}"]["5"]
    for modality in MODALITIES:
        rows = np.stack(list(vector[modality].values()))
        assert logged["effective_rank"][str(modality)] == pytest.approx(effective_rank(rows), rel=1e-3)
        assert logged["spread"][str(modality)] == pytest.approx(spread(rows), rel=1e-3)
    assert f"effective rank seq {logged['effective_rank']['seq']:.1f}" in capsys.readouterr().err


def test_collapsed_and_broken_vectors_are_said_without_an_error(
    small: ModelConfig, widths: dict[Modality, int]
) -> None:
    torch.manual_seed(2)
    model = AMMA(small, widths).eval()
    features = {m: torch.ones(6, width) for m, width in widths.items()}  # every protein is the same
    offsets, positions = torch.arange(0, 7, 1), torch.zeros(6, dtype=torch.int64)
    batch = PackedBatch(tuple("ABCDEF"), {m: Tokens(features[m], offsets, positions) for m in MODALITIES})
    agreement = Agreement(frozenset({0}), seed=0)
    agreement.add(0, model, batch)
    agreement.add(1, model, batch)  # was not chosen
    figures = agreement.figures()
    assert figures["effective_rank"] == {"seq": 0, "str": 0, "func": 0}
    assert figures["pairs"]["seq-str"]["proteins"] == 6
    assert figures["pairs"]["seq-str"]["recall"]["seq-str"]["1"] == pytest.approx(1 / 6)
    assert "effective rank seq 0.0" in describe(figures)
    broken = Agreement(frozenset({0}), seed=0)
    with torch.no_grad():
        model.projections[Modality.SEQ].first.weight.fill_(torch.nan)
    broken.add(0, model, batch)
    assert broken.figures() == {}
    assert describe({}) == ""
