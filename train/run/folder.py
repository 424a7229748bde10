"""The folder of a run: whose it is, with which settings, and where its files are."""

import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from amma.featurize.store.lock import StoreLock, is_lock_file
from amma.manifests.console import say
from amma.manifests.errors import InputError
from amma.manifests.files import TEMPORARY_SUFFIX, write_atomically, write_json_atomically
from amma.train.data.split_record import SplitRecord
from amma.train.data.validation_split import KMERS
from amma.train.run.checkpoint import Checkpoints
from amma.train.run.config import RunConfig, check_same_run
from amma.train.run.config_toml import to_toml

CONFIG, SPLIT, RECIPE = "config.json", "split.json", "config.toml"
FORMAT_VERSION = "1.1"


class RunFolder:
    """A new or an existing run, locked while the `with` block lasts.

    Raises `InputError` if the folder holds something else than a run of `amma-train pretrain`, `StoreError`
    (`E_LOCKED`) if another process is training in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path)
        self._lock = StoreLock(path)
        self._is_new = False

    @property
    def log(self) -> Path:
        """JSON lines, one a step and one an epoch."""
        return self.path / "log.jsonl"

    @property
    def seen(self) -> Path:
        """Sequence hashes of the training proteins."""
        return self.path / "seen.safetensors"

    @property
    def failed_batch(self) -> Path:
        """What was in the step whose loss was not finite."""
        return self.path / "failed_batch.json"

    def __enter__(self) -> "RunFolder":
        refuse_foreign_folder(self.path)
        self._is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)
        if error is not None and self._is_new:
            # What was refused leaves no empty folder; one in which something was written stays.
            with suppress(OSError):
                self.path.rmdir()

    def claim(self, config: RunConfig, inputs: dict[str, Any], split: SplitRecord) -> None:
        """Write the resolved settings and the hashes of the inputs, or compare them with those that are there.

        Raises `ConfigError` naming every difference that a run may not have when it goes on.
        """
        resolved = config.model_dump(mode="json")
        existing = read_run(self.path)
        if existing is not None:
            # Settings that a run of an earlier version could not have are what they are by default.
            before = RunConfig.parse(existing["config"], source=str(self.path / CONFIG)).model_dump(mode="json")
            before["inputs"] = existing["inputs"]
            check_same_run(before, {**resolved, "inputs": inputs}, where=self.path)
        split.write(self.path / SPLIT)  # before the settings: what is in it counts only beside them
        run = {"config": resolved, "inputs": inputs, "validation_clusters_from": split.origin}
        write_json_atomically(self.path / CONFIG, {"format": "amma-run", "version": FORMAT_VERSION, **run})
        write_atomically(self.path / RECIPE, to_toml(config).encode())


def read_run(path: Path) -> dict[str, Any] | None:
    """The `config.json` of a run folder, or None if there is none; raises `InputError` if it is something else."""
    file = path / CONFIG
    if not file.is_file():
        return None
    try:
        run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        is_run = run["format"] == "amma-run"
    except (ValueError, KeyError, TypeError):
        is_run = False
    if not is_run:
        raise InputError(f"{file} was not written by amma-train. Give a new or empty folder as RUN_DIR.")
    if run["version"].split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise InputError(
            f"{file}: run of version {run['version']}, this program reads {FORMAT_VERSION}. Update amma.",
            code="E_VERSION",
        )
    return run


def read_split(path: Path) -> SplitRecord | None:
    """The validation split of the run in `path`; None if there is no run.

    Where its ids are lost, or were never kept (runs of format 1.0, which knew shared k-mers only), it says how the
    clusters were made, so that they are made the same way again.
    """
    run = read_run(path)
    if run is None:
        return None
    try:
        return SplitRecord.read(path / SPLIT)
    except InputError as error:
        if error.code == "E_VERSION":
            raise
        if "validation_clusters_from" in run:
            say(f"{error} The split is made again as it was made.")
        return SplitRecord(run.get("validation_clusters_from", KMERS), None)


def refuse_foreign_folder(path: Path) -> None:
    """Raise `InputError` if `path` is a file, or a folder with something in it that is not a run."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file. Give a new or empty folder as RUN_DIR.")
    if not path.is_dir() or read_run(path) is not None:
        return
    strangers = sorted(
        each.name
        for each in path.iterdir()
        if each.name != SPLIT and not is_lock_file(each.name) and not each.name.endswith(TEMPORARY_SUFFIX)
    )
    if strangers:
        raise InputError(
            f"{path} holds {', '.join(strangers[:3])}{' …' if len(strangers) > 3 else ''} and no {CONFIG}: it is not a "
            "run of amma-train. Give a new or empty folder as RUN_DIR."
        )
