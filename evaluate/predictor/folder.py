"""A predictor on disk, as `amma-eval function` leaves it in its report, and what is checked before it is used.

    REPORT_DIR/predictor/predictor.json       everything but the weights, with the hashes of the other files and its own
                         model.safetensors    weights that all seeds share: those that were not tuned
                         seed-0.safetensors   the tuned weights of a seed, and its head; of protocol paper its sequence
                                              encoder too

No decoder is in it: a prediction needs the representation only. Nothing in it depends on the time, the host or paths.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from amma.evaluate.config import FinetuneConfig
from amma.evaluate.metrics.calibration import Calibration
from amma.evaluate.report.results import Inputs
from amma.manifests.errors import CheckpointError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import Settings, sha256_of_json
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.model.pretrained import is_exported
from amma.train.run.checkpoint import FOLDER as CHECKPOINTS
from amma.train.run.checkpoint import STATE

FORMAT: Literal["amma-predictor"] = "amma-predictor"
FORMAT_VERSION = "1.0"
FOLDER, FACTS, SHARED = "predictor", "predictor.json", "model.safetensors"
REPORT = "report.json"
_OWN_HASH = "sha256"


class FileRecord(Settings):
    """A file by its content."""

    sha256: str
    size: int


class Member(Settings):
    """One seed: how it was tuned, its line from scores to probabilities, and the file of its weights."""

    seed: int
    file: str
    fusion_lr: float | None
    head_lr: float
    best_epoch: int
    valid_fmax: float
    calibration: Calibration


class PredictorFacts(Settings):
    """What `predictor.json` holds.

    `names` are those of `terms`, "" where there is none. `encoders` is the fingerprint of the features that it was
    tuned on, `widths` are theirs. A prediction is the mean over `members` of their calibrated probabilities;
    `threshold` is where that has its largest F on validation (None: it has no true pair), which is `valid_fmax`.
    `num_train_with_structure` of its `num_train` training proteins had one. `mask` is what the masks of pretraining
    were drawn by, if proteins are represented by what such masks show (`config.draws`).
    """

    format: Literal["amma-predictor"] = FORMAT
    version: str = FORMAT_VERSION
    task: str
    terms: tuple[str, ...]
    names: tuple[str, ...]
    config: FinetuneConfig
    model: ModelConfig
    widths: dict[str, int]
    mask: MaskConfig | None = None
    encoders: dict[str, Any]
    inputs: Inputs
    members: tuple[Member, ...]
    threshold: float | None
    valid_fmax: float
    num_train: int
    num_train_with_structure: int
    files: dict[str, FileRecord]

    def sealed(self) -> dict[str, Any]:
        """The content of `predictor.json`, with its own hash."""
        body = self.model_dump(mode="json")
        return {**body, _OWN_HASH: sha256_of_json(body)}


def find_predictor(path: Path) -> Path:
    """The predictor that `path` means: the folder itself, or that of a report.

    Raises `CheckpointError` if there is none, which says what is there instead.
    """
    for folder in (path, path / FOLDER):
        if (folder / FACTS).is_file():
            return folder
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder. Expected a report of amma-eval function, or its predictor.")
    if (path / REPORT).is_file():
        raise CheckpointError(
            f"{path}: a report without a predictor (made with --no-predictor, or by an earlier amma). Run amma-eval "
            "function again, without that option."
        )
    if (path / STATE).is_file() or (path / CHECKPOINTS).is_dir() or path.name == CHECKPOINTS or is_exported(path):
        raise CheckpointError(
            f"{path}: a pretrained model, which represents proteins and has no head to predict terms with. Run "
            f"amma-eval function {path} STORE REPORT_DIR first, then predict with REPORT_DIR."
        )
    raise CheckpointError(f"{path}: no predictor. Expected a report of amma-eval function, or its predictor.")


def read_predictor(folder: Path) -> PredictorFacts:
    """The `predictor.json` of a folder, after checking it and the files that it lists.

    Raises `CheckpointError` (`E_VERSION`: of a newer major version) that names the file and says what is wrong.
    """
    path = folder / FACTS
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). {_AGAIN}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a predictor's. {_AGAIN}")
    version = str(value.get("version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise CheckpointError(
            f"{path}: predictor of version {version}, this program reads {FORMAT_VERSION}. Update amma.",
            code="E_VERSION",
        )
    if value.pop(_OWN_HASH, None) != sha256_of_json(value):
        raise CheckpointError(f"{path} is damaged: it is not what its sha256 says. {_AGAIN}")
    try:
        facts = PredictorFacts.model_validate(value)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: not as this amma reads it ({error.errors()[0]['msg']}). Update amma."
        ) from error
    for name, recorded in facts.files.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing. {_AGAIN}")
        if file.stat().st_size != recorded.size or sha256_of_file(file) != recorded.sha256:
            raise CheckpointError(f"{file} is damaged: its sha256 is not the one in {FACTS}. {_AGAIN}")
    return facts


_AGAIN = "Copy the whole folder again, or run amma-eval function again."
