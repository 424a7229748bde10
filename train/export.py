"""Write a trained model to a folder of its own: the library behind `amma-train export`.

The bytes depend on the checkpoint and the version of amma alone. Nothing is uploaded, and no path of this machine goes
into the folder.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amma.featurize.store.disk import human
from amma.manifests.errors import CheckpointError, UsageError
from amma.manifests.files import (
    TEMPORARY_SUFFIX,
    fsync_directory,
    sha256_of_file,
    write_atomically,
    write_json_atomically,
)
from amma.train.model.pretrained import CARD, CONFIG, SEEN, WEIGHTS, is_exported, sealed_config
from amma.train.model_card import render_card
from amma.train.run import checkpoint as checkpoints
from amma.train.run.checkpoint import load_model, read_state, resolve_checkpoint

OF_THE_MACHINE = ("stores", "exclude", "clusters", "init_from", "device", "threads", "accumulate", "rank_timeout")
"""Settings of a run that name its files and its machine; hashes of the files stand beside them, and are kept."""
KEPT_OF_STATE = ("step", "epoch", "steps_per_epoch", "streams", "best", "metrics", "proteins", "inputs", "versions")
REPLACED = f".replaced{TEMPORARY_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was, or would be, written."""

    folder: str
    checkpoint: str
    family: str
    step: int
    parameters: int
    bytes: int
    weights_sha256: str
    random_encoders: bool

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        random = " (random encoders)" if self.random_encoders else ""
        return [
            f"folder       {self.folder}, {human(self.bytes)}",
            f"model        {self.family}, {self.parameters:,} parameters{random}",
            f"checkpoint   {self.checkpoint}, step {self.step}",
            f"weights      sha256 {self.weights_sha256}",
        ]


def export_model(checkpoint: Path, folder: Path, *, overwrite: bool = False, dry_run: bool = False) -> Exported:
    """Write the model of a checkpoint (of a run folder: its best one) to `folder`, which appears whole or not at all.

    Raises `CheckpointError` if the checkpoint is damaged, or (`E_DISK`) if the folder cannot be written; `UsageError`
    if there is something at `folder`, unless it is an exported model and `overwrite` is given.
    """
    source = resolve_checkpoint(checkpoint)
    state = read_state(source, files=(checkpoints.MODEL, checkpoints.SEEN))
    folder = folder.absolute()  # a name of its own is needed to write aside
    if not dry_run:
        _put_back(folder)
    _refuse_what_is_there(folder, overwrite=overwrite)
    model = load_model(source).model
    copied = {WEIGHTS: source / checkpoints.MODEL, SEEN: source / checkpoints.SEEN}
    recorded = {name: state["files"][path.name] for name, path in copied.items()}
    config = sealed_config(_config(state, recorded, architecture=type(model).__name__))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = render_card(config, num_parameters=num_parameters, per_token=model.per_token).encode()
    result = Exported(
        folder=str(folder),
        checkpoint=str(source),
        family=config["model"]["family"],
        step=state["step"],
        parameters=num_parameters,
        bytes=len(card) + sum(each["size"] for each in recorded.values()),
        weights_sha256=recorded[WEIGHTS]["sha256"],
        random_encoders=config["random_weights"],
    )
    if dry_run:
        return result
    aside = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    try:
        _write(aside, copied, config, card)
        _put_in_place(aside, folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):  # else the next export does it
            _put_back(folder)
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror or error}). What was there is as it was: make room, or give "
            "another path.",
            code="E_DISK",
        ) from error
    return result


def _config(state: Mapping[str, Any], files: Mapping[str, Any], *, architecture: str) -> dict[str, Any]:
    settings = {key: value for key, value in state["config"].items() if key not in OF_THE_MACHINE}
    return {
        "architectures": [architecture],
        "model_type": "amma",
        "library_name": "amma",
        "model": state["config"]["model"],
        "widths": state["widths"],
        "encoders": state["inputs"]["fingerprint"],
        "random_weights": state["random_weights"],
        "training": {**{name: state[name] for name in KEPT_OF_STATE}, "config": settings},
        "files": dict(files),
    }


def _refuse_what_is_there(folder: Path, *, overwrite: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is a file or a link. Give a new folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not is_exported(folder):
        raise UsageError(f"{folder} holds something else than an exported model. Give a new folder.")
    if not overwrite:
        raise UsageError(f"{folder} holds an exported model. Give another folder, or --overwrite to replace it.")


def _write(folder: Path, copied: Mapping[str, Path], config: Mapping[str, Any], card: bytes) -> None:
    """Write all files and make them durable; `config.json`, which makes it a model, comes last."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, source in copied.items():
        shutil.copyfile(source, folder / name)
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if sha256_of_file(folder / name) != config["files"][name]["sha256"]:
            raise OSError(f"{name} is not what was copied")
    write_atomically(folder / CARD, card)
    write_json_atomically(folder / CONFIG, config)


def _put_in_place(aside: Path, folder: Path) -> None:
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.is_dir():
        folder.rename(replaced)
    aside.rename(folder)
    fsync_directory(folder.absolute().parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _put_back(folder: Path) -> None:
    """What was moved out of the way by an export that was then killed."""
    replaced = folder.with_name(folder.name + REPLACED)
    if replaced.is_dir() and not folder.exists():
        replaced.rename(folder)
    elif replaced.is_dir():
        shutil.rmtree(replaced)
