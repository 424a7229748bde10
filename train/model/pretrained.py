"""A model in a folder of its own, as `amma-train export` writes it and the Hugging Face Hub keeps it.

    FOLDER/config.json         what the model is, which encoders it reads, what it was trained on, and hashes
           model.safetensors   weights and the frozen standardiser, byte for byte those of the checkpoint
           seen.safetensors    hashes of the training sequences: what a statement on leakage needs
           README.md           the model card; whoever publishes it may edit it, so nothing here reads it

Nothing else of the run is needed to use the model.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from amma.manifests.errors import CheckpointError, ConfigError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import Modality
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel

FORMAT, FORMAT_VERSION = "amma-model", "1.0"
CONFIG, WEIGHTS, SEEN, CARD = "config.json", "model.safetensors", "seen.safetensors", "README.md"
_OWN_HASH = "sha256"


def is_exported(folder: Path) -> bool:
    """Whether `folder` says that it holds an exported model, intact or not."""
    try:
        return (_parse(folder / CONFIG) or {}).get("format") == FORMAT
    except OSError:
        return False


def sealed_config(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a `config.json`: `config` with its format and its own hash."""
    body = {**config, "format": FORMAT, "version": FORMAT_VERSION}
    return {**body, _OWN_HASH: sha256_of_json(body)}


def read_exported(folder: Path) -> dict[str, Any]:
    """The `config.json` of an exported model after checking it and the files that it lists.

    Raises `CheckpointError` if the folder is none (`E_VERSION`: of a newer major version), or if anything in it is
    missing or not as it was written; the message names the file.
    """
    path = folder / CONFIG
    try:
        config = _parse(path)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: no exported model ({CONFIG}: {error.strerror or error}). Give a folder that amma-train export "
            "wrote; one of the Hub is downloaded first (hf download)."
        ) from error
    if config is None or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not the settings of an AMMA model. Give a folder that amma-train export wrote, or a run folder "
            "where a checkpoint is expected."
        )
    version = str(config.get("version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise CheckpointError(
            f"{path}: exported model of version {version}, this program reads {FORMAT_VERSION}. Update amma.",
            code="E_VERSION",
        )
    if config.pop(_OWN_HASH, None) != sha256_of_json(config):
        raise CheckpointError(f"{path} is damaged: it is not what its sha256 says. Export the model again.")
    for name, recorded in config["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing. Export the model again, or fetch the whole folder.")
        if file.stat().st_size != recorded["size"] or sha256_of_file(file) != recorded["sha256"]:
            raise CheckpointError(
                f"{file} is damaged: its sha256 is not the one in {CONFIG}. Export the model again, or fetch it again "
                "(git clones of the Hub need git-lfs)."
            )
    return config


def load_pretrained(folder: Path) -> FusionModel:
    """The model in `folder`, to the bit that of the checkpoint it was exported from; raises as `read_exported`."""
    return build_exported(folder, read_exported(folder))


def build_exported(folder: Path, config: dict[str, Any]) -> FusionModel:
    """The model that `config` describes, with the weights in `folder`, which have been checked."""
    try:
        described = ModelConfig.parse(config["model"], source=str(folder / CONFIG))
        model = make_model(described, {Modality(name): width for name, width in config["widths"].items()})
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except ConfigError as error:
        raise CheckpointError(f"{error} Perhaps a newer amma wrote it: update amma.") from error
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{folder}: its weights are not those of the model in {CONFIG} ({reason}). Export the model again."
        ) from error
    return model


def _parse(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is none; raises `OSError` if the file cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
