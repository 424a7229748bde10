"""Time several ways of doing one thing side by side: they take turns, so that a busy machine is busy for all."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One row of a table of speeds: `per_second` units of work in the median round, `ratio` times the reference's."""

    half: str
    what: str
    seconds: float
    per_second: float
    unit: str
    ratio: float
    difference: float | None = None
    """Largest difference from the reference's numbers over their root mean square."""
    goal: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same, for `--json`."""
        return asdict(self)

    def as_markdown(self) -> str:
        """A row under `HEAD`."""
        difference = "" if self.difference is None else f"{self.difference:.1g}"
        return f"| {self.what} | {self.per_second:,.0f} {self.unit}/s | {self.ratio:.2f} | {self.goal} | {difference} |"


HEAD = "| | speed | × reference | goal | largest difference / RMS |\n|---|---|---|---|---|"


def median_seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way over `rounds` rounds; in each round every way has its turn, forwards then backwards.

    Whoever calls has run each once before: memory and libraries are then warm.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}
