from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.collate import collate
from amma.train.data.streams import NUMBERS, STREAMS, Draw, Portion
from amma.train.data.training_set import VALIDATION_EPOCH, prepare_training_set
from amma.train.model.batch import PackedBatch, pack
from amma.train.model.masking import draw_batch, draw_visible, generator_for
from amma.train.model.reconstruction import Reconstruction
from amma.train.run.checkpoint import Checkpoints, load_model
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.validation import donors, with_contents_of


@pytest.mark.parametrize("batch_size", [1, 4])
def test_validation_is_one_mean_over_all_held_out_tokens_under_fixed_masks(
    batch_size: int, config: Callable[..., RunConfig], store: Path, tmp_path: Path
) -> None:
    settings = config(epochs=1, validation_fraction=0.3, mix={"batch_size": batch_size})
    pretrain(settings, tmp_path / "run")
    logged = next(line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "epoch")["validation"]
    model = load_model(Checkpoints(tmp_path / "run").newest_first()[0]).model
    objective = Reconstruction()
    held_out = [draw.protein for portion in prepare_training_set(settings).validation for draw in portion.draws]
    total = dict.fromkeys(MODALITIES, 0.0)
    count = dict.fromkeys(MODALITIES, 0)
    hidden = {who: dict.fromkeys(MODALITIES, 0.0) for who in ("model", "mean")}
    with FeatureStore(store) as features, torch.no_grad():
        kinds = features.kinds()
        for name, modalities in STREAMS.items():
            for place, row in enumerate(row for row in sorted(held_out) if kinds[row] == name):
                batch = collate(features, [row], modalities)
                rng = generator_for(settings.seed, NUMBERS[name], VALIDATION_EPOCH, place)
                visible = draw_batch([rng], batch, settings.mask).visible
                ours, theirs = objective(model, batch, visible), objective.of_the_mean(model, batch, visible)
                for modality in modalities:
                    total[modality] += float(ours.trained[modality].total)
                    count[modality] += ours.trained[modality].count
                    hidden["model"][modality] += float(ours.hidden[modality].total)
                    hidden["mean"][modality] += float(theirs.hidden[modality].total)
    assert len(held_out) >= 8
    assert logged["loss"] == pytest.approx(sum(total[m] / count[m] for m in MODALITIES), rel=1e-5)
    for modality in MODALITIES:
        expected = hidden["model"][modality] / hidden["mean"][modality]
        assert logged["error"][str(modality)]["hidden"] == pytest.approx(expected, rel=1e-5)


def proteins_of(lengths: list[int], first: float) -> PackedBatch:
    """Every row holds one number: 100 × protein + row, from `first` on; negative in structures, with text of two."""
    rows: dict[Modality, list[tuple[torch.Tensor, torch.Tensor]]] = {modality: [] for modality in MODALITIES}
    for protein, length in enumerate(lengths):
        content = first + 100 * protein + torch.arange(length, dtype=torch.float32)[:, None]
        rows[Modality.SEQ].append((content, torch.arange(length)))
        rows[Modality.STR].append((-content[1:], torch.arange(1, length)))
        rows[Modality.FUNC].append((content[:2] + 0.5, torch.arange(2)))
    return pack(tuple(f"P{number}" for number in range(len(lengths))), rows)


def test_another_proteins_contents_come_in_the_own_layout() -> None:
    own, donor = proteins_of([3, 5], first=0), proteins_of([4, 2], first=1000)
    swapped = with_contents_of(donor, own, Modality.FUNC)
    assert swapped.ids == own.ids
    for modality in MODALITIES:
        assert torch.equal(swapped.tokens[modality].offsets, own.tokens[modality].offsets)
        assert torch.equal(swapped.tokens[modality].position_T, own.tokens[modality].position_T)
    assert torch.equal(swapped.tokens[Modality.FUNC].features_TD, own.tokens[Modality.FUNC].features_TD)
    sequence = swapped.tokens[Modality.SEQ].features_TD[:, 0].tolist()
    assert sequence == [1000, 1001, 1002, 1100, 1101, 1100, 1101, 1100]
    assert swapped.tokens[Modality.STR].features_TD[:, 0].tolist() == [-1001, -1002, -1101, -1101, -1101, -1101]


def test_every_validation_protein_gets_the_next_of_its_stream_and_never_itself() -> None:
    draws = [Draw(protein, -1, protein) for protein in range(6)]
    validation = [
        Portion("triplet", 1.0, tuple(draws[:2])),
        Portion("triplet", 1.0, tuple(draws[2:3])),
        Portion("seq-str", 1.0, tuple(draws[3:5])),
        Portion("seq-func", 1.0, tuple(draws[5:])),
    ]
    given = donors(validation)
    proteins = [None if portion is None else [draw.protein for draw in portion.draws] for portion in given]
    assert proteins == [[1, 2], [0], [4, 3], None]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_controls_are_the_same_model_on_other_inputs(
    batch_size: int, config: Callable[..., RunConfig], store: Path, tmp_path: Path
) -> None:
    settings = config(epochs=1, validation_fraction=0.4, mix={"batch_size": batch_size})
    pretrain(settings, tmp_path / "run")
    logged = next(line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "epoch")["validation"]
    loaded = load_model(Checkpoints(tmp_path / "run").newest_first()[0])
    assert loaded.state["metrics"]["validation"] == logged
    model, objective = loaded.model, Reconstruction()
    held_out = sorted(d.protein for portion in prepare_training_set(settings).validation for d in portion.draws)
    sums = {name: np.zeros(2) for name in ("another", "own", "whole another")}
    with FeatureStore(store) as features, torch.no_grad():
        kinds = features.kinds()
        for name in ("triplet", "seq-func"):
            rows = [row for row in held_out if kinds[row] == name]
            for place, row in enumerate(rows):
                batch = collate(features, [row], STREAMS[name])
                donor = collate(features, [rows[(place + 1) % len(rows)]], STREAMS[name])
                swapped = with_contents_of(donor, batch, Modality.FUNC)
                counters = (settings.seed, NUMBERS[name], VALIDATION_EPOCH, place)
                visible = draw_batch([generator_for(*counters)], batch, settings.mask).visible
                lengths = {m: len(t.position_T) for m, t in batch.tokens.items() if m is not Modality.FUNC}
                rng = generator_for(*counters, batch.modalities.index(Modality.FUNC))
                drawn = draw_visible(rng, lengths, settings.mask)
                whole = {m: torch.from_numpy(mask) for m, mask in drawn.items()}
                whole[Modality.FUNC] = torch.zeros(len(batch.tokens[Modality.FUNC].position_T), dtype=torch.bool)
                for key, given, masks in (
                    ("another", swapped, visible),
                    ("own", batch, whole),
                    ("whole another", swapped, whole),
                ):
                    theirs = objective.of_the_mean(model, batch, masks).hidden[Modality.FUNC]
                    ours = objective(model, given, masks).hidden[Modality.FUNC]
                    sums[key] += float(ours.total), float(theirs.total)
            assert len(rows) > 1
    relative = {name: ours / mean for name, (ours, mean) in sums.items()}
    controls = logged["controls"]
    assert controls["another_protein"]["func"]["hidden"] == pytest.approx(relative["another"], rel=1e-5)
    whole_errors = {"own": relative["own"], "another_protein": relative["whole another"]}
    assert controls["hidden_whole"]["func"] == pytest.approx(whole_errors, rel=1e-5)
    assert set(controls["position"]) == {"seq", "str", "func"}
