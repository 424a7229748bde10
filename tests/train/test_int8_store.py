"""Training on the int8 store of a float16 one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.recode import recode_store
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import FingerprintError
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.corpus import Corpus
from amma.train.data.packing import Packer
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain


@pytest.fixture
def int8(store: Path, tmp_path: Path) -> Path:
    with FeatureStore(store) as source:
        recode_store(source, tmp_path / "int8.zarr")
    return tmp_path / "int8.zarr"


def triplets(store: FeatureStore) -> list[int]:
    return [row for row, kind in enumerate(store.kinds()) if kind == "triplet"]


@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_batches_hold_the_numbers_and_not_the_codes(int8: Path, dtype: torch.dtype | None) -> None:
    with FeatureStore(int8) as opened:
        rows = triplets(opened)[:5]
        batch = Packer(dtype=dtype)(opened, rows, MODALITIES)
        for modality in MODALITIES:
            assert batch.tokens[modality].features_TD.dtype is torch.float32
            expected = np.concatenate([opened.read(modality, row).features for row in rows])
            np.testing.assert_allclose(batch.tokens[modality].features_TD.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_losses_are_near_those_of_the_numbers_it_was_made_of(
    store: Path, int8: Path, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    losses = {}
    for name, place in (("float16", store), ("int8", int8)):
        pretrain(config(stores=(place,), epochs=2), tmp_path / name)
        lines = [line for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] == "step"]
        losses[name] = np.array([line["loss"] for line in lines])
    assert len(losses["int8"]) > 10
    np.testing.assert_allclose(losses["int8"], losses["float16"], rtol=0.005)
    assert (losses["int8"] != losses["float16"]).any()
    recorded = json.loads((tmp_path / "int8" / "config.json").read_text())["inputs"]["fingerprint"]
    assert recorded["dtype"] == "int8"
    assert recorded["int8"]["from"] == "float16"


def test_it_is_another_store_than_the_one_it_was_made_of(store: Path, int8: Path) -> None:
    with pytest.raises(FingerprintError, match=r'dtype: "float16" -> "int8"; int8\.from: \(absent\)'):
        Corpus.open([store, int8])


@pytest.mark.gpu
def test_codes_become_numbers_on_the_device(int8: Path) -> None:
    with FeatureStore(int8) as opened:
        rows = triplets(opened)
        here, there = (Packer(device)(opened, rows, MODALITIES) for device in ("cpu", "cuda"))
        for modality in MODALITIES:
            assert there.tokens[modality].features_TD.is_cuda
            assert there.tokens[modality].features_TD.dtype is torch.float32
            torch.testing.assert_close(there.tokens[modality].features_TD.cpu(), here.tokens[modality].features_TD)
            torch.testing.assert_close(there.tokens[modality].position_T.cpu(), here.tokens[modality].position_T)
        copied: list[torch.dtype] = []
        to = torch.Tensor.to

        def noted(self: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
            if arguments and arguments[0] == torch.device("cuda") and self.dim() == 2:
                copied.append(self.dtype)
            return to(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "to", noted)
            Packer("cuda")(opened, rows, [Modality.SEQ])
        assert copied == [torch.int8]
