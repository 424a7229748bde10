"""From a starting model to figures: choose on validation, tune with every seed, then score the test split.

It knows nothing about where models come from or how results are shown.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from amma.evaluate.config import FinetuneConfig, Rates
from amma.evaluate.tuning.bench import Bench, Start, Vectors
from amma.evaluate.tuning.finetune import Fit, predict, tune
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
        grid = config.grid if seed == 0 else (runs[0].trial.rates,)
        tuned = (
            _Candidate(tune(model, bench, rates, seed, train=train, valid=valid, advance=advance, kept=kept), kept)
            for rates in grid
            for kept in [place(seed, rates)]
        )
        found, chosen = _choose(tuned, tell)
        trials += found if seed == 0 else ()
        runs.append(_scored(chosen, bench))
        keep(chosen.fit)
        # Before the next one is tuned: a sequence encoder takes gigabytes.
        del chosen
    return Outcome(tuple(trials), tuple(runs))


@dataclass(frozen=True)
class _Candidate:
    fit: Fit
    kept: KeptTuning | None


def _choose(tuned: Iterable[_Candidate], tell: Callable[[str], None]) -> tuple[list[Trial], _Candidate]:
    """All trials, and the best tuning; no more than two tunings are in memory at a time."""
    trials: list[Trial] = []
    best: _Candidate | None = None
    for candidate in tuned:
        trial = _trial(candidate.fit)
        tell(
            f"seed {trial.seed}, learning rates {_text(trial.rates)}: validation Fmax {trial.valid_fmax:.4f} "
            f"at epoch {trial.best_epoch} of {trial.num_epochs}"
        )
        trials.append(trial)
        # At a tie the first pair stays, that with the lower rates.
        if best is None or candidate.fit.best.rank > best.fit.best.rank:
            best = candidate
    assert best is not None  # a grid has at least one pair
    return trials, best


def _scored(chosen: _Candidate, bench: Bench) -> SeedRun:
    """The scores of a tuning that was chosen; those that were kept of it, if they are there."""
    fit, kept = chosen.fit, chosen.kept
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
