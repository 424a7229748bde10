"""Checkpoints that are whole or not there, and that are what they say they are.

    RUN_DIR/checkpoints/step-00000123/model.safetensors      weights and the frozen standardiser
                                      training.safetensors   optimizer moments by parameter name, RNG states
                                      seen.safetensors       hashes of the training proteins' sequences
                                      state.json             everything else, with the sha256 of the three and its own
                       /latest, /best                        the name of a folder each

A folder is written as `step-….tmp`, made durable, renamed; then the pointers are swapped. Whatever moment a run dies
at, the newest folder without `.tmp` is complete. A damaged one is passed over for the one before, and that is said.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amma.manifests.console import say
from amma.manifests.errors import CheckpointError, LossError
from amma.manifests.files import (
    TEMPORARY_SUFFIX,
    fsync,
    fsync_directory,
    sha256_of_file,
    write_atomically,
    write_json_atomically,
)
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import Modality
from amma.train.data.seen import Seen
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel
from amma.train.model.pretrained import build_exported, is_exported, read_exported

Result = TypeVar("Result")

FORMAT_VERSION = "1.1"
FOLDER = "checkpoints"
PREFIX = "step-"
MODEL, TRAINING, SEEN, STATE = "model.safetensors", "training.safetensors", "seen.safetensors", "state.json"
REPLACED, PRUNED = f".replaced{TEMPORARY_SUFFIX}", f".pruned{TEMPORARY_SUFFIX}"
KEPT = 2
"""Besides the best, so many of the newest checkpoints stay."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: the tensors, and a JSON state of the caller's.

    `state` must have `step`; `files`, `format` and `version` are added when it is saved.
    """

    state: dict[str, Any]
    model: Mapping[str, Tensor]
    training: Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadedModel:
    """A trained model and where it comes from.

    `config` is the run's resolved configuration; `state` holds step, epoch, metrics and versions; `seen` are the
    sequences that it was trained on, by hash.
    """

    path: Path
    model: FusionModel
    config: dict[str, Any]
    state: dict[str, Any]
    store_fingerprint: dict[str, Any]
    root_hashes: list[str]
    random_weights: bool
    seen: Seen


class Checkpoints:
    """The checkpoints of one run folder.

    Only one process may write them (the run holds a lock); any number may read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER

    def sweep(self) -> None:
        """Remove what a killed run left half written, and put back what it had only moved out of the way."""
        for left_over in sorted(self.folder.glob(f"*{TEMPORARY_SUFFIX}")):
            name = left_over.name.removesuffix(REPLACED)
            if name != left_over.name and not (self.folder / name).exists():
                left_over.rename(self.folder / name)
            elif left_over.is_dir():
                shutil.rmtree(left_over)
            else:
                left_over.unlink()

    def save(self, snapshot: Snapshot, *, seen: Path, best: bool) -> Path:
        """Write a checkpoint of step `snapshot.state["step"]` and swap the pointers; gives its folder.

        `seen` is a finished file that is linked into the folder. Older checkpoints are removed last. Raises
        `CheckpointError` (`E_DISK`) if it cannot be written, `LossError` if a weight is not finite; those that are
        there stay as they are.
        """
        _refuse_infinite_weights(snapshot)
        final = self.folder / f"{PREFIX}{snapshot.state['step']:08d}"
        aside = final.with_name(final.name + TEMPORARY_SUFFIX)
        try:
            self.folder.mkdir(exist_ok=True)
            if aside.exists():
                shutil.rmtree(aside)
            _write(aside, snapshot, seen)
            if final.exists():  # the same step with its epoch not yet closed
                final.rename(final.with_name(final.name + REPLACED))
            aside.rename(final)
            fsync_directory(self.folder)
            self.point("latest", final)
            if best:
                self.point("best", final)
            self._prune()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(
                f"{final}: cannot be written ({error}). The checkpoints before it are safe: make room, then run the "
                "same command again.",
                code="E_DISK",
            ) from error
        return final

    def point(self, name: str, folder: Path) -> None:
        """Let pointer `latest` or `best` name `folder`."""
        write_atomically(self.folder / name, f"{folder.name}\n".encode())

    def newest_first(self) -> list[Path]:
        """Every finished checkpoint's folder, damaged or not."""
        folders = self.folder.glob(f"{PREFIX}*")
        return sorted((path for path in folders if path.name.removeprefix(PREFIX).isdecimal()), key=_step, reverse=True)

    def pointed(self, name: str) -> Path | None:
        """The folder that pointer `latest` or `best` names, if both exist."""
        pointer = self.folder / name
        if not pointer.is_file():
            return None
        target = self.folder / Path(pointer.read_text(encoding="utf-8").strip()).name
        return target if target.is_dir() else None

    def load_newest(self) -> tuple[Path, Snapshot] | None:
        """The newest undamaged checkpoint, or None if there never was one; says which ones it passed over.

        Raises `CheckpointError` if there are checkpoints and all are damaged.
        """
        folders = self.newest_first()
        found = _first_sound(folders, lambda folder: (folder, read_snapshot(folder)))
        if folders and found is None:
            raise CheckpointError(
                f"{self.folder}: every checkpoint is damaged (see above). Begin again in a new folder."
            )
        return found

    def abandon_after(self, folder: Path) -> None:
        """Rename newer (damaged) checkpoints to `….damaged`: the run goes on from `folder` and will come by again."""
        for newer in self.newest_first():
            if _step(newer) > _step(folder):
                aside = newer.with_name(f"{newer.name}.damaged")
                if aside.exists():
                    shutil.rmtree(aside)
                newer.rename(aside)

    def _prune(self) -> None:
        folders = self.newest_first()
        keep = {*folders[:KEPT], self.pointed("best")}
        doomed = [folder.rename(folder.with_name(folder.name + PRUNED)) for folder in folders if folder not in keep]
        # Renamed first: a folder that is half removed must not look like a checkpoint.
        for folder in [*doomed, *self.folder.glob(f"*{REPLACED}")]:
            shutil.rmtree(folder)


def read_state(folder: Path, *, files: tuple[str, ...] = (MODEL, TRAINING, SEEN)) -> dict[str, Any]:
    """The state of a checkpoint after checking its version and the sha256 of the named files.

    Raises `CheckpointError` that says what is wrong and where.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, version, own_hash = state["format"], state["version"], state.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint's state ({error}). Give a run folder of amma-train, or one of its checkpoints."
        ) from error
    if kind != "amma-checkpoint" or version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise CheckpointError(
            f"{path}: {kind} of version {version}, this program reads amma-checkpoint {FORMAT_VERSION}. Update amma.",
            code="E_VERSION",
        )
    if sha256_of_json(state) != own_hash:
        raise CheckpointError(f"{path} is damaged: it is not what its sha256 says. Use another checkpoint of this run.")
    recorded = state["files"]
    for name in files:
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: the checkpoint is damaged. Use another one of the same run.")
        if file.stat().st_size != recorded[name]["size"] or sha256_of_file(file) != recorded[name]["sha256"]:
            raise CheckpointError(
                f"{file} is damaged: its sha256 is not the one in {STATE}. Use another checkpoint of this run."
            )
    return state


def read_snapshot(folder: Path) -> Snapshot:
    """A whole checkpoint, verified, in host memory."""
    return Snapshot(read_state(folder), load_file(folder / MODEL), load_file(folder / TRAINING))


def resolve_checkpoint(path: Path) -> Path:
    """The folder of the checkpoint that `path` means: a step folder itself, of a run folder its best one.

    Without a best one (no validation yet, or damaged) it is the newest undamaged one, and that is said.
    Raises `CheckpointError` if there is none.
    """
    if (path / STATE).is_file():
        return path
    run_dir = path.parent if path.name == FOLDER else path
    checkpoints = Checkpoints(run_dir)
    if not checkpoints.newest_first():
        raise CheckpointError(
            f"{path}: no checkpoint. Expected a run folder of amma-train pretrain, or one of its step folders."
        )

    def verified(folder: Path) -> Path:
        read_state(folder, files=(MODEL, SEEN))
        return folder

    best = checkpoints.pointed("best")
    if best is not None and (sound := _first_sound([best], verified)) is not None:
        return sound
    newest = _first_sound(checkpoints.newest_first(), verified)
    if newest is None:
        raise CheckpointError(f"{run_dir}: every checkpoint is damaged (see above). Train again.")
    say(f"{run_dir} has no best checkpoint to use; taking the newest, {newest.name}")
    return newest


def load_model(path: Path, *, device: str = "cpu") -> LoadedModel:
    """The model of a checkpoint (of a run folder's best one; or an exported one), verified, in evaluation mode."""
    if is_exported(path):
        return _load_exported(path, device)
    folder = resolve_checkpoint(path)
    state = read_state(folder, files=(MODEL, SEEN))
    config = state["config"]
    widths = {Modality(name): width for name, width in state["widths"].items()}
    model = make_model(ModelConfig.parse(config["model"], source=str(folder / STATE)), widths)
    model.load_state_dict(load_file(folder / MODEL))
    return _loaded(folder, model.to(device), state)


def _load_exported(folder: Path, device: str) -> LoadedModel:
    """As `load_model`, of a folder of `amma-train export`; its state is what that kept of the checkpoint's."""
    exported = read_exported(folder)
    state = {**exported["training"], **{name: exported[name] for name in ("files", "widths", "random_weights")}}
    return _loaded(folder, build_exported(folder, exported).to(device), state)


def _loaded(folder: Path, model: FusionModel, state: dict[str, Any]) -> LoadedModel:
    return LoadedModel(
        path=folder,
        model=model.eval(),
        config=state["config"],
        state=state,
        store_fingerprint=state["inputs"]["fingerprint"],
        root_hashes=state["inputs"]["root_hashes"],
        random_weights=state["random_weights"],
        seen=Seen.read(folder / SEEN),
    )


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint, or an exported model, is, as plain values; all its files are verified."""
    if is_exported(path):
        folder, state = path, load_model(path).state
    else:
        folder = resolve_checkpoint(path)
        state = read_state(folder)
    shown = ("step", "epoch", "steps_per_epoch", "streams", "best", "metrics", "proteins", "random_weights", "versions")
    return {
        "checkpoint": str(folder),
        **{name: state[name] for name in shown},
        "store_root_hashes": state["inputs"]["root_hashes"],
        "config": state["config"],
    }


def _first_sound(folders: Sequence[Path], read: Callable[[Path], Result]) -> Result | None:
    """What `read` makes of the first folder that it can read; says which ones it passed over, and why."""
    for folder in folders:
        try:
            return read(folder)
        except CheckpointError as error:
            if error.code == "E_VERSION":
                raise
            say(f"skipping {folder.name}: {error}")
    return None


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def _refuse_infinite_weights(snapshot: Snapshot) -> None:
    """The loss would tell only one step later, when the last good checkpoint may be gone."""
    for name, tensor in snapshot.model.items():
        if not bool(torch.isfinite(tensor).all()):
            raise LossError(
                f"step {snapshot.state['step']}: {name} is not finite after the last update, so this checkpoint is not "
                "saved; the one before is safe. Try a lower --lr, --clip, or --precision fp32."
            )


def _write(folder: Path, snapshot: Snapshot, seen: Path) -> None:
    """Write the four files of a checkpoint and make them durable."""
    folder.mkdir()
    save_file(dict(snapshot.model), folder / MODEL)
    save_file(dict(snapshot.training), folder / TRAINING)
    _link(seen, folder / SEEN)
    files = {}
    for name in (MODEL, TRAINING, SEEN):
        fsync(folder / name)
        files[name] = {"sha256": sha256_of_file(folder / name), "size": (folder / name).stat().st_size}
    state = {**snapshot.state, "files": files, "format": "amma-checkpoint", "version": FORMAT_VERSION}
    write_json_atomically(folder / STATE, {**state, "sha256": sha256_of_json(state)})
    fsync_directory(folder)


def _link(source: Path, target: Path) -> None:
    """One copy of the hashes serves every checkpoint of a run where the file system has hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
