"""The numbers of the log for TensorBoard as well, where it is installed: `pip install 'amma[tensorboard]'`."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amma.manifests.errors import UsageError

FLUSH_SECONDS = 30


def check_installed() -> None:
    """Raise `UsageError` where TensorBoard is missing."""
    if find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard: TensorBoard is not installed. Run pip install 'amma[tensorboard]', or leave the option "
            "out: log.jsonl has the same numbers."
        )


class TensorBoard:
    """Event files in `folder`; `after` is the step of the checkpoint that a run goes on from.

    What an abandoned continuation wrote for later steps is hidden by TensorBoard from then on: no step is shown twice.
    """

    def __init__(self, folder: Path, *, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=after + 1, flush_secs=FLUSH_SECONDS)

    def write(self, record: Mapping[str, Any]) -> None:
        """The numbers of a line of the log as scalars at its step, nested keys joined by slashes, after its kind."""
        for tag, value in scalars(record):
            self._writer.add_scalar(f"{record['kind']}/{tag}", value, record["step"])

    def flush(self) -> None:
        """Put what was written into the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a record but its step, with the names of what it lies in."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}/{tag}", number) for tag, number in scalars(value))
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            yield key, float(value)
