"""What comes out of training, given to the commands that take it."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

CPU = "--device cpu --threads 1"
EVALUATE = f"--task ec-class --labels data/ec.tsv --splits data {CPU} --epochs 1 --seeds 1 --head-lr 1e-3"


def test_a_model_is_exported_and_embeds_a_store_that_the_commands_for_stores_take(
    amma: Callable, tmp_path: Path
) -> None:
    def done(command: str) -> str:
        ended = amma(command)
        assert ended.code == 0, ended.err
        return str(ended.out)

    out = tmp_path / "out.zarr"
    done(f"amma-train export run {tmp_path}/model")
    done(f"amma-train embed {tmp_path}/model all.zarr {out} {CPU} --pooled {tmp_path}/vectors.parquet")
    assert "intact" in done(f"amma-featurize verify {out}")
    inspected = json.loads(done(f"amma-featurize inspect {out} --json"))
    assert (inspected["sealed"], inspected["random_encoders"]) == (True, True)
    assert {each["width"] for each in inspected["modalities"].values()} == {64}
    done(f"amma-featurize export {out} {tmp_path}/again.parquet --format parquet --pool mean")
    assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(tmp_path / "vectors.parquet"))
    refused = amma(f"amma-train embed {tmp_path}/model other.zarr {tmp_path}/new.zarr {CPU}")
    assert refused.code == 1
    assert refused.err.splitlines()[-1].startswith("error E_FINGERPRINT: other.zarr")
    assert "max_residues" in refused.err
    assert not (tmp_path / "new.zarr").exists()


def test_a_model_of_a_newer_format_is_refused_wherever_a_checkpoint_is_given(amma: Callable, tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert amma(f"amma-train export run {model}").code == 0
    config = model / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "version": "9.0"}))
    for command in (
        f"amma-train embed {model} all.zarr {tmp_path}/new.zarr {CPU}",
        f"amma-train inspect {model}",
        f"amma-train pretrain all.zarr {tmp_path}/new --preset tiny --max-steps 1 --init-from {model} {CPU}",
        f"amma-eval function {model} all.zarr {tmp_path}/report {EVALUATE}",
    ):
        done = amma(command)
        assert done.code == 1, done.err
        assert done.err.splitlines()[-1].startswith("error E_VERSION: "), done.err
        assert "9.0" in done.err


@pytest.mark.slow
def test_an_exported_model_is_evaluated_as_its_run(amma: Callable, tmp_path: Path) -> None:
    assert amma(f"amma-train export run {tmp_path}/model").code == 0
    reports = []
    for checkpoint, out in (("run", "one"), (f"{tmp_path}/model", "two")):
        done = amma(f"amma-eval function {checkpoint} all.zarr {tmp_path}/{out} {EVALUATE}")
        assert done.code == 0, done.err
        reports.append(json.loads((tmp_path / out / "report.json").read_text()))
        reports[-1].pop("provenance")
    assert reports[0] == reports[1]
