import numpy as np
import pytest
import torch

from amma.evaluate.config import Protocol, Rates
from amma.evaluate.tasks.task import INPUTS, read_task
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.finetune import tune
from amma.evaluate.tuning.pooled import PooledInputs
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import Modality
from amma.train.run.checkpoint import load_model

CPU = torch.device("cpu")


def test_pooled_inputs_are_the_means_of_standardised_rows_side_by_side_and_zeros_where_absent(planted) -> None:
    standardiser = load_model(planted.run).model.standardiser
    with FeatureStore(planted.store) as store:
        asked = np.array([store.row_of(name) for name in ("P031", "P007", "P000", "P012")])
        splits = [np.arange(5, 40), np.sort(asked)]
        vectors = PooledInputs(store, standardiser, splits, device=CPU).vectors(asked)
        for row, protein in zip(vectors, asked, strict=True):
            start = 0
            for modality in INPUTS:
                part = row[start : start + store.widths[modality]]
                start += store.widths[modality]
                if store.length(modality)[protein]:
                    features = torch.from_numpy(store.read(modality, int(protein)).features)
                    torch.testing.assert_close(part, standardiser(modality, features).mean(0), atol=1e-5, rtol=1e-5)
                else:
                    assert not part.any()
        assert (store.length(Modality.STR)[asked] == 0).tolist() == [False, True, True, False]
        assert vectors.shape == (4, start)


def test_a_head_learns_on_them_and_there_is_nothing_else_to_tune(planted) -> None:
    standardiser = load_model(planted.run).model.standardiser
    with FeatureStore(planted.store) as store:
        task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
        inputs = PooledInputs(store, standardiser, [task.train.rows, task.valid.rows], device=CPU)
        config = planted.config(max_epochs=4).finetune
        assert config.protocol is Protocol.FUSION
        fit = tune(inputs, Bench(store, task, config.head_alone, CPU), Rates(None, 3e-3), 0)
        assert fit.model is inputs
        assert fit.best.valid_fmax > fit.epochs[0].valid_fmax
        with pytest.raises(ValueError, match="nothing to tune"):
            tune(inputs, Bench(store, task, config, CPU), Rates(1e-3, 3e-3), 0)
