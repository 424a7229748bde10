"""A saved predictor says what the tuned model said, and is whole, of a version that can be read, or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.evaluate.config import FunctionConfig
from amma.evaluate.metrics.exact import f_at, fmax
from amma.evaluate.predictor.folder import find_predictor, read_predictor
from amma.evaluate.predictor.loaded import Predictor
from amma.evaluate.predictor.saving import PredictorWriter, mean_probability
from amma.evaluate.report.results import Inputs
from amma.evaluate.subject import Subject, open_subject
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.protocol import SeedRun, run_protocol
from amma.evaluate.tuning.visible import visible_draws
from amma.manifests.errors import CheckpointError, FingerprintError


def tuned(config: FunctionConfig, report: Path) -> tuple[Subject, tuple[SeedRun, ...]]:
    subject = open_subject(config)
    draws = visible_draws(config.finetune, subject.trained, subject.store)
    bench = Bench(subject.store, subject.task, config.finetune, torch.device("cpu"), draws=draws)
    with PredictorWriter(report / "predictor", subject, config.finetune) as writer:
        runs = run_protocol(lambda seed: subject.trained.model, bench, keep=writer.keep).runs
        writer.finish(runs, INPUTS, {"1.1.1.1": "alcohol dehydrogenase"})
    return subject, runs


INPUTS = Inputs(
    checkpoint_step=12,
    checkpoint_sha256="ab" * 32,
    pretraining_stores=("cd" * 32,),
    store_root_hash="ef" * 32,
    labels_sha256="01" * 32,
    splits_sha256=dict.fromkeys(("train", "valid", "test"), "23" * 32),
    random_encoders=True,
)


@pytest.fixture(scope="module")
def report(planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "report"
    tuned(planted.config(protocol="probe", max_epochs=2), folder)
    return folder


@pytest.mark.parametrize(
    "finetune",
    [
        {"protocol": "probe", "num_seeds": 2},
        {"protocol": "probe", "readout": "attention"},
        {"protocol": "probe", "visible": "draws", "draws": 2},
        {"protocol": "fusion", "num_seeds": 2},
        {"protocol": "fusion", "tune": "paper", "readout": "first"},
    ],
    ids=lambda finetune: "-".join(map(str, finetune.values())),
)
def test_it_says_of_test_proteins_what_the_tuned_models_said(planted, tmp_path: Path, finetune: dict) -> None:
    subject, runs = tuned(planted.config(max_epochs=3, **finetune), tmp_path / "report")
    predictor = Predictor(tmp_path / "report")
    task = subject.task
    lines = [member.calibration for member in predictor.facts.members]

    found_NK = predictor.probabilities(subject.store, task.test.rows)
    np.testing.assert_allclose(found_NK, mean_probability(lines, [run.test_NK for run in runs]), atol=1e-6)
    valid_NK = mean_probability(lines, [run.valid_VK for run in runs])
    assert predictor.facts.valid_fmax == fmax(valid_NK, task.valid.target_NK).value
    assert predictor.facts.threshold is not None
    at_threshold = f_at(valid_NK, task.valid.target_NK, predictor.facts.threshold)
    assert at_threshold == pytest.approx(predictor.facts.valid_fmax, abs=1e-12)
    assert dict(zip(task.terms, predictor.facts.names, strict=True))["1.1.1.1"] == "alcohol dehydrogenase"

    # Alone or among others: the same.
    alone_NK = np.concatenate([predictor.probabilities(subject.store, task.test.rows[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(alone_NK, found_NK[:5], atol=1e-6)


def test_the_same_evaluation_gives_the_same_bytes(planted, report: Path, tmp_path: Path, tree) -> None:
    tuned(planted.config(protocol="probe", max_epochs=2), tmp_path / "again")
    assert tree(tmp_path / "again" / "predictor") == tree(report / "predictor")


def test_decoders_are_not_kept(planted, report: Path) -> None:
    whole = sum(path.stat().st_size for path in (planted.run / "checkpoints").glob("step-*/model.safetensors"))
    kept = sum(path.stat().st_size for path in (report / "predictor").iterdir())
    assert kept < whole


def test_whoever_may_read_other_files_may_read_the_weights(report: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    modes = {path.stat().st_mode for path in (report / "predictor").iterdir()}
    assert modes == {(tmp_path / "file").stat().st_mode}


def test_a_report_or_its_predictor_may_be_given(report: Path) -> None:
    assert find_predictor(report) == find_predictor(report / "predictor") == report / "predictor"


def test_a_pretrained_model_is_refused_with_what_to_do(planted, tmp_path: Path) -> None:
    for path in (planted.run, next((planted.run / "checkpoints").glob("step-*"))):
        with pytest.raises(CheckpointError, match=r"no head.*Run amma-eval function .* first"):
            Predictor(path)
    with pytest.raises(CheckpointError, match="no such folder"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no predictor"):
        Predictor(tmp_path)


def test_a_report_without_a_predictor_says_why(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--no-predictor"):
        Predictor(tmp_path)


@pytest.mark.parametrize("name", ["predictor.json", "model.safetensors", "seed-0.safetensors"])
@pytest.mark.parametrize("damage", ["bit", "gone", "short"])
def test_what_is_damaged_is_found_and_named(report: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(report / "predictor", folder)
    data = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "short":
        (folder / name).write_bytes(data[:-9])
    else:
        place = data.index(b"head_lrs") if name == "predictor.json" else len(data) - 3
        data[place] ^= 1
        (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name if (name, damage) != ("predictor.json", "gone") else "no predictor"):
        Predictor(folder)


def test_a_newer_major_version_is_refused_and_a_newer_minor_one_is_not_damage(report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(report / "predictor", folder)
    facts = read_predictor(folder)
    for version, works in (("9.0", False), ("1.9", True)):
        (folder / "predictor.json").write_text(json.dumps(facts.model_copy(update={"version": version}).sealed()))
        if works:
            assert read_predictor(folder).version == version
        else:
            with pytest.raises(CheckpointError, match=r"version 9\.0") as refused:
                read_predictor(folder)
            assert refused.value.code == "E_VERSION"


def test_features_of_other_encoders_are_refused_by_field_but_texts_do_not_matter(planted, report: Path) -> None:
    predictor = Predictor(report)
    encoders = predictor.facts.encoders
    predictor.check_features({**encoders, "func": {"encoder": "another"}}, source="here")
    with pytest.raises(FingerprintError, match=r"here.*seq.layer: 1 -> 2"):
        predictor.check_features({**encoders, "seq": {**encoders["seq"], "layer": 2}}, source="here")


def test_what_is_not_finished_leaves_nothing_behind(planted, tmp_path: Path) -> None:
    config = planted.config(protocol="probe", max_epochs=1)
    subject = open_subject(config)
    bench = Bench(subject.store, subject.task, config.finetune, torch.device("cpu"))

    def evaluate_and_fail() -> None:
        with PredictorWriter(tmp_path / "report" / "predictor", subject, config.finetune) as writer:
            run_protocol(lambda seed: subject.trained.model, bench, keep=writer.keep)
            assert (tmp_path / "report" / "predictor.tmp" / "seed-0.safetensors").is_file()
            raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        evaluate_and_fail()
    assert list(tmp_path.iterdir()) == []
