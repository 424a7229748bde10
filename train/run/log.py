"""The log of a run: JSON lines, cut back on resume so that no step is in it twice."""

import json
import os
from pathlib import Path
from typing import Any

from amma.manifests.errors import CheckpointError
from amma.manifests.files import fsync_directory
from amma.train.run.tensorboard import TensorBoard


class RunLog:
    """Append JSON lines to `path`, of which the first `keep` bytes are those before the checkpoint resumed from.

    A line is written whole and at once. `sync` makes the lines so far durable and gives the length to keep in a
    checkpoint. Raises `CheckpointError` if the file is shorter than `keep`: it is then not this run's log.
    `shown` gets every line too.
    """

    def __init__(self, path: Path, *, keep: int = 0, shown: TensorBoard | None = None) -> None:
        self.path = path
        self._shown = shown
        size = path.stat().st_size if path.exists() else 0
        if size < keep:
            raise CheckpointError(
                f"{path}: {size} bytes, but it had {keep} when the checkpoint was written: it was cut or replaced. "
                "Restore it, or start again in a new folder."
            )
        self._handle = path.open("ab")
        self._handle.truncate(keep)
        self._handle.seek(keep)
        self.cut = size - keep
        """How many bytes of a later, abandoned continuation were removed."""
        fsync_directory(path.parent)

    def write(self, record: dict[str, Any]) -> None:
        """Add one line; numbers must be finite. Raises `CheckpointError` (`E_DISK`) if it cannot be written."""
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        try:
            self._handle.write(line)
            self._handle.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be written ({error.strerror}). The last checkpoint is safe: make room, then run "
                "the same command again.",
                code="E_DISK",
            ) from error
        if self._shown is not None:
            self._shown.write(record)

    def sync(self) -> int:
        """Make what was written durable; the length in bytes."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        if self._shown is not None:
            self._shown.flush()
        return self._handle.tell()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()
        if self._shown is not None:
            self._shown.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every record of a log, in order; a last line that a crash cut short is left out."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]
