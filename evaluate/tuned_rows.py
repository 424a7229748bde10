"""The rows of a report that are tuned: the trained model, the same untrained, and the pooled inputs, with all seeds.

With a folder to keep them in, tunings that were stopped go on, and those that are finished are not tuned again.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from amma.evaluate.config import FunctionConfig, Rates
from amma.evaluate.controls.baselines import untrained_models
from amma.evaluate.subject import Subject
from amma.evaluate.tasks.task import Task
from amma.evaluate.tuning.bench import Bench, Start
from amma.evaluate.tuning.finetune import Fit
from amma.evaluate.tuning.kept import KeptTuning, Tunings
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.protocol import Outcome, num_epochs_at_most, run_protocol
from amma.evaluate.tuning.sequence_features import SequenceEncoder, check_features
from amma.evaluate.tuning.together import Together
from amma.evaluate.tuning.visible import visible_draws
from amma.manifests.console import progress, say
from amma.manifests.labels import SPLITS
from amma.manifests.settings import sha256_of_json
from amma.train.model.fusion import FusionModel
from amma.train.run.checkpoint import MODEL

DECISIVE_PACKAGES = ("amma", "numpy", "torch")
"""What computes the numbers: tunings of other versions are not gone on with."""


def tune_rows(
    config: FunctionConfig,
    subject: Subject,
    *,
    keep: Callable[[Fit], None] = lambda _: None,
    report_dir: Path | None = None,
    anew: bool = False,
) -> dict[str, Outcome]:
    """The outcome of each row, by its name; `keep` is handed the trained model as it is tuned with each seed.

    Tunings are kept below `report_dir` (None: nowhere), and SIGINT and SIGTERM then end in `InterruptedRunError`; with
    `anew` those of other settings there are removed and not refused. Runs under `arithmetic`: the number of threads is
    one of the things that decide the numbers.
    """
    trained, store, task = subject.trained, subject.store, subject.task
    device = torch.device(config.device)
    with ExitStack() as stack:
        tunings = None
        if report_dir is not None:
            tunings = stack.enter_context(Tunings(report_dir, decisive_facts(config, subject), anew=anew))
        pause = tunings.pause if tunings is not None else lambda: None
        encoder = subject.sequence
        if encoder is not None:
            check_features(encoder, store, device=device)
        sequences = None if encoder is None else encoder.inputs
        draws = visible_draws(config.finetune, trained, store)
        bench = Bench(store, task, config.finetune, device, sequences, pause, draws)
        alone = Bench(store, task, config.finetune.head_alone, device, pause=pause)
        splits = [task.split(name).rows for name in SPLITS]
        pooled = PooledInputs(store, trained.model.standardiser, splits, device=device)
        fresh = untrained_models(trained)
        starts: dict[str, tuple[Callable[[int], Start], Bench]] = {
            "trained": (lambda seed: _with_encoder(encoder, trained.model), bench),
            "untrained": (lambda seed: _with_encoder(encoder, fresh(seed)), bench),
            "pooled inputs": (lambda seed: pooled, alone),
        }
        outcomes: dict[str, Outcome] = {}
        total = sum(num_epochs_at_most(on.config) for _, on in starts.values())
        with progress("fine-tuning", total, unit="epochs") as advance:
            for name, (start, on) in starts.items():
                outcomes[name] = run_protocol(
                    start,
                    on,
                    advance=advance,
                    tell=partial(_tell, name),
                    keep=keep if name == "trained" else lambda _: None,
                    place=partial(_place, tunings, name),
                )
        pause()
        return outcomes


def decisive_facts(config: FunctionConfig, subject: Subject) -> dict[str, Any]:
    """What decides the numbers of a tuning, apart from the kind of model, the seed and the learning rates."""
    device = torch.device(config.device)
    return {
        "config": config.finetune.model_dump(mode="json"),
        "checkpoint": subject.trained.state["files"][MODEL]["sha256"],
        "store": subject.store.root_hash,
        "task": _sha256_of_task(subject.task),
        "versions": {package: version(package) for package in DECISIVE_PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _sha256_of_task(task: Task) -> str:
    """Of the terms, and of the proteins and labels of each split."""
    splits = {
        name: [
            [identifier, row.nonzero()[0].tolist()] for identifier, row in zip(split.ids, split.target_NK, strict=True)
        ]
        for name, split in ((name, task.split(name)) for name in SPLITS)
    }
    return sha256_of_json({"terms": task.terms, **splits})


def _with_encoder(encoder: SequenceEncoder | None, model: FusionModel) -> FusionModel | Together:
    return model if encoder is None else Together(encoder.esm, model)


def _place(tunings: Tunings | None, name: str, seed: int, rates: Rates) -> KeptTuning | None:
    return None if tunings is None else tunings.of(name, seed, rates)


def _tell(name: str, line: str) -> None:
    say(f"{name}: {line}")
