"""Ask a run to stop: the first signal lets it finish its step and save, a second one ends it at once.

Slurm sends SIGTERM before it takes a node away.
"""

import os
import signal
from types import FrameType

from amma.featurize.store.stopping import StopSignals


class Interruption(StopSignals):
    """True once a signal came; it says so at once, and leaves the stopping to whoever asks."""

    def __bool__(self) -> bool:
        return self._received is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 143 for SIGTERM, 130 for SIGINT; 0 without one."""
        return 0 if self._received is None else 128 + self._received

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)
        # Not print(): the handler may have come in the middle of one.
        os.write(2, b"finishing this step and saving; a second signal ends at once and loses what was not saved\n")
