"""What a trained model has to beat, and what nothing can beat.

Shapes: N proteins of a split, K terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.tasks.task import Split, Task
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel
from amma.train.run.checkpoint import LoadedModel


def label_frequency(task: Task, split: Split) -> Float32[np.ndarray, "N K"]:
    """How often each term occurs in training, as the score of every protein: what can be had without looking."""
    frequency_K = task.train.target_NK.mean(axis=0).astype(np.float32)
    return np.tile(frequency_K, (len(split.ids), 1))


def untrained_models(trained: LoadedModel) -> Callable[[int], FusionModel]:
    """For each seed a model of the same shape with fresh weights and the trained one's standardisation.

    It tells what pretraining has taught from what the encoders' features and the architecture give anyway.
    """

    def fresh(seed: int) -> FusionModel:
        device = next(trained.model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make_model(trained.model.config, trained.model.widths)
        model.standardiser.load_state_dict(trained.model.standardiser.state_dict())
        return model.to(device).eval()

    return fresh


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best figures that a model can have which knows all about terms seen in training, and nothing of others."""

    num_unseen_terms: int
    num_unseen_pairs: int
    fmax: float
    aupr: float


def ceiling(task: Task, split: Split) -> Ceiling:
    """What labels that no training protein has cost at least: every true pair of a seen term first, the rest tied."""
    reachable_NK = split.target_NK & task.seen_K
    score_NK = reachable_NK.astype(np.float64)
    return Ceiling(
        num_unseen_terms=int((split.target_NK.any(axis=0) & ~task.seen_K).sum()),
        num_unseen_pairs=int((split.target_NK & ~task.seen_K).sum()),
        fmax=fmax(score_NK, split.target_NK).value,
        aupr=aupr(score_NK, split.target_NK),
    )
