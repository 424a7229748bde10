import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import CheckpointError, ConfigError, FingerprintError
from amma.manifests.table import Modality
from amma.train.data.sequence_hash import sequence_hash
from amma.train.run.checkpoint import Checkpoints, load_model
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain

Make = Callable[..., RunConfig]


def tensors(run_dir: Path, step: int) -> dict[str, bytes]:
    file = run_dir / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


@pytest.fixture
def other(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    """Other proteins of the same encoders."""
    return make_store(tmp_path / "other.zarr", {"triplet": 20}, seed=5, prefix="Q")


@pytest.fixture
def first(config: Make, tmp_path: Path) -> Path:
    pretrain(config(epochs=1, validation_fraction=0), tmp_path / "first")
    return tmp_path / "first"


def test_a_run_begins_with_the_weights_and_the_standardiser_of_another(
    first: Path, other: Path, config: Make, tmp_path: Path
) -> None:
    settings = config(stores=[other], init_from=first, optimizer={"lr": 3e-4}, max_steps=1)
    pretrain(settings, tmp_path / "second")
    assert tensors(tmp_path / "second", 0) == tensors(first, 10)
    before, after = (load_model(run_dir).model.standardiser for run_dir in (first, tmp_path / "second"))
    assert all(torch.equal(before.mean(modality), after.mean(modality)) for modality in Modality)
    log = list(read_log(tmp_path / "second" / "log.jsonl"))
    step = next(line for line in log if line["kind"] == "step")
    assert (step["step"], step["lr"]) == (0, 3e-4)
    assert log[0]["validation_seen_by_init"] == 0
    moments = load_file(tmp_path / "second" / "checkpoints" / "step-00000000" / "training.safetensors")
    assert all(name.startswith("rng/") or not tensor.any() for name, tensor in moments.items())


def test_what_the_weights_have_seen_counts_as_seen(
    first: Path, other: Path, store: Path, config: Make, tmp_path: Path
) -> None:
    pretrain(config(stores=[other], init_from=first, max_steps=1, validation_fraction=0), tmp_path / "second")
    with FeatureStore(store) as before, FeatureStore(other) as now:
        takes_part = [s for s, kind in zip(before.sequences(), before.kinds(), strict=True) if kind != "seq"]
        expected = {sequence_hash(sequence) for sequence in [*takes_part, *now.sequences()]}
    seen = load_model(tmp_path / "second").seen.hashes
    assert set(seen.tolist()) == expected
    assert (np.diff(seen.astype(object)) > 0).all()


def test_validation_proteins_that_the_weights_were_trained_on_are_counted(
    first: Path, config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(config(init_from=first, validation_fraction=0.3, max_steps=1), tmp_path / "second")
    start = next(iter(read_log(tmp_path / "second" / "log.jsonl")))
    assert start["validation_seen_by_init"] == start["validation"] > 0
    assert "validation errors are too good" in capsys.readouterr().err


def test_such_a_run_resumes_to_the_bit_and_only_with_the_same_weights(
    first: Path, other: Path, config: Make, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"stores": [other], "init_from": first, "epochs": 1}
    pretrain(config(**settings), tmp_path / "whole")
    pretrain(config(**settings, max_steps=2), tmp_path / "parts")
    with pytest.raises(ConfigError, match=r"inputs\.init_from"):
        pretrain(config(stores=[other], epochs=1), tmp_path / "parts")
    pretrain(config(**settings), tmp_path / "parts")
    step = int(Checkpoints(tmp_path / "whole").newest_first()[0].name.removeprefix("step-"))
    assert tensors(tmp_path / "parts", step) == tensors(tmp_path / "whole", step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "symmetric"}, "family asymmetric there, symmetric here"),
        (
            {"family": "no-auxiliary"},
            r"family asymmetric there, no-auxiliary here; only there: lifts\.func, lifts\.str\. Give",
        ),
        ({"width": 32, "num_decoder_layers": 2}, "width 16 there, 32 here; num_decoder_layers 1 there, 2 here"),
    ],
)
def test_another_model_is_refused_with_every_difference(
    changes: dict[str, Any], message: str, first: Path, config: Make, tmp_path: Path
) -> None:
    model = config().model.model_dump()
    with pytest.raises(CheckpointError, match=message):
        pretrain(config(model={**model, **changes}, init_from=first), tmp_path / "second")
    assert not (tmp_path / "second" / "config.json").exists()


def test_a_model_without_decoders_is_refused_with_the_parts_that_it_lacks(
    first: Path, config: Make, tmp_path: Path
) -> None:
    contrastive = {"model": {"family": "contrastive", "width": 16, "ffn": 32, "num_fusion_layers": 2, "num_heads": 2}}
    parts = ", ".join(
        f"{part}.{modality}"
        for part in ("decoder_embeddings", "decoders", "embeddings", "lifts")
        for modality in ("func", "seq", "str")
    )
    there = f"family asymmetric there, contrastive here; only there: {parts}. Give"
    with pytest.raises(CheckpointError, match=re.escape(there)):
        pretrain(config(**contrastive, mask={}, init_from=first), tmp_path / "second")
    pretrain(config(**contrastive, mask={}, max_steps=1), tmp_path / "other")
    here = f"family contrastive there, asymmetric here; only here: {parts}. Give"
    with pytest.raises(CheckpointError, match=re.escape(here)):
        pretrain(config(init_from=tmp_path / "other"), tmp_path / "third")
    pretrain(config(**contrastive, mask={}, max_steps=1, init_from=tmp_path / "other"), tmp_path / "fourth")
    step = tensors(tmp_path / "other", 1)
    assert tensors(tmp_path / "fourth", 0) == step


def test_features_of_other_encoders_are_refused(
    first: Path, make_store: Callable[..., Path], config: Make, tmp_path: Path, fingerprint: dict[str, Any]
) -> None:
    changed = {**fingerprint, "seq": {"name": "test", "layer": 3}}
    store = make_store(tmp_path / "layer3.zarr", {"triplet": 8}, fingerprint=changed)
    with pytest.raises(FingerprintError, match=r"seq\.layer"):
        pretrain(config(stores=[store], init_from=first), tmp_path / "second")
