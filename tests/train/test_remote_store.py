"""Training from a bucket of a real S3 server in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from amma.featurize.store.push import push_store
from amma.manifests.errors import CorruptStoreError
from amma.train.cli import app
from amma.train.run.checkpoint import resolve_checkpoint
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain

ADDRESS = "s3://proteins/toy"

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "timing"} for line in read_log(run / "log.jsonl")]


def test_a_run_from_a_bucket_is_that_from_a_folder_to_the_bit(
    store: Path, config: Callable[..., RunConfig], bucket: Any, tmp_path: Path
) -> None:
    push_store(store, ADDRESS)
    local, remote = tmp_path / "local", tmp_path / "remote"
    pretrain(config(epochs=1), local)
    pretrain(config(stores=(f"{ADDRESS}/",), epochs=1, max_steps=3), remote)
    assert json.loads((remote / "config.json").read_text())["config"]["stores"] == [ADDRESS]
    pretrain(config(stores=(ADDRESS,), epochs=1), remote)
    steps = [line for line in lines_of(local) if line["kind"] == "step"]
    assert len(steps) > 5
    assert lines_of(remote) == lines_of(local)
    weights = [load_file(resolve_checkpoint(run) / "model.safetensors") for run in (local, remote)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_a_run_is_begun_there_and_goes_on_here(store: Path, bucket: Any, tmp_path: Path) -> None:
    push_store(store, ADDRESS)
    run = tmp_path / "run"
    common = ["--preset=tiny", "--visible-tokens=12", "--epochs=1", "--threads=1"]
    for place, steps in ((ADDRESS, "2"), (str(store), "3")):
        result = CliRunner().invoke(app, ["pretrain", place, str(run), *common, f"--max-steps={steps}"])
        assert result.exit_code == 0, (result.output, result.exception)
    assert [line["step"] for line in read_log(run / "log.jsonl") if line["kind"] == "step"] == [0, 1, 2]
    result = CliRunner().invoke(app, ["plan", ADDRESS, *common, "--measure=0", "--json"])
    assert result.exit_code == 0, result.output


def test_an_object_damaged_there_stops_the_run_with_its_name(
    store: Path, config: Callable[..., RunConfig], bucket: Any, tmp_path: Path
) -> None:
    push_store(store, ADDRESS)
    key = "toy/str/features/c/0/0"
    data = bytearray(bucket.Object(key).get()["Body"].read())
    data[7] ^= 32
    bucket.put_object(Key=key, Body=bytes(data))
    with pytest.raises(CorruptStoreError, match=r"s3://proteins/toy/str/features/c/0/0.*protein 'P\d+': crc32c"):
        pretrain(config(stores=(ADDRESS,)), tmp_path / "run")


def test_paths_and_addresses_of_records_are_what_they_were(config: Callable[..., RunConfig]) -> None:
    places = ("/data/a.zarr", "b.zarr", "s3://proteins/c.zarr")
    made = config(stores=places)
    assert made.stores == (Path("/data/a.zarr"), Path("b.zarr"), "s3://proteins/c.zarr")
    recorded = made.model_dump(mode="json")
    assert recorded["stores"] == list(places)
    assert RunConfig.parse(recorded, source="test") == made
