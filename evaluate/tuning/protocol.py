"""From a starting model to figures: choose on validation, tune with every seed, then score the test split.

It knows nothing about where models come from or how results are shown.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from amma.evaluate.config import FinetuneConfig, Rates
from amma.evaluate.tuning.finetune import Bench, Fit, Start, Vectors, predict, tune
from amma.evaluate.tuning.kept import KeptTuning


@dataclass(frozen=True)
class Trial:
    """One tuning: a pair of learning rates, a seed, and the validation figures at its best epoch (from 1)."""

    rates: Rates
    seed: int
    num_epochs: int
    best_epoch: int
    valid_fmax: float
    valid_loss: float


@dataclass(frozen=True)
class SeedRun:
    """The tuning kept for one seed, and its probabilities for V validation and N test proteins."""

    trial: Trial
    valid_VK: Float32[np.ndarray, "V K"]
    test_NK: Float32[np.ndarray, "N K"]


@dataclass(frozen=True)
class Outcome:
    """What a protocol gives for one kind of starting model: every pair tried with the first seed, a run per seed."""

    trials: tuple[Trial, ...]
    runs: tuple[SeedRun, ...]


def num_epochs_at_most(config: FinetuneConfig) -> int:
    """Epochs that `run_protocol` advances by: the grid with the first seed, the chosen pair with the others."""
    return (len(config.grid) + config.num_seeds - 1) * config.max_epochs


def run_protocol(
    start: Callable[[int], Start],
    bench: Bench,
    *,
    advance: Callable[[int], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    keep: Callable[[Fit], None] = lambda _: None,
    place: Callable[[int, Rates], KeptTuning | None] = lambda seed, rates: None,
) -> Outcome:
    """Tune the model that `start` gives for each seed. The test split is scored once for each, after all choices.

    `keep` is handed the tuning chosen for each seed, to save what it needs of it: it is gone afterwards. `place` says
    where the tuning with a seed and rates is kept, so that what was stopped goes on; None: nowhere.
    """
    config, task = bench.config, bench.task
    trials: list[Trial] = []
    runs: list[SeedRun] = []
    previous: Start | None = None
    train: Vectors | None = None
    valid: Vectors | None = None
    for seed in range(config.num_seeds):
        model = start(seed)
        if bench.is_fixed(model) and model is not previous:
            train, valid = bench.vectors(model, task.train), bench.vectors(model, task.valid)
        previous = model
        best: Fit | None = None
        best_place: KeptTuning | None = None
        for rates in config.grid if seed == 0 else (runs[0].trial.rates,):
            kept = place(seed, rates)
            fit = tune(model, bench, rates, seed, train=train, valid=valid, advance=advance, kept=kept)
            trial = _trial(fit)
            tell(
                f"seed {seed}, learning rates {_text(rates)}: validation Fmax {trial.valid_fmax:.4f} "
                f"at epoch {trial.best_epoch} of {trial.num_epochs}"
            )
            if seed == 0:
                trials.append(trial)
            # At a tie the first pair stays, that with the lower rates.
            if best is None or fit.best.rank > best.best.rank:
                best, best_place = fit, kept
        assert best is not None  # a grid has at least one pair
        runs.append(_scored(best, bench, best_place))
        keep(best)
    return Outcome(tuple(trials), tuple(runs))


def _scored(fit: Fit, bench: Bench, kept: KeptTuning | None) -> SeedRun:
    """The scores of a tuning that was chosen; those that were kept of it, if they are there."""
    found = kept.read() if kept is not None else None
    scores = found.tensors.get("scores") if found is not None else None
    if scores is None:
        valid_VK, test_NK = (predict(fit, bench, split) for split in (bench.task.valid, bench.task.test))
        if kept is not None and found is not None:
            scores = {"valid_VK": torch.from_numpy(valid_VK), "test_NK": torch.from_numpy(test_NK)}
            kept.write(found.values, {"scores": scores}, leave=True)
        return SeedRun(_trial(fit), valid_VK, test_NK)
    return SeedRun(_trial(fit), scores["valid_VK"].numpy(), scores["test_NK"].numpy())


def _trial(fit: Fit) -> Trial:
    return Trial(fit.rates, fit.seed, len(fit.epochs), fit.best_epoch, fit.best.valid_fmax, fit.best.valid_loss)


def _text(rates: Rates) -> str:
    return f"{rates.head:g} (head)" if rates.fusion is None else f"{rates.fusion:g} (fusion), {rates.head:g} (head)"
