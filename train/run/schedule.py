"""How long an epoch is and what the learning rate is at a step: pure functions of the step, so nothing to restore.

The paper says StepLR with γ = 0.5 and not after how many epochs; three is this project's choice, one the other
reading (`--lr-step-epochs 1`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepDecay:
    """Multiply the learning rate by `gamma` every `every_epochs` epochs (torch's StepLR stepped once an epoch)."""

    base: float
    gamma: float
    every_epochs: int
    steps_per_epoch: int

    def at(self, step: int) -> float:
        """The learning rate of step `step` (0-based)."""
        return self.base * self.gamma ** (step // self.steps_per_epoch // self.every_epochs)


def last_step(*, epochs: int, steps_per_epoch: int, max_steps: int | None) -> int:
    """How many steps a run takes in all: its epochs, or fewer under `max_steps`."""
    steps = epochs * steps_per_epoch
    return steps if max_steps is None else min(steps, max_steps)
