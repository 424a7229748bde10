"""The contrastive model is trained and evaluated as all others are: through the two commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amma.evaluate import cli as evaluate
from amma.evaluate.config import Readout
from amma.evaluate.report.results import Report
from amma.evaluate.tuning.readout import represent
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import UsageError
from amma.manifests.table import Modality
from amma.train import cli as train
from amma.train.data.collate import collate
from amma.train.run.checkpoint import load_model


@pytest.fixture(scope="module")
def run(planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("contrastive") / "run"
    options = ["--preset=tiny", "--family=contrastive", "--batch-size=16", "--max-steps=20", "--threads=1"]
    result = CliRunner().invoke(train.app, ["pretrain", str(planted.store), str(folder), *options])
    assert result.exit_code == 0, result.output
    return folder


def report_of(planted, run: Path, folder: Path, *options: str) -> Report:
    inputs = ["--task=ec-class", f"--labels={planted.labels}", f"--splits={planted.splits}"]
    quick = ["--epochs=2", "--seeds=1", "--head-lr=0.003", "--bootstrap=0", "--threads=1"]
    arguments = ["function", str(run), str(planted.store), str(folder), *inputs, *quick, *options]
    result = CliRunner().invoke(evaluate.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Report.model_validate_json((folder / "report.json").read_text())


@pytest.mark.parametrize("protocol", ["probe", "fusion"])
def test_it_is_probed_and_tuned_with_all_controls(planted, run: Path, tmp_path: Path, protocol: str) -> None:
    options = ("--fusion-lr=0.001",) if protocol == "fusion" else ()
    report = report_of(planted, run, tmp_path / "report", f"--protocol={protocol}", *options)
    fmax = {name: report.row(name).fmax.mean for name in ("trained", "untrained", "pooled inputs", "label frequency")}
    assert all(0 < value <= 1 for value in fmax.values())
    assert fmax["trained"] != fmax["untrained"]


@pytest.mark.parametrize("readout", [Readout.FIRST, Readout.ATTENTION, Readout.GLOBAL])
def test_readouts_that_need_tokens_are_refused(planted, run: Path, tmp_path: Path, readout: Readout) -> None:
    with pytest.raises(UsageError, match=rf"--readout {readout.value}: .*contrastive.*Give --readout mean"):
        report_of(planted, run, tmp_path / "report", f"--readout={readout.value}")


def test_masks_that_it_never_had_are_refused(planted, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--visible draws: .*contrastive"):
        report_of(planted, run, tmp_path / "report", "--visible=draws", "--draws=2")


@torch.no_grad()
def test_its_representation_is_that_of_the_sequence_else_of_the_structure(planted, run: Path) -> None:
    model = load_model(run).model
    with FeatureStore(planted.store) as store:
        proteins = np.arange(store.num_proteins)
        vectors = represent(model, store, proteins, Readout.MEAN, device="cpu")
        for protein in proteins[:30].tolist():
            modality = Modality.SEQ if store.length(Modality.SEQ)[protein] else Modality.STR
            alone = model.fuse(collate(store, [protein], (modality,)))
            torch.testing.assert_close(vectors[protein], alone.tokens[modality].of(0)[0], rtol=1e-5, atol=1e-5)


def test_tuning_reaches_the_encoder_and_the_projection(planted, run: Path) -> None:
    model = load_model(run).model
    with FeatureStore(planted.store) as store:
        vectors = represent(model, store, np.arange(20), Readout.MEAN, device="cpu")
    vectors.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.projections[Modality.SEQ].parameters())
