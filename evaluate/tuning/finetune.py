"""Tune a head, and the fusion encoder with it if the protocol says so, on the training split of a task.

Whatever is chosen is chosen on the validation split; the test split is not touched here.

Shapes: B proteins of a batch, N proteins of a split, D fusion width, K terms.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from amma.evaluate.config import FinetuneConfig, Protocol, Rates, Readout, Tune
from amma.evaluate.metrics.exact import fmax
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tuning.head import Head
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.readout import AttentionPooling, represent
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import LossError
from amma.manifests.table import Modality
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import generator_for

Vectors = Callable[[Int64[np.ndarray, " B"]], Float[Tensor, "B D"]]
"""From numbers of proteins within a split to their representations."""

Start = FusionModel | PooledInputs
"""What a head is put on: a model, or features that are given and cannot be tuned (protocol `probe` only)."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every tuning of an evaluation shares."""

    store: FeatureStore
    task: Task
    config: FinetuneConfig
    device: torch.device

    def is_fixed(self, model: Start) -> bool:
        """True if representations never change while tuning: neither the model nor what reads it out is tuned."""
        if isinstance(model, PooledInputs):
            return True
        return self.config.protocol is Protocol.PROBE and self.config.readout is not Readout.ATTENTION

    def new_pooling(self, model: Start) -> AttentionPooling | None:
        """What is learned with the head to read the model out, if the readout needs it."""
        if isinstance(model, PooledInputs) or self.config.readout is not Readout.ATTENTION:
            return None
        return AttentionPooling(model.config.width).to(self.device)

    def vectors(self, model: Start, split: Split, pooling: AttentionPooling | None = None) -> Vectors:
        """Representations of a split: computed anew for every batch, or once and for all if they are fixed."""
        if not self.is_fixed(model):
            return lambda places: self._represent(model, split.rows[places], pooling)
        fixed_ND = self.representations(model, split)
        return lambda places: fixed_ND[torch.from_numpy(places).to(self.device)]

    @torch.no_grad()
    def representations(
        self, model: Start, split: Split, pooling: AttentionPooling | None = None
    ) -> Float[Tensor, "N D"]:
        """The representations of a whole split, batch by batch, without gradients."""
        num_blocks = -(-len(split.rows) // self.config.batch_size)
        return torch.cat([self._represent(model, rows, pooling) for rows in np.array_split(split.rows, num_blocks)])

    def _represent(
        self, model: Start, rows: Int64[np.ndarray, " B"], pooling: AttentionPooling | None
    ) -> Float[Tensor, "B D"]:
        if isinstance(model, PooledInputs):
            return model.vectors(rows)
        config = self.config
        frozen = config.protocol is Protocol.PROBE
        return represent(model, self.store, rows, config.readout, device=self.device, pooling=pooling, frozen=frozen)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split, and how the validation split fares after it."""

    train_loss: float
    valid_loss: float
    valid_fmax: float

    @property
    def rank(self) -> tuple[float, float]:
        """What epochs are compared by: Fmax, then the loss."""
        return (self.valid_fmax, -self.valid_loss)


@dataclass(frozen=True)
class Fit:
    """A tuned model, at its best epoch (numbered from 1)."""

    model: Start
    head: Head
    rates: Rates
    seed: int
    epochs: tuple[Epoch, ...]
    best_epoch: int

    @property
    def best(self) -> Epoch:
        """The epoch whose weights these are."""
        return self.epochs[self.best_epoch - 1]


def tune(
    start: Start,
    bench: Bench,
    rates: Rates,
    seed: int,
    *,
    train: Vectors | None = None,
    valid: Vectors | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Fit:
    """Tune from `start`, which stays as it is, and keep the weights of the best validation epoch.

    `train` and `valid` may bring representations that were computed before (`Bench.is_fixed`). The result depends on
    the arguments alone: the head's weights are drawn from `seed`, the order of proteins from (seed, epoch). Raises
    `LossError` if the loss is no longer finite.
    """
    config, task = bench.config, bench.task
    tuned = config.protocol is Protocol.FUSION
    model = copy.deepcopy(start) if tuned else start
    head = _new_head(start, bench, seed, train)
    train = train or bench.vectors(model, task.train, head.pooling)
    valid = valid or bench.vectors(model, task.valid, head.pooling)
    groups = [{"params": list(head.parameters()), "lr": rates.head}]
    if tuned:
        if isinstance(model, PooledInputs):
            raise ValueError("pooled inputs have nothing to tune; use protocol probe")
        groups.append({"params": _tuned_parameters(model, config.tune), "lr": rates.fusion})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    target_NK = torch.from_numpy(task.train.target_NK).to(bench.device, torch.float32)
    epochs: list[Epoch] = []
    best_epoch, best_weights, last_gain = 0, [], 0
    while len(epochs) < config.max_epochs and len(epochs) - last_gain < config.patience:
        total = 0.0
        order = generator_for(seed, len(epochs)).permutation(len(task.train.ids))
        for places in np.split(order, range(config.batch_size, len(order), config.batch_size)):
            logits_BK = head(train(places))
            loss = binary_cross_entropy_with_logits(logits_BK, target_NK[torch.from_numpy(places).to(bench.device)])
            if not bool(loss.isfinite()):
                raise LossError(
                    f"the loss is not finite in epoch {len(epochs) + 1} (learning rates {rates}, seed {seed}). "
                    "Try lower ones with --fusion-lr and --head-lr."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(places)
        now = _validated(total / len(order), head, valid, bench)
        # On few proteins Fmax moves in steps, and often down before it goes up: a falling loss is reason to wait.
        if not epochs or now.rank > epochs[best_epoch - 1].rank or now.valid_loss < min(e.valid_loss for e in epochs):
            last_gain = len(epochs) + 1
        epochs.append(now)
        if best_epoch == 0 or epochs[-1].rank > epochs[best_epoch - 1].rank:
            best_epoch = len(epochs)
            best_weights = [parameter.detach().clone() for parameter in parameters]
        advance(1)
    advance(config.max_epochs - len(epochs))
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter, weight in zip(parameters, best_weights, strict=True):
            parameter.copy_(weight)
    return Fit(model, head, rates, seed, tuple(epochs), best_epoch)


def predict(fit: Fit, bench: Bench, split: Split) -> Float32[np.ndarray, "N K"]:
    """Probability of each term for each protein of a split; raises `LossError` naming the protein if one is NaN."""
    return probabilities(_logits(fit.head, bench.vectors(fit.model, split, fit.head.pooling), split, bench))


def probabilities(logits_NK: Float32[Tensor, "N K"]) -> Float32[np.ndarray, "N K"]:
    """Sigmoid, worked out in float64: in float32 it would tie logits that differ."""
    probability_NK: np.ndarray = logits_NK.double().sigmoid().float().numpy()
    return probability_NK


def _tuned_parameters(model: FusionModel, tune: Tune | None) -> list[Tensor]:
    """The parameters to tune; all others of `model` get no gradient from now on."""
    if tune is Tune.PAPER:
        parameters: list[Tensor] = [*model.projections[Modality.STR].parameters(), *model.encoder.parameters()]
    else:
        parameters = [*model.fusion_parameters()]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def _new_head(start: Start, bench: Bench, seed: int, train: Vectors | None) -> Head:
    split = bench.task.train
    places = np.arange(len(split.ids))
    pooling = bench.new_pooling(start)
    with torch.no_grad():
        representation_ND = train(places) if train else bench.representations(start, split, pooling)
    # The global generator is put back: a caller's own random numbers are not disturbed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(representation_ND.cpu(), torch.from_numpy(split.target_NK), pooling).to(bench.device)


def _validated(train_loss: float, head: Head, valid: Vectors, bench: Bench) -> Epoch:
    split = bench.task.valid
    logits_NK = _logits(head, valid, split, bench)
    loss = binary_cross_entropy_with_logits(logits_NK, torch.from_numpy(split.target_NK).float())
    score_NK = probabilities(logits_NK).astype(np.float64)
    return Epoch(train_loss, float(loss), fmax(score_NK, split.target_NK).value)


@torch.no_grad()
def _logits(head: Head, vectors: Vectors, split: Split, bench: Bench) -> Float32[Tensor, "N K"]:
    blocks: Sequence[np.ndarray] = np.array_split(
        np.arange(len(split.ids)), -(-len(split.ids) // bench.config.batch_size)
    )
    logits_NK = torch.cat([head(vectors(places)).float().cpu() for places in blocks])
    broken_N = torch.isnan(logits_NK).any(dim=1)
    if bool(broken_N.any()):
        worst = split.ids[int(broken_N.int().argmax())]
        raise LossError(
            f"the model gives NaN for protein {worst!r} ({int(broken_N.sum())} of {len(split.ids)} proteins of its "
            "split). Try lower learning rates with --fusion-lr and --head-lr; if it stays, look at this protein."
        )
    return logits_NK
