"""Protocol paper: the sequence encoder is tuned with the task, from the weights that the store was made with."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from amma.evaluate import tuned_rows
from amma.evaluate.cli import app
from amma.evaluate.config import FunctionConfig, Rates
from amma.evaluate.metrics.exact import fmax
from amma.evaluate.predictor.loaded import Predictor
from amma.evaluate.report.results import Report
from amma.evaluate.subject import Subject, open_subject
from amma.evaluate.tuned_rows import tune_rows
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.finetune import Fit, predict, tune
from amma.evaluate.tuning.kept import KeptTuning
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.protocol import Outcome
from amma.evaluate.tuning.sequence_features import check_features, open_sequence_encoder
from amma.evaluate.tuning.together import Together
from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.esm_checkpoint import random_model
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.recode import recode_store
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import InterruptedRunError
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import FingerprintError, UsageError, WeightsError
from amma.manifests.table import Modality, Protein
from amma.train.data.seen import WITH, Seen
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model
from amma.train.model.standardise import Moments
from amma.train.run.checkpoint import Checkpoints, Snapshot

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 16, STR: 6, FUNC: 4}
MODEL = ModelConfig(
    width=16, ffn=32, num_fusion_layers=1, num_heads=2, decoder_width=16, decoder_ffn=32, num_decoder_heads=2
)
RATES = Rates(3e-3, 1e-2)
QUICK: dict[str, Any] = {"protocol": "paper", "num_seeds": 1, "max_epochs": 2, "batch_size": 8, "fusion_lrs": (3e-3,)}
LIMIT = 14


@dataclass(frozen=True)
class Case:
    """Residues W, C and H tell a protein's term; its structure features tell nothing."""

    folder: Path

    def values(self, **changed: Any) -> dict[str, Any]:
        return {
            "checkpoint": str(self.folder / "run"),
            "store": str(self.folder / "store.zarr"),
            "labels": str(self.folder / "ec.tsv"),
            "splits": str(self.folder / "splits"),
            "task": "ec",
            "bootstrap": 0,
            "weights": str(self.folder / "weights"),
            **changed,
        }

    def config(self, finetune: dict[str, Any] = QUICK, **changed: Any) -> FunctionConfig:
        return FunctionConfig.parse(self.values(finetune=finetune, **changed), source="test")


def write_esm(path: Path, *, blind: bool, seed: int = 3) -> None:
    """An ESM-1b at toy size, as fair-esm publishes it. A blind one does not tell residues apart."""
    model = random_model(seed=seed, architecture="esm1b", layers=2, width=16, heads=2)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "contact_head" not in name}
    if blind:
        weights["embed_tokens.weight"][4:] = weights["embed_tokens.weight"][4]
        weights["lm_head.weight"] = weights["embed_tokens.weight"]
    prefixed = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: value
        for name, value in weights.items()
    }
    args = argparse.Namespace(
        arch="roberta_large",
        max_positions=1024,
        token_dropout=True,
        encoder_layers=2,
        encoder_embed_dim=16,
        encoder_attention_heads=2,
        encoder_ffn_embed_dim=64,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"args": args, "model": prefixed}, path)


def write_case(
    folder: Path,
    *,
    blind: bool = False,
    dtype: str = "float32",
    family: str = "asymmetric",
    precision: str = "fp32",
) -> Case:
    """60 proteins: 36 train, 12 valid, 12 test. Every fifth has no structure; some are longer than what is read."""
    weights = folder / "weights" / "esm1b_t33_650M_UR50S.pt"
    write_esm(weights, blind=blind)
    encoder = EsmEncoder.from_file(weights, max_residues=LIMIT, precision=precision)
    rng = np.random.default_rng(5)
    ids, proteins, terms = [f"P{n:02d}" for n in range(60)], [], []
    for n, name in enumerate(ids):
        term = int(rng.integers(3))
        letters = rng.choice(list("AGLS"), size=int(rng.integers(6, 19)))
        letters[rng.random(len(letters)) < 0.7] = "WCH"[term]
        protein = Protein(id=name, sequence="".join(letters))
        structured = np.arange(min(len(letters), LIMIT), dtype=np.int32)
        features = {
            SEQ: encoder.encode([EncoderInput(protein)])[0],
            STR: Encoded(rng.normal(size=(len(structured), 6)).astype(np.float32), structured),
            FUNC: Encoded(rng.normal(size=(2, 4)).astype(np.float32), np.zeros(2, np.int32), np.zeros(4, np.float32)),
        }
        if n % 5 == 0:
            del features[STR]
        proteins.append(ProteinArrays(name, protein.sequence, features))
        terms.append(f"1.1.1.{term + 1}")
    write_store(
        folder / "store.zarr",
        proteins,
        widths=WIDTHS,
        fingerprint={"seq": encoder.fingerprint(), "str": {"encoder": "noise"}},
        random_weights=False,
        settings=StoreSettings.parse({"dtype": dtype}, source="test"),
    )
    (folder / "ec.tsv").write_text(
        "id\tec\tec_class\n" + "".join(f"{name}\t{term}\t1\n" for name, term in zip(ids, terms, strict=True))
    )
    (folder / "splits").mkdir()
    for name, members in {"train": ids[:36], "valid": ids[36:48], "test": ids[48:]}.items():
        (folder / "splits" / f"{name}.txt").write_text("\n".join(members) + "\n")
    write_run(folder, family)
    return Case(folder)


def write_run(folder: Path, family: str) -> None:
    config = MODEL.model_copy(update={"family": family})
    torch.manual_seed(7)
    model = make_model(config, WIDTHS)
    with FeatureStore(folder / "store.zarr") as store:
        for modality, width in WIDTHS.items():
            moments = Moments(width)
            for protein in np.flatnonzero(store.present(modality)):
                moments.update(store.read(modality, int(protein)).features)
            model.standardiser.fit(modality, moments)
        hashes = sequence_hashes(iter([store.sequences()[0]]))
        state = {
            "step": 1,
            "config": {"model": config.model_dump(mode="json")},
            "widths": {str(modality): width for modality, width in WIDTHS.items()},
            "inputs": {"fingerprint": store.fingerprint, "root_hashes": [store.root_hash]},
            "random_weights": False,
        }
    run = folder / "run"
    run.mkdir()
    Seen.of(hashes, np.array([WITH], dtype=np.uint8)).write(run / "seen.safetensors")
    snapshot = Snapshot(state, {name: value.contiguous() for name, value in model.state_dict().items()}, {})
    Checkpoints(run).save(snapshot, seen=run / "seen.safetensors", best=True)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return write_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def subject(case: Case) -> Iterator[Subject]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMMA_CACHE", str(case.folder / "cache"))
        yield open_subject(case.config())


def bench_of(subject: Subject, config: FunctionConfig) -> Bench:
    assert subject.sequence is not None
    return Bench(subject.store, subject.task, config.finetune, torch.device("cpu"), subject.sequence.inputs)


def start_of(subject: Subject) -> Together:
    assert subject.sequence is not None
    return Together(subject.sequence.esm, subject.trained.model)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: torch.nn.Module) -> set[str]:
    return {name for name, value in after.state_dict().items() if not torch.equal(before[name], value)}


def test_at_the_start_features_are_the_stores(subject: Subject, case: Case) -> None:
    bench = bench_of(subject, case.config())
    renewed = bench.representations(start_of(subject), subject.task.test)
    stored = Bench(
        subject.store, subject.task, case.config().finetune.model_copy(update={"protocol": "fusion"}), bench.device
    ).representations(subject.trained.model, subject.task.test)
    torch.testing.assert_close(renewed, stored, rtol=1e-5, atol=1e-5)


def test_a_store_in_float16_differs_by_its_rounding_alone(tmp_path: Path) -> None:
    case = write_case(tmp_path, dtype="float16")
    subject = open_subject(case.config())
    assert subject.sequence is not None
    check_features(subject.sequence, subject.store, device=torch.device("cpu"))
    for row, tokens_T in subject.sequence.inputs.tokens.items():
        with torch.no_grad():
            found = subject.sequence.esm(torch.from_numpy(tokens_T), [len(tokens_T)])[1:-1].numpy()
        stored = subject.store.read(SEQ, row).features.astype(np.float32)
        # Half a unit in the last place of float16, and what float32 sums differ by.
        assert (np.abs(found - stored) <= np.abs(stored) * 2.0**-11 + 1e-5).all()


def test_a_store_computed_in_bf16_is_as_near_as_bf16_is(tmp_path: Path) -> None:
    case = write_case(tmp_path, precision="bf16")
    subject = open_subject(case.config())
    assert subject.sequence is not None
    assert subject.store.fingerprint["seq"]["dtype"] == "bfloat16"
    check_features(subject.sequence, subject.store, device=torch.device("cpu"))


def test_a_store_of_int8_codes_is_as_near_as_its_codes_are(case: Case, tmp_path: Path) -> None:
    with FeatureStore(case.folder / "store.zarr") as source:
        recode_store(source, tmp_path / "codes.zarr", threads=1)
    with FeatureStore(tmp_path / "codes.zarr") as store:
        encoder = open_sequence_encoder(case.config(), store, np.arange(len(store)))
        check_features(encoder, store, device=torch.device("cpu"))


def test_the_control_is_a_fresh_model_behind_the_same_encoder(
    subject: Subject, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def noted(start: Callable[[int], Any], bench: Bench, **_: object) -> Outcome:
        starts.append((start(0), start(1), bench.config))
        return Outcome((), ())

    monkeypatch.setattr(tuned_rows, "run_protocol", noted)
    tune_rows(case.config(), subject)
    (trained, again, _), (untrained, other, _), (pooled, _, alone) = starts
    assert subject.sequence is not None
    assert trained.esm is again.esm is untrained.esm is other.esm is subject.sequence.esm
    assert trained.fusion is again.fusion
    assert changed(weights(untrained.fusion), trained.fusion)
    assert changed(weights(untrained.fusion), other.fusion)
    assert not changed(weights(untrained.fusion.standardiser), trained.fusion.standardiser)
    assert isinstance(pooled, PooledInputs)
    assert alone.protocol == "probe"


def test_what_is_tuned_is_what_the_paper_lists(subject: Subject, case: Case) -> None:
    start = start_of(subject)
    before = weights(start)
    fit = tune(start, bench_of(subject, case.config()), RATES, 0)
    assert changed(before, start) == set()
    assert isinstance(fit.model, Together)
    tuned = changed(before, fit.model)
    expected = {name for name in before if name.startswith(("fusion.encoder.", "fusion.projections.str."))}
    assert {name for name in tuned if name.startswith("fusion.")} == expected
    # Every weight of the encoder, but for the biases of keys, which no softmax can tell.
    encoder = {name for name, _ in start.named_parameters() if name.startswith("esm.") and "k_proj.bias" not in name}
    assert encoder <= tuned


def test_all_tunes_the_projection_of_sequences_too(subject: Subject, case: Case) -> None:
    start = start_of(subject)
    before = weights(start)
    fit = tune(start, bench_of(subject, case.config({**QUICK, "tune": "all"})), RATES, 0)
    assert isinstance(fit.model, Together)
    assert any(name.startswith("fusion.projections.seq.") for name in changed(before, fit.model))


def test_a_prediction_is_the_same_alone_and_among_many(subject: Subject, case: Case) -> None:
    bench = bench_of(subject, case.config())
    fit = tune(start_of(subject), bench, RATES, 0)
    among = predict(fit, bench, subject.task.test)
    one_by_one = Bench(
        bench.store, bench.task, bench.config.model_copy(update={"batch_size": 1}), bench.device, bench.sequences
    )
    np.testing.assert_allclose(predict(fit, one_by_one, subject.task.test), among, atol=1e-5)


@pytest.mark.parametrize("pauses", [2, 7, 12])
def test_what_was_stopped_goes_on_to_the_same_bits(subject: Subject, case: Case, tmp_path: Path, pauses: int) -> None:
    """While the head's statistics are taken, in the first epoch, and in the second or its validation."""
    bench = bench_of(subject, case.config())
    whole = tune(start_of(subject), bench, RATES, 0)
    calls = iter(range(pauses, -1, -1))

    def pause() -> None:
        if next(calls) == 0:
            raise InterruptedRunError("stopped")

    with pytest.raises(InterruptedRunError):
        tune(start_of(subject), replace(bench, pause=pause), RATES, 0, kept=KeptTuning(tmp_path / "t", "key"))
    assert (tmp_path / "t").exists() == (pauses > 2)
    fit = tune(start_of(subject), bench, RATES, 0, kept=KeptTuning(tmp_path / "t", "key"))
    assert fit.epochs == whole.epochs
    assert isinstance(fit.model, Together)
    assert isinstance(whole.model, Together)
    assert changed(weights(whole.model), fit.model) == set()


def test_computing_activations_anew_changes_no_figure(subject: Subject, case: Case) -> None:
    fits = []
    for recomputes in (False, True):
        start = start_of(subject)
        start.esm.recomputes = recomputes
        fits.append(tune(start, bench_of(subject, case.config()), RATES, 0))
    start_of(subject).esm.recomputes = False
    assert fits[0].epochs == fits[1].epochs


def test_in_bf16_it_learns_as_well(subject: Subject, case: Case) -> None:
    config = case.config({**QUICK, "precision": "bf16"})
    assert subject.sequence is not None
    inputs = type(subject.sequence.inputs)(subject.sequence.inputs.tokens, config.finetune.precision)
    bench = Bench(subject.store, subject.task, config.finetune, torch.device("cpu"), inputs)
    fits: list[Fit] = [tune(start_of(subject), each, RATES, 0) for each in (bench, bench_of(subject, case.config()))]
    rounded, exact = (fit.epochs[-1].train_loss for fit in fits)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)


def test_learning_rates_decay_by_epoch(subject: Subject, case: Case) -> None:
    """With a decay to nearly nothing, the second epoch changes nearly nothing."""
    losses = {}
    for decay in (1.0, 1e-9):
        config = case.config({**QUICK, "max_epochs": 3, "lr_decay": decay})
        losses[decay] = [
            epoch.valid_loss for epoch in tune(start_of(subject), bench_of(subject, config), RATES, 0).epochs
        ]
    assert losses[1.0][0] == losses[1e-9][0]
    assert losses[1e-9][2] == pytest.approx(losses[1e-9][0], abs=1e-5)
    assert abs(losses[1.0][2] - losses[1.0][0]) > 1e-3


def test_adam_is_not_adamw(subject: Subject, case: Case) -> None:
    fits = [
        tune(start_of(subject), bench_of(subject, case.config({**QUICK, **chosen})), RATES, 0).epochs
        for chosen in ({"optimizer": "adam"}, {"optimizer": "adamw"}, {"optimizer": "adamw", "weight_decay": 0.0})
    ]
    assert fits[0] != fits[1]
    assert fits[0] == fits[2]  # without decay they are one


@pytest.mark.parametrize("family", ["contrastive", "no-auxiliary"])
def test_other_models_of_the_family_are_tuned_too(tmp_path: Path, family: str) -> None:
    case = write_case(tmp_path, family=family)
    subject = open_subject(case.config())
    start = start_of(subject)
    before = weights(start)
    fit = tune(start, bench_of(subject, case.config()), RATES, 0)
    assert isinstance(fit.model, Together)
    assert any(name.startswith("esm.layers.") for name in changed(before, fit.model))


@pytest.mark.slow
def test_what_frozen_features_do_not_tell_is_learned_by_tuning_the_encoder(tmp_path: Path) -> None:
    """A blind encoder gives every residue the same features; tuned, it learns to tell residues apart."""
    case = write_case(tmp_path, blind=True)
    learn = {"max_epochs": 16, "fusion_lrs": (3e-3,), "head_lrs": (3e-3,), "num_seeds": 1}
    config = case.config({**learn, "protocol": "paper", "batch_size": 4, "lr_decay": 1.0})
    subject = open_subject(config)
    tuned = tune(start_of(subject), bench_of(subject, config), config.finetune.grid[0], 0)
    frozen_config = config.finetune.model_copy(update={"protocol": "fusion", "precision": None})
    frozen_bench = Bench(subject.store, subject.task, frozen_config, torch.device("cpu"))
    frozen = tune(subject.trained.model, frozen_bench, config.finetune.grid[0], 0)
    figures = {}
    for name, fit, bench in (("tuned", tuned, bench_of(subject, config)), ("frozen", frozen, frozen_bench)):
        scores = predict(fit, bench, subject.task.test).astype(np.float64)
        figures[name] = fmax(scores, subject.task.test.target_NK).value
    assert figures["frozen"] < 0.7
    assert figures["tuned"] > figures["frozen"] + 0.2
    assert tuned.epochs[-1].train_loss < 0.5 * frozen.epochs[-1].train_loss


def test_other_weights_are_refused_with_the_field_that_differs(case: Case, tmp_path: Path) -> None:
    write_esm(tmp_path / "esm1b_t33_650M_UR50S.pt", blind=False, seed=4)
    with pytest.raises(FingerprintError, match=r"seq\.weights_sha256: .* -> "):
        open_subject(case.config(weights=str(tmp_path)))


@pytest.mark.parametrize(
    ("changed", "kind", "reason"),
    [
        ({"preset": "tiny"}, FingerprintError, r"seq\.random_weights: false -> true"),
        ({"weights": "nowhere"}, WeightsError, "esm1b_t33_650M_UR50S.pt: weights not found"),
        ({"seq_encoder": "esm1"}, UsageError, "Did you mean 'esm1b'"),
        ({"seq_encoder": "pubmedbert"}, UsageError, "no model of fair-esm"),
    ],
)
def test_another_encoder_is_refused(case: Case, changed: dict[str, str], kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        open_subject(case.config(**changed))


def test_a_store_of_another_kind_of_encoder_is_refused(planted) -> None:
    with pytest.raises(UsageError, match=r"paper tunes an ESM-1b or ESM-2 .* encoder 'planted'"):
        open_subject(planted.config(protocol="paper"))


def test_features_that_are_not_the_encoders_stop_the_evaluation(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another version of a library computed something else: no fingerprint could tell."""
    subject = open_subject(case.config())
    assert subject.sequence is not None
    with torch.no_grad():
        subject.sequence.esm.embed_tokens.weight.mul_(1.2)
    with pytest.raises(FingerprintError, match=r"protein 'P\d\d'.* differs from the features in .* of their RMS"):
        tune_rows(case.config(), subject)


def call(case: Case, report: Path, *options: str):
    paths = [str(case.folder / "run"), str(case.folder / "store.zarr"), str(report)]
    inputs = [f"--labels={case.folder / 'ec.tsv'}", f"--splits={case.folder / 'splits'}", "--task=ec", "--threads=1"]
    return CliRunner().invoke(
        app,
        ["function", *paths, *inputs, f"--weights={case.folder / 'weights'}", "--protocol=paper", *options],
    )


def test_a_dry_run_says_what_will_be_tuned(case: Case, tmp_path: Path) -> None:
    result = call(case, tmp_path / "report", "--dry-run")
    assert result.exit_code == 0, result.output
    esm = open_subject(case.config()).sequence
    assert esm is not None
    assert f"sequence encoder {esm.num_parameters:,}, fusion encoder" in result.stdout
    assert "AdamW, learning rates 0.0001 for the head, 1e-05 elsewhere, times 0.95 after each epoch" in result.stdout
    assert "3 tunings x 100 epochs x 36 steps of 1 proteins = 10,800 steps" in result.stdout
    assert "at least 0.0 GB on the device" in result.stdout  # it is a toy
    plan = json.loads(call(case, tmp_path / "report", "--dry-run", "--json").stdout)
    assert plan["schedule"]["parameters"]["sequence encoder"] == esm.num_parameters
    assert (plan["schedule"]["steps"], plan["config"]["protocol"]) == (10_800, "paper")
    assert not (tmp_path / "report").exists()


def test_a_report_says_which_protocol_it_is_of(case: Case, tmp_path: Path) -> None:
    options = ("--epochs=1", "--seeds=1", "--batch-size=8", "--optimizer=adam", "--bootstrap=0")
    result = call(case, tmp_path / "report", *options)
    assert result.exit_code == 0, result.output
    assert "protocol paper" in result.stdout
    report = Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert (report.config.protocol, report.config.tune, report.config.optimizer) == ("paper", "paper", "adam")
    assert (report.config.patience, report.config.precision) == (1, "fp32")
    page = " ".join((tmp_path / "report" / "report.html").read_text().split())
    assert "the sequence encoder is tuned with the task" in page
    held = {path.name for path in (tmp_path / "report").iterdir()}
    assert "tunings" not in held
    assert {"predictions.parquet", "predictor"} <= held


def test_a_predictor_reads_sequences_with_the_encoder_that_was_tuned(case: Case, tmp_path: Path) -> None:
    options = ("--epochs=2", "--seeds=2", "--batch-size=8", "--fusion-lr=3e-3", "--bootstrap=0", "--readout=attention")
    result = call(case, tmp_path / "report", *options)
    assert result.exit_code == 0, result.output
    predictor = Predictor(tmp_path / "report")
    rows = pq.read_table(tmp_path / "report" / "predictions.parquet").to_pandas()
    said = rows[rows.split == "test"].groupby(["id", "term"]).calibrated.mean().unstack()
    with FeatureStore(case.folder / "store.zarr") as store:
        places = np.array([store.row_of(name) for name in said.index])
        found_NK = predictor.probabilities(store, places)
        np.testing.assert_allclose(found_NK, said.to_numpy(), atol=1e-6)
        # Of the store's own features, which the encoder gave as it was, the same model says something else.
        predictor._is_paper = False
        assert np.abs(predictor.probabilities(store, places) - found_NK).max() > 1e-3
