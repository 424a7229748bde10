"""Write a predictor while its model is being tuned: one seed at a time, aside, and in place when the report is.

Shapes: V proteins of validation, K terms.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from amma.evaluate.config import FinetuneConfig
from amma.evaluate.metrics.calibration import Calibration, fit_calibration
from amma.evaluate.metrics.exact import fmax
from amma.evaluate.predictor.folder import FACTS, SHARED, FileRecord, Member, PredictorFacts
from amma.evaluate.report.results import Inputs
from amma.evaluate.subject import Subject
from amma.evaluate.tuning.finetune import Fit
from amma.evaluate.tuning.protocol import SeedRun
from amma.evaluate.tuning.together import Together
from amma.evaluate.tuning.visible import mask_of
from amma.manifests.errors import CheckpointError
from amma.manifests.files import TEMPORARY_SUFFIX, fsync, fsync_directory, sha256_of_file, write_json_atomically
from amma.manifests.table import Modality
from amma.train.model.fusion import FusionModel

MODEL, HEAD, ENCODER = "model.", "head.", "esm."
"""What the names of a seed's tensors begin with."""


class PredictorWriter:
    """Takes each seed's tuning as it is chosen (`keep`), and becomes a predictor at `folder` when all are there.

    A context: what is not finished when it ends is removed. Raises `CheckpointError` (`E_DISK`) if a file cannot be
    written.
    """

    def __init__(self, folder: Path, subject: Subject, finetune: FinetuneConfig) -> None:
        self._folder = folder
        self._aside = folder.with_name(folder.name + TEMPORARY_SUFFIX)
        self._subject = subject
        self._finetune = finetune
        self._fits: list[tuple[int, str]] = []
        self._has_parent = folder.parent.exists()

    def __enter__(self) -> "PredictorWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)
        if kind is not None and not self._has_parent:
            with suppress(OSError):  # of a folder that is not empty
                self._folder.parent.rmdir()

    def keep(self, fit: Fit) -> None:
        """Write the tuned weights and the head of a seed."""
        model = fit.model.fusion if isinstance(fit.model, Together) else fit.model
        if not isinstance(model, FusionModel):
            raise TypeError("a predictor needs a model, not features that are given")
        with _unwritable_is_said(self._folder):
            if not self._fits:
                shutil.rmtree(self._aside, ignore_errors=True)
                self._aside.mkdir(parents=True)
            state = {name: value for name, value in model.state_dict().items() if name in needed(model)}
            # Where the fusion encoder is frozen, all seeds have the same weights.
            tuned = set() if fit.rates.fusion is None else _with_gradient(model)
            if not self._fits:
                _save({name: value for name, value in state.items() if name not in tuned}, self._aside / SHARED)
            file = f"seed-{fit.seed}.safetensors"
            tensors = {MODEL + name: state[name] for name in sorted(tuned)}
            tensors |= {HEAD + name: value for name, value in fit.head.state_dict().items()}
            if isinstance(fit.model, Together):
                tensors |= {ENCODER + name: value for name, value in fit.model.esm.state_dict().items()}
            _save(tensors, self._aside / file)
            self._fits.append((fit.seed, file))

    def finish(self, runs: Sequence[SeedRun], inputs: Inputs, names: Mapping[str, str]) -> Path:
        """Fit the calibration on validation, write the rest, and put it all in place; gives the folder."""
        task, store, trained = self._subject.task, self._subject.store, self._subject.trained
        if [run.trial.seed for run in runs] != [seed for seed, _ in self._fits]:
            raise ValueError("expected the runs of the tunings that were kept, in their order")
        lines = [fit_calibration(run.valid_VK, task.valid.target_NK) for run in runs]
        best = fmax(mean_probability(lines, [run.valid_VK for run in runs]), task.valid.target_NK)
        members = tuple(
            Member(
                seed=run.trial.seed,
                file=file,
                fusion_lr=run.trial.rates.fusion,
                head_lr=run.trial.rates.head,
                best_epoch=run.trial.best_epoch,
                valid_fmax=run.trial.valid_fmax,
                calibration=line,
            )
            for run, line, (_, file) in zip(runs, lines, self._fits, strict=True)
        )
        with _unwritable_is_said(self._folder):
            facts = PredictorFacts(
                task=task.name,
                terms=task.terms,
                names=tuple(names.get(term, "") for term in task.terms),
                config=self._finetune,
                model=trained.model.config,
                widths={str(modality): width for modality, width in trained.model.widths.items()},
                mask=None if self._finetune.draws is None else mask_of(trained),
                encoders=store.fingerprint,
                inputs=inputs,
                members=members,
                threshold=best.threshold if math.isfinite(best.threshold) else None,
                valid_fmax=best.value,
                num_train=len(task.train.rows),
                num_train_with_structure=int((store.length(Modality.STR)[task.train.rows] > 0).sum()),
                files={path.name: _record(path) for path in sorted(self._aside.glob("*.safetensors"))},
            )
            write_json_atomically(self._aside / FACTS, facts.sealed())
            if self._folder.exists():
                shutil.rmtree(self._folder)
            self._aside.rename(self._folder)
            fsync_directory(self._folder.parent)
        return self._folder


def needed(model: FusionModel) -> set[str]:
    """The names in a model's state of all that makes a representation; the rest is for pretraining."""
    fusing = {id(parameter) for parameter in model.fusion_parameters()}
    parameters = {name for name, parameter in model.named_parameters() if id(parameter) in fusing}
    return parameters | {name for name, _ in model.named_buffers()}


def mean_probability(
    lines: Sequence[Calibration], scores: Sequence[Float[np.ndarray, "N K"]]
) -> Float64[np.ndarray, "N K"]:
    """What a predictor says: the mean over seeds of their calibrated probabilities."""
    calibrated = [line.apply(score_NK) for line, score_NK in zip(lines, scores, strict=True)]
    mean_NK: Float64[np.ndarray, "N K"] = np.mean(calibrated, axis=0)
    return mean_NK


def _with_gradient(model: FusionModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)  # safetensors lets nobody but the owner read what it writes
    fsync(path)


def _record(path: Path) -> FileRecord:
    return FileRecord(sha256=sha256_of_file(path), size=path.stat().st_size)


@contextmanager
def _unwritable_is_said(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the predictor cannot be written ({error}). Make room, or go without it (--no-predictor).",
            code="E_DISK",
        ) from error
