"""How fast a run is, and how much of its time it stood waiting for data."""

import time
from collections.abc import Callable


class Clock:
    """Tokens, seconds and seconds of waiting since the last `lap`; `waited` gives the waiting so far.

    What it says is for people: nothing that decides a number of the run depends on it.
    """

    def __init__(self) -> None:
        self._waited_so_far: Callable[[], float] = lambda: 0.0
        self._reset()

    def _reset(self) -> None:
        self._began = time.perf_counter()
        self._waited = self._waited_so_far()
        self._tokens = 0

    def start(self, waited: Callable[[], float]) -> None:
        """Begin to measure a loop."""
        self._waited_so_far = waited
        self._reset()

    def count(self, num_tokens: int) -> None:
        """Take in a step."""
        self._tokens += num_tokens

    def note(self) -> str:
        """In a few words for a progress display: speed and share of waiting since the last lap."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        waited = (self._waited_so_far() - self._waited) / seconds
        return f"{self._tokens / seconds:,.0f} tokens/s, {waited:.1%} waiting for data"

    def lap(self) -> dict[str, float]:
        """The figures since the last lap, or since the start."""
        seconds = time.perf_counter() - self._began
        figures = {
            "seconds": seconds,
            "waited_seconds": self._waited_so_far() - self._waited,
            "tokens_per_second": self._tokens / max(seconds, 1e-9),
        }
        self._reset()
        return figures
