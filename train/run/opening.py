"""Before a run begins or goes on: its folder, what it trains on, and what is refused at once."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from amma.manifests.errors import InputError, UsageError
from amma.train.data.split_record import SplitRecord
from amma.train.data.training_set import TrainingSet, prepare_training_set
from amma.train.model.family import objective_class
from amma.train.run.config import RunConfig
from amma.train.run.folder import RunFolder, read_split
from amma.train.run.initial import Initial, take_over
from amma.train.run.ranks import Ranks


def refuse_parts(config: RunConfig) -> None:
    """Raise `UsageError` if steps are to be taken in parts, and the objective is not one whose parts add up."""
    if config.accumulate > 1 and not objective_class(config.model.family).adds_up:
        raise UsageError(
            f"--accumulate {config.accumulate}: the loss of family {config.model.family} compares all proteins of a "
            "step with each other, and a part of them has another loss. Take a smaller batch, or more processes."
        )


def open_run(
    config: RunConfig, run_dir: Path, ranks: Ranks, stack: ExitStack
) -> tuple[RunFolder, TrainingSet, Initial | None]:
    """The run's folder, claimed by the first process; what is trained on; and the weights to begin with.

    The first process chooses the validation proteins, and the others take them over.
    """
    folder = RunFolder(run_dir)
    opened: list[tuple[TrainingSet, Initial | None]] = []

    def first() -> tuple[SplitRecord, dict[str, Any]]:
        if config.mix.batch_size < ranks.size and not objective_class(config.model.family).adds_up:
            raise UsageError(
                f"--batch-size {config.mix.batch_size}: family {config.model.family} compares the proteins of all "
                f"processes, and every one of the {ranks.size} needs some. Give a larger batch, or fewer processes."
            )
        stack.enter_context(folder)
        training_set = prepare_training_set(config, read_split(run_dir))
        stack.callback(training_set.corpus.close)
        initial, training_set = take_over(config, training_set)
        folder.claim(config, training_set.inputs, training_set.split)
        opened.append((training_set, initial))
        return training_set.split, training_set.inputs

    split, inputs = ranks.share(first)
    if not opened:
        training_set = prepare_training_set(config, split)
        stack.callback(training_set.corpus.close)
        if any(inputs[name] != found for name, found in training_set.inputs.items()):
            raise InputError(
                f"process {ranks.rank} of {ranks.size} reads other proteins than process 0 from {config.stores}. Copy "
                "the same stores, and lists to leave out, to every machine."
            )
        opened.append((training_set, None))
    return folder, *opened[0]
