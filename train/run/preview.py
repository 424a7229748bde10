"""What a run would do, without doing any of it."""

from pathlib import Path
from typing import Any

from amma.train.data.training_set import prepare_training_set
from amma.train.model.family import count_parameters
from amma.train.run.config import RunConfig
from amma.train.run.folder import read_run, read_split, refuse_foreign_folder
from amma.train.run.initial import take_over
from amma.train.run.opening import refuse_parts
from amma.train.run.schedule import last_step


def preview(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Proteins of each stream, steps and parameters; raises what the run itself would raise before its first step."""
    refuse_parts(config)
    refuse_foreign_folder(run_dir)
    training_set = prepare_training_set(config, read_split(run_dir))
    try:
        take_over(config, training_set)
        steps = training_set.mix.steps_per_epoch
        return {
            "config": config.model_dump(mode="json"),
            "run": str(run_dir),
            "goes_on": read_run(run_dir) is not None,
            "proteins": training_set.counts,
            "steps_per_epoch": steps,
            "steps": last_step(epochs=config.epochs, steps_per_epoch=steps, max_steps=config.max_steps),
            "parameters": count_parameters(config.model, training_set.corpus.widths),
            "random_encoders": training_set.corpus.random_weights,
        }
    finally:
        training_set.corpus.close()
