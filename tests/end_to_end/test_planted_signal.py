"""Proteins whose modalities share latents: a model must find what is there, and must not find what is not.

A protein has eight latents. Its sequence shows the first four and its structure the last four, in every residue and
under noise; its function text shows all eight. So its function follows from sequence and structure together, and from
neither alone; and nothing can rebuild it that does not look at them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import Modality
from amma.train.model.config import Family
from amma.train.run.checkpoint import describe_checkpoint
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

pytestmark = pytest.mark.slow

NUM_PROTEINS = 600
WIDTHS = {Modality.SEQ: 16, Modality.STR: 24, Modality.FUNC: 12}
SHOWN = {Modality.SEQ: slice(0, 4), Modality.STR: slice(4, 8), Modality.FUNC: slice(0, 8)}
NOISE = 0.3
LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(20)
    loadings = {m: rng.normal(size=(np.arange(8)[SHOWN[m]].size, width)) / 2 for m, width in WIDTHS.items()}

    def rows(modality: Modality, latents: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
        shown = latents[SHOWN[modality]] @ loadings[modality]
        noisy: np.ndarray[Any, Any] = shown + NOISE * rng.normal(size=(count, WIDTHS[modality]))
        return noisy.astype(np.float32)

    proteins = []
    for number in range(NUM_PROTEINS):
        latents, length = rng.normal(size=8), int(rng.integers(16, 25))
        features = {
            Modality.SEQ: Encoded(rows(Modality.SEQ, latents, length), None, np.ones(16, np.float32)),
            Modality.STR: Encoded(rows(Modality.STR, latents, length), np.arange(length, dtype=np.int32)),
            Modality.FUNC: Encoded(rows(Modality.FUNC, latents, 10), np.zeros(10, np.int32), np.ones(12, np.float32)),
        }
        proteins.append(ProteinArrays(f"P{number}", "".join(rng.choice(LETTERS, length)), features))
    path = tmp_path_factory.mktemp("planted") / "planted.zarr"
    fingerprint = {str(modality): {"name": "planted"} for modality in WIDTHS}
    write_store(path, proteins, widths=WIDTHS, fingerprint=fingerprint, random_weights=True)
    return path


def function_hidden_whole(store: Path, run_dir: Path, family: Family) -> dict[str, float]:
    """Errors of a function that is hidden whole, relative to predicting the mean, on the best checkpoint's proteins."""
    model = {"family": family, "width": 32, "ffn": 64, "num_fusion_layers": 2, "num_heads": 4}
    decoders = {"decoder_width": 32, "decoder_ffn": 64, "num_decoder_layers": 1, "num_decoder_heads": 4}
    values = {
        "stores": (store,),
        "model": {**model, **decoders},
        "mask": {"visible_tokens": 24, "modality_dropout": 0.3},
        "optimizer": {"lr": 2e-3, "lr_step_epochs": 6},
        "mix": {"batch_size": 8},
        "epochs": 12,
        "validation_fraction": 0.1,
        "checkpoint_every": 10**6,
        "threads": 1,
        "device": "cpu",
    }
    pretrain(RunConfig.parse(values, source="test"), run_dir)
    errors: dict[str, float] = describe_checkpoint(run_dir)["metrics"]["validation"]["controls"]["hidden_whole"]["func"]
    return errors


def test_function_is_found_in_its_own_sequence_and_structure_and_in_no_others(store: Path, tmp_path: Path) -> None:
    errors = function_hidden_whole(store, tmp_path / "run", "asymmetric")
    assert errors["own"] <= 0.25
    assert errors["another_protein"] >= 0.9


def test_a_decoder_that_sees_its_own_modality_alone_cannot_find_it(store: Path, tmp_path: Path) -> None:
    errors = function_hidden_whole(store, tmp_path / "run", "symmetric")
    assert errors["own"] >= 0.9
