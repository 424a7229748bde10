from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES
from amma.train.data.collate import collate
from amma.train.data.streams import NUMBERS, STREAMS
from amma.train.data.training_set import VALIDATION_EPOCH, prepare_training_set
from amma.train.model.masking import draw_batch, generator_for
from amma.train.model.objective import Reconstruction
from amma.train.run.checkpoint import Checkpoints, load_model
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain


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
