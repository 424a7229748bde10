"""What a run is computed on: nothing it trains on depends on it, but roundings do."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Circumstances:
    """Device, threads of the arithmetic, processes, and batches one after the other that make a step."""

    device: str
    threads: int
    processes: int
    accumulate: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Circumstances":
        """Those of a checkpoint; before they were counted there was one process, and one batch."""
        return cls(state["device"], state["threads"], state.get("processes", 1), state.get("accumulate", 1))

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint's state, with the versions of what computes."""
        versions = {
            "amma": version("amma"),
            "numpy": np.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        return {
            "device": self.device,
            "threads": self.threads,
            "processes": self.processes,
            "accumulate": self.accumulate,
            "versions": versions,
        }

    def __str__(self) -> str:
        """In a few words."""
        words = [self.device, f"{self.threads} threads"]
        if self.processes > 1:
            words.append(f"{self.processes} processes")
        if self.accumulate > 1:
            words.append(f"steps in {self.accumulate} batches")
        return ", ".join(words)
