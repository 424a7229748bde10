"""A run for processes that are killed: it notes which proteins each step was given, whatever becomes of the step."""

import os
from pathlib import Path

from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain
from amma.train.run.step import Stepper, StepResult
from amma.train.run.step_input import StepInput


def pretrain_and_note(config: RunConfig, run_dir: Path, notes: Path) -> None:
    """`pretrain`; before every step a line is added to `notes`, in one write: the step, and the ids of its proteins."""
    take = Stepper.take
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noting(stepper: Stepper, given: StepInput) -> StepResult:
        ids = [name for _, batch, _ in given.portions for name in batch.ids]
        os.write(descriptor, f"{given.step} {','.join(ids)}\n".encode())
        return take(stepper, given)

    Stepper.take = noting  # type: ignore[method-assign]
    pretrain(config, run_dir)
