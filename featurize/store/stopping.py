"""Stop between two units when asked to: nothing that was computed is lost, nothing is left half written."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from amma.manifests.errors import AmmaError


class InterruptedRunError(AmmaError):
    """A run that was asked to stop and did; the exit code is that of the signal."""

    code = "E_INTERRUPTED"


class StopSignals:
    """While held, SIGINT and SIGTERM are noted instead of ending the process; a second one ends it at once."""

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)
        # Not print(): the handler may have come in the middle of one.
        os.write(2, b"stopping after this unit; a second signal ends at once and loses it\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    def check(self, safe: int, total: int) -> None:
        """Raise `InterruptedRunError` if a signal came; call it where stopping loses nothing."""
        if self._received is not None:
            stopped = InterruptedRunError(
                f"stopped by {self._received.name}; resuming: {safe}/{total} units safe. Run the same command to go on."
            )
            stopped.exit_code = 128 + self._received
            raise stopped
