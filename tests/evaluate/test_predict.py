"""What `amma-eval predict` writes, of a store whose proteins are encoded already."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from amma.evaluate.cli import app
from amma.evaluate.predict import predict
from amma.evaluate.predictor.encoders import EncoderSettings, recorded_settings
from amma.evaluate.predictor.inputs import Asked
from amma.evaluate.predictor.loaded import Predictor
from amma.evaluate.predictor.results import PredictFacts
from amma.evaluate.predictor.saving import PredictorWriter
from amma.evaluate.report.results import Inputs
from amma.evaluate.subject import open_subject
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.protocol import run_protocol
from amma.featurize.encoders.presets import build_encoders
from amma.featurize.store.push import push_store
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import AmmaError, CheckpointError, FingerprintError, InputError, UsageError
from amma.manifests.table import MODALITIES, Modality

HOSTILE = 'a "quoted"\tname\nwith <b>lines</b>'


@pytest.fixture(scope="module")
def predictor(planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two seeds; the terms have a name that would break a table."""
    folder: Path = tmp_path_factory.mktemp("tuned") / "predictor"
    config = planted.config(protocol="probe", max_epochs=4, num_seeds=2)
    subject = open_subject(config)
    bench = Bench(subject.store, subject.task, config.finetune, torch.device("cpu"))
    inputs = Inputs(
        checkpoint_step=12,
        checkpoint_sha256="ab" * 32,
        pretraining_stores=(),
        store_root_hash=subject.store.root_hash,
        labels_sha256="01" * 32,
        splits_sha256={},
        random_encoders=True,
    )
    with PredictorWriter(folder, subject, config.finetune) as writer:
        runs = run_protocol(lambda seed: subject.trained.model, bench, keep=writer.keep).runs
        writer.finish(runs, inputs, dict.fromkeys(subject.task.terms, HOSTILE))
    return folder


def run(predictor: Path, source: Path | str, out: Path, *options: str):
    return CliRunner().invoke(app, ["predict", str(predictor), str(source), str(out), "--device=cpu", *options])


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.tsv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_the_table_has_the_best_terms_of_each_protein_and_parquet_all(planted, predictor: Path, tmp_path: Path) -> None:
    result = run(predictor, planted.store, tmp_path / "out", "--top=3")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.tsv",
        "predictions.parquet",
        "quarantine.jsonl",
        "predict.json",
    }
    loaded = Predictor(predictor)
    with FeatureStore(planted.store) as store:
        expected_NK = loaded.probabilities(store, np.arange(store.num_proteins))
        ids = list(store.ids)
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    assert json.loads(pq.read_schema(tmp_path / "out" / "predictions.parquet").metadata[b"amma"])["version"] == "1.0"
    wide = table.pivot(index="id", columns="term", values="probability").loc[ids, list(loaded.facts.terms)]
    np.testing.assert_allclose(wide.to_numpy(), expected_NK, atol=1e-6)

    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [name for name in ids for _ in range(3)]
    for place, name in enumerate(ids):
        best = np.argsort(-expected_NK[place], kind="stable")[:3]
        mine = rows[3 * place : 3 * place + 3]
        assert [row["rank"] for row in mine] == ["1", "2", "3"]
        assert [row["term"] for row in mine] == [loaded.facts.terms[term] for term in best], name
        for row, term in zip(mine, best, strict=True):
            assert float(row["probability"]) == pytest.approx(expected_NK[place, term], rel=1e-5)
            above = expected_NK[place, term] >= (loaded.facts.threshold or np.inf)
            assert row["above_threshold"] == ("yes" if above else "no")
    assert {row["above_threshold"] for row in rows} == {"yes", "no"}
    assert {row["name"] for row in rows} == {HOSTILE}


def test_unlikely_terms_can_be_left_out_of_the_table(planted, predictor: Path, tmp_path: Path) -> None:
    assert run(predictor, planted.store, tmp_path / "out", "--top=6", "--at-least=0.3").exit_code == 0
    rows = rows_of(tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    assert min(float(row["probability"]) for row in rows) >= 0.3
    assert len(rows) == (table.probability >= 0.3).sum() > 0


def test_the_same_may_be_had_in_cafas_format(planted, predictor: Path, tmp_path: Path) -> None:
    assert run(predictor, planted.store, tmp_path / "out", "--cafa").exit_code == 0
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    lines = (tmp_path / "out" / "predictions.cafa.tsv").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("AUTHOR\tAMMA", "END")
    found = {tuple(line.split("\t")[:2]): float(line.split("\t")[2]) for line in lines[3:-1]}
    expected = table[table.probability >= 0.01]
    assert set(found) == set(zip(expected.id, expected.term, strict=True))
    assert max(abs(found[row.id, row.term] - row.probability) for row in expected.itertuples()) <= 0.005 + 1e-6
    assert run(predictor, planted.store, tmp_path / "out", "--overwrite").exit_code == 0
    assert not (tmp_path / "out" / "predictions.cafa.tsv").exists()


def test_what_was_computed_is_said_and_the_same_every_time(planted, predictor: Path, tmp_path: Path, tree) -> None:
    result = run(predictor, planted.store, tmp_path / "a", "--json")
    run(predictor, planted.store, tmp_path / "b")
    facts = PredictFacts.model_validate_json(result.stdout)
    assert facts == PredictFacts.model_validate_json((tmp_path / "a" / "predict.json").read_text())
    assert facts.counts.model_dump() == {
        "records": 160,
        "predicted": 160,
        "quarantined": 0,
        "duplicates": 0,
        "without_structure": 23,
        "without_sequence": 0,
    }
    assert (facts.kind, facts.predictor.seeds, facts.random_encoders) == ("store", (0, 1), True)
    assert "WARNING: 23 of 160 proteins have no structure" in result.stderr
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    again = PredictFacts.model_validate_json((tmp_path / "b" / "predict.json").read_text())
    assert again.model_copy(update={"provenance": facts.provenance}) == facts
    for name in ("predictions.tsv", "predictions.parquet", "quarantine.jsonl"):
        assert a[name] == b[name]


def test_a_store_in_a_bucket_gives_what_one_in_a_folder_gives(planted, predictor: Path, bucket, tmp_path: Path) -> None:
    push_store(planted.store, "s3://proteins/planted")
    assert run(predictor, planted.store, tmp_path / "here").exit_code == 0
    done = run(predictor, "s3://proteins/planted/", tmp_path / "there")
    assert done.exit_code == 0, done.output
    here, there = ((tmp_path / name / "predictions.tsv").read_bytes() for name in ("here", "there"))
    assert here == there


def test_proteins_without_features_are_quarantined_and_counted(
    planted, predictor: Path, tmp_path: Path, proteins: list[ProteinArrays]
) -> None:
    texts = {Modality.FUNC: proteins[0].features[Modality.FUNC]}
    store = tmp_path / "some.zarr"
    arrays = [*proteins[1:], ProteinArrays("text only", "MKT", texts)]
    with FeatureStore(planted.store) as opened:
        widths, fingerprint = opened.widths, {k: v for k, v in opened.fingerprint.items() if k != "dtype"}
    write_store(store, arrays, widths=widths, fingerprint=fingerprint, random_weights=True)
    done = run(predictor, store, tmp_path / "out", "--strict", "--json")
    assert done.exit_code == 3, done.output
    counts = json.loads(done.stdout)["counts"]
    assert (counts["records"], counts["predicted"], counts["quarantined"]) == (4, 3, 1)
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert (json.loads(line)["id"], json.loads(line)["code"]) == ("text only", "E_ABSENT")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(planted, predictor: Path, tmp_path: Path) -> None:
    done = run(predictor, planted.store, tmp_path / "out", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["records"], facts["proteins"], facts["seeds"], facts["terms"]) == (160, 160, 2, 6)
    assert list(tmp_path.iterdir()) == []


def test_predictions_are_replaced_only_when_asked_and_nothing_else_is(planted, predictor: Path, tmp_path: Path) -> None:
    assert run(predictor, planted.store, tmp_path / "out").exit_code == 0
    refused = run(predictor, planted.store, tmp_path / "out")
    assert isinstance(refused.exception, UsageError)
    assert "--overwrite" in str(refused.exception)
    assert run(predictor, planted.store, tmp_path / "out", "--overwrite", "--top=1").exit_code == 0
    assert len(rows_of(tmp_path / "out")) == 160
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    refused = run(predictor, planted.store, tmp_path / "out", "--overwrite")
    assert isinstance(refused.exception, UsageError)
    assert "thesis.tex" in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        (["--chain=A"], UsageError, "--chain has no effect on .*a sealed store"),
        (["--preset=tiny"], UsageError, "--preset has no effect"),
        (["--precision=fp32"], UsageError, "--precision has no effect"),
        (["--layer=2"], UsageError, "--layer has no effect"),
        (["--keep-store=x.zarr"], UsageError, "--keep-store has no effect"),
        (["--structures=x"], UsageError, "--structures has no effect"),
        (["--device=tpu"], UsageError, "no device"),
    ],
)
def test_options_without_an_effect_are_misuse(
    planted, predictor: Path, tmp_path: Path, options: list[str], kind: type[AmmaError], reason: str
) -> None:
    done = run(predictor, planted.store, tmp_path / "out", *options)
    assert isinstance(done.exception, kind), done.output
    with pytest.raises(kind, match=reason):
        raise done.exception
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_predicted_with_or_for_is_said(
    planted, predictor: Path, tmp_path: Path, proteins: list[ProteinArrays]
) -> None:
    other = tmp_path / "other.zarr"
    with FeatureStore(planted.store) as store:
        widths = store.widths
    write_store(other, proteins, widths=widths, fingerprint={"seq": {"encoder": "other"}}, random_weights=True)
    for checkpoint, source, kind, reason in (
        (planted.run, planted.store, CheckpointError, "Run amma-eval function"),
        (predictor, other, FingerprintError, 'seq.encoder: "planted" -> "other"'),
        (predictor, tmp_path / "nowhere.fasta", InputError, "no such file"),
    ):
        done = run(checkpoint, source, tmp_path / "out")
        assert isinstance(done.exception, kind), done.output
        assert reason in str(done.exception)
        assert not (tmp_path / "out").exists()


def test_encoders_of_other_features_are_refused_before_anything_is_encoded(predictor: Path, tmp_path: Path) -> None:
    (tmp_path / "one.fasta").write_text(">one\nMKTAYIAKQR\n")
    asked = Asked(str(tmp_path / "one.fasta"), encoders=EncoderSettings(preset="tiny", device="cpu"))
    with pytest.raises(FingerprintError, match=r"the encoders chosen here: .*seq\.encoder: .planted. -> .esm."):
        predict(predictor, asked, tmp_path / "out", top=1, at_least=0.0, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{}, {"max_residues": 30, "layer": 1}], ids=["preset", "options"])
def test_what_a_fingerprint_tells_of_the_encoders_builds_them_again(options: dict) -> None:
    from amma.evaluate.predictor.encoders import build_recorded
    from amma.featurize.encoders.choice import EncoderChoice

    replaced = EncoderChoice(**options).specs("tiny")
    encoders = build_encoders("tiny", device="cpu", replaced=replaced)
    fingerprint = {str(modality): dict(value) for modality, value in encoders.fingerprint().items()}
    widths = {str(modality): encoders[modality].width for modality in MODALITIES}
    again = build_recorded(fingerprint, widths, EncoderSettings(device="cpu"))
    assert {str(modality): dict(value) for modality, value in again.fingerprint().items()} == fingerprint


def test_published_encoders_are_told_by_their_architecture() -> None:
    esm2 = {"encoder": "esm", "architecture": {"family": "esm2", "layers": 33}, "dtype": "bfloat16", "layer": 30}
    assert recorded_settings({"seq": esm2, "str": {"backend": "torchdrug"}}) == {
        "preset": "paper",
        "seq_encoder": "esm2_t33_650M",
        "precision": "bf16",
        "layer": 30,
        "str_backend": "torchdrug",
    }
