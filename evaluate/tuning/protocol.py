"""From a starting model to figures: choose on validation, tune with every seed, then score the test split.

It knows nothing about where models come from or how results are shown.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from amma.evaluate.config import FinetuneConfig, Rates
from amma.evaluate.tuning.finetune import Bench, Fit, Start, Vectors, predict, tune


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
) -> Outcome:
    """Tune the model that `start` gives for each seed. The test split is scored once for each, after all choices.

    `keep` is handed the tuning chosen for each seed, to save what it needs of it: it is gone afterwards.
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
        for rates in config.grid if seed == 0 else (runs[0].trial.rates,):
            fit = tune(model, bench, rates, seed, train=train, valid=valid, advance=advance)
            trial = _trial(fit)
            tell(
                f"seed {seed}, learning rates {_text(rates)}: validation Fmax {trial.valid_fmax:.4f} "
                f"at epoch {trial.best_epoch} of {trial.num_epochs}"
            )
            if seed == 0:
                trials.append(trial)
            # At a tie the first pair stays, that with the lower rates.
            if best is None or fit.best.rank > best.best.rank:
                best = fit
        assert best is not None  # a grid has at least one pair
        runs.append(SeedRun(_trial(best), predict(best, bench, task.valid), predict(best, bench, task.test)))
        keep(best)
    return Outcome(tuple(trials), tuple(runs))


def _trial(fit: Fit) -> Trial:
    return Trial(fit.rates, fit.seed, len(fit.epochs), fit.best_epoch, fit.best.valid_fmax, fit.best.valid_loss)


def _text(rates: Rates) -> str:
    return f"{rates.head:g} (head)" if rates.fusion is None else f"{rates.fusion:g} (fusion), {rates.head:g} (head)"
