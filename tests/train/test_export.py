"""Exported models: that they are the checkpoint to the bit, need nothing of the run, and are whole or not there."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import CheckpointError, UsageError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES, Modality
from amma.train.cli import main
from amma.train.data.collate import collate
from amma.train.export import export_model
from amma.train.model.amma import AMMA
from amma.train.model.config import WITHOUT_EFFECT, Family
from amma.train.run.checkpoint import describe_checkpoint, load_model
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

Make = Callable[..., RunConfig]


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def run(config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs; read-only."""
    folder = tmp_path_factory.mktemp("export") / "run"
    pretrain(config(), folder)
    return folder


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    export_model(run, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", get_args(Family))
def test_an_exported_model_is_the_checkpoint_to_the_bit_and_needs_nothing_of_the_run(
    family: Family, config: Make, store: Path, tmp_path: Path
) -> None:
    unused, settings = WITHOUT_EFFECT[family], config()
    model = {**settings.model.model_dump(exclude=set(unused.get("model", ()))), "family": family}
    mask = settings.mask.model_dump(exclude=set(unused.get("mask", ())))
    pretrain(config(max_steps=1, model=model, mask=mask), tmp_path / "run")
    before = load_model(tmp_path / "run")
    done = export_model(tmp_path / "run", tmp_path / "model")
    shutil.rmtree(tmp_path / "run")
    model = AMMA.from_pretrained(tmp_path / "model").eval()
    assert type(model) is type(before.model)
    assert bits(model) == bits(before.model)
    card = (tmp_path / "model" / "README.md").read_text()
    assert ("one row a residue or token" in card) is model.per_token
    assert ("- masked-autoencoder\n" in card, "- contrastive-learning\n" in card) == (
        model.per_token,
        not model.per_token,
    )
    assert (done.family, done.parameters) == (family, sum(p.numel() for p in model.parameters()))
    with FeatureStore(store) as features:
        batch = collate(features, [features.row_of("P0"), features.row_of("P1")], MODALITIES)
    with torch.no_grad():
        given, expected = model.fuse(batch), before.model.fuse(batch)
    assert all(torch.equal(given.tokens[m].features_TD, expected.tokens[m].features_TD) for m in MODALITIES)


def test_a_folder_depends_on_the_checkpoint_alone_and_names_no_path_of_this_machine(
    run: Path, exported: Path, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "elsewhere")
    export_model(tmp_path / "elsewhere", tmp_path / "again")
    assert files(tmp_path / "again") == files(exported)
    assert set(files(exported)) == {"README.md", "config.json", "model.safetensors", "seen.safetensors"}
    for path in exported.iterdir():
        assert str(store.parent).encode() not in path.read_bytes()
        assert str(run).encode() not in path.read_bytes()
    assert (exported / "model.safetensors").read_bytes() == (load_model(run).path / "model.safetensors").read_bytes()


def test_the_card_says_what_the_model_was_trained_on_and_how_good_it_is(run: Path, exported: Path) -> None:
    card = ModelCard((exported / "README.md").read_text(encoding="utf-8"))
    front = card.data.to_dict()
    assert (front["library_name"], front["pipeline_tag"]) == ("amma", "feature-extraction")
    assert "protein" in front["tags"]
    assert "license" not in front
    state = describe_checkpoint(run)
    streams = state["proteins"]["streams"]
    assert f"{sum(streams.values())} proteins ({streams['seq-func']} seq-func, " in card.text
    assert f"Held out for validation: {state['proteins']['validation']}, by clusters of" in card.text
    assert f"| seq | model | {state['metrics']['validation']['error']['seq']['all']:.4g} |" in card.text
    assert "| seq | another protein | " in card.text
    assert f"seed {state['config']['seed']}." in card.text
    assert "| structure (`str`) | 12 | name test |" in card.text
    assert card.text.count("Random encoders") == 2


def test_a_model_of_real_encoders_is_not_called_random_and_one_without_validation_shows_no_figure(
    config: Make, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "real.zarr", {"triplet": 8}, random_weights=False)
    (tmp_path / "out.txt").write_text("P1\n")
    pretrain(
        config(stores=[store], max_steps=1, validation_fraction=0, exclude=[tmp_path / "out.txt"]), tmp_path / "run"
    )
    export_model(tmp_path / "run", tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "andom encoders" not in text
    assert "No protein was held out" in text
    assert "Excluded: 1 (1 by id, 0 more" in text
    assert json.loads((tmp_path / "model" / "config.json").read_text())["random_weights"] is False


def test_the_lines_that_the_card_gives_for_python_run(exported: Path, store: Path) -> None:
    text = (exported / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    for before, after in (("THIS_FOLDER", exported), ("features.zarr", store), ("P12345", "P3")):
        assert before in code
        code = code.replace(before, str(after))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["rows"].shape == (names["store"].entries([names["store"].row_of("P3")]).length_BM[0, 0], 16)


def test_an_exported_folder_stands_wherever_a_checkpoint_does(run: Path, exported: Path) -> None:
    there, here = load_model(run), load_model(exported)
    assert here.path == exported
    assert not here.model.training
    assert (here.store_fingerprint, here.root_hashes) == (there.store_fingerprint, there.root_hashes)
    assert here.random_weights is there.random_weights is True
    assert here.seen.hashes.tolist() == there.seen.hashes.tolist()
    assert here.state["files"]["model.safetensors"] == there.state["files"]["model.safetensors"]
    before, after = describe_checkpoint(run), describe_checkpoint(exported)
    of_the_run = {"checkpoint", "config"}
    assert {k: v for k, v in after.items() if k not in of_the_run} == {
        k: v for k, v in before.items() if k not in of_the_run
    }
    assert after["config"]["mask"] == before["config"]["mask"]


def test_a_run_begins_with_an_exported_model_as_with_its_checkpoint(
    run: Path, exported: Path, config: Make, tmp_path: Path
) -> None:
    for name, begin in (("one", run), ("two", exported)):
        pretrain(config(init_from=begin, max_steps=1), tmp_path / name)
    assert bits(load_model(tmp_path / "one").model) == bits(load_model(tmp_path / "two").model)


def test_what_is_no_exported_model_is_never_replaced_and_one_only_when_asked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "config.json").write_text('{"model_type": "bert"}')
    for name in ("file", "thesis"):
        with pytest.raises(UsageError, match="Give a new folder"):
            export_model(run, tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "config.json").read_text() == '{"model_type": "bert"}'
    (tmp_path / "model").mkdir()  # empty
    export_model(run, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("license: mit")
    with pytest.raises(UsageError, match="--overwrite"):
        export_model(run, tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "license: mit"
    assert AMMA.from_pretrained(tmp_path / "model")  # the card is whose who publishes
    export_model(run, tmp_path / "model", overwrite=True)
    assert "license: mit" not in (tmp_path / "model" / "README.md").read_text()
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()} - {"amma-cache"}
    assert left == {"model", "thesis"}


@pytest.mark.parametrize("disk_full", [False, True])
def test_an_export_that_is_killed_or_finds_the_disk_full_leaves_a_whole_model_or_none(
    disk_full: bool, run: Path, exported: Path, memory_folder: Path, children: Any
) -> None:
    whole = files(exported)
    target = memory_folder / "there" / "model"
    ended, operation, times_without = -1, 0, 0
    while ended != 0:
        operation += 1
        assert operation < 60
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(exported, target)
        (target / "README.md").write_text("earlier")
        ended = children.run_to_operation(
            operation, lambda: export_model(run, target, overwrite=True), below=target.parent, disk_full=disk_full
        )
        assert ended in (0, children.DISK_FULL if disk_full else children.KILLED)
        if target.exists():
            assert AMMA.from_pretrained(target)
            assert (target / "README.md").read_bytes() in (b"earlier", (exported / "README.md").read_bytes())
        else:
            times_without += 1  # between two renames; the next export begins with putting it back
            assert (target.parent / "model.replaced.tmp" / "README.md").read_text() == "earlier"
        if operation % 3 == 0 or not target.exists():
            export_model(run, target, overwrite=True)
            assert files(target) == whole
            assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert files(target) == whole
    assert operation > 10
    assert times_without == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "seen.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_folder_is_refused_in_one_line_that_names_the_file(name: str, damage: str, exported: Path) -> None:
    file = exported / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name) as refused:
        AMMA.from_pretrained(exported)
    assert "\n" not in str(refused.value)
    assert refused.value.code == "E_CHECKPOINT"


def rewritten(folder: Path, **changes: Any) -> None:
    """Change `config.json`, and have its hash fit."""
    config = json.loads((folder / "config.json").read_text())
    config = {**config, **changes}
    config.pop("sha256")
    (folder / "config.json").write_text(json.dumps({**config, "sha256": sha256_of_json(config)}))


def test_a_newer_format_is_refused_and_a_newer_minor_version_is_not(exported: Path) -> None:
    rewritten(exported, version="1.9")
    assert AMMA.from_pretrained(exported)
    rewritten(exported, version="2.0")
    with pytest.raises(CheckpointError, match="Update amma") as refused:
        AMMA.from_pretrained(exported)
    assert refused.value.code == "E_VERSION"


def test_weights_of_another_model_are_refused_strictly(exported: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    save_file({**tensors, "stranger": torch.zeros(1)}, exported / "model.safetensors")
    file = exported / "model.safetensors"
    kept = json.loads((exported / "config.json").read_text())["files"]
    fits = {"sha256": sha256_of_file(file), "size": file.stat().st_size}
    rewritten(exported, files={**kept, "model.safetensors": fits})
    with pytest.raises(CheckpointError, match="not those of the model") as refused:
        AMMA.from_pretrained(exported)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("what", ["nothing", "file", "run", "foreign", "list"])
def test_what_is_no_exported_model_is_said_in_one_line(what: str, run: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if what == "file":
        place.write_text("x")
    elif what == "run":
        place = run
    elif what != "nothing":
        place.mkdir()
        (place / "config.json").write_text('{"model_type": "bert"}' if what == "foreign" else "[1]")
    with pytest.raises(CheckpointError, match="amma-train export") as refused:
        AMMA.from_pretrained(str(place))
    assert "\n" not in str(refused.value)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["amma-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_shows_what_it_would_write_and_what_it_wrote(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "model"
    assert command(monkeypatch, "export", run, target, "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert not target.parent.exists()
    assert command(monkeypatch, "export", run, target) == 0
    assert planned["weights_sha256"] in capsys.readouterr().out
    assert planned["weights_sha256"] == sha256_of_file(target / "model.safetensors")
    assert command(monkeypatch, "inspect", target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["step"] == planned["step"]
    assert command(monkeypatch, "export", tmp_path / "missing", tmp_path / "x") == 1
    assert "error E_CHECKPOINT" in capsys.readouterr().err
    assert Modality.SEQ in AMMA.from_pretrained(target).widths
