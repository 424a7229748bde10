"""Ask a run to stop: the first signal lets it finish its step and save, a second one ends it at once.

Slurm sends SIGTERM before it takes a node away.
"""

import os
import signal
import time
from types import FrameType

from amma.featurize.store.stopping import StopSignals

SAME_REQUEST_SECONDS = 5.0
"""Where several processes train, one request comes as several signals: Slurm's to every process, and torchrun's."""


class Interruption(StopSignals):
    """True once a signal came; it says so at once, and leaves the stopping to whoever asks.

    With `several` processes, signals that follow within seconds are the same request, and only with `speaks` a line is
    written.
    """

    def __init__(self, *, several: bool = False, speaks: bool = True) -> None:
        super().__init__()
        self._several = several
        self._speaks = speaks
        self._since = 0.0

    def __bool__(self) -> bool:
        return self._received is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 143 for SIGTERM, 130 for SIGINT; 0 without one."""
        return 0 if self._received is None else 128 + self._received

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, now = self._received is not None, time.monotonic()
        if again and now - self._since < SAME_REQUEST_SECONDS:
            return
        if again or not self._several:
            for each in self._previous:
                signal.signal(each, signal.SIG_DFL)
        if again:
            os.kill(os.getpid(), number)
        self._received, self._since = signal.Signals(number), now
        if self._speaks:
            # Not print(): the handler may have come in the middle of one.
            os.write(2, b"finishing this step and saving; a second signal ends at once and loses what was not saved\n")
