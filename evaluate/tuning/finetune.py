"""Tune a head, and with it the fusion encoder and the sequence encoder if the protocol says so, on a task's training
split.

Whatever is chosen is chosen on the validation split; the test split is not touched here. Nothing is random but the
head's first weights and the order of proteins, both pure functions of integers: so a tuning that was stopped goes on
to the same bits.

Shapes: B proteins of a batch, N proteins of a split, D fusion width, K terms.
"""

import copy
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from amma.evaluate.config import Optimizer, Protocol, Rates, Tune
from amma.evaluate.metrics.exact import fmax
from amma.evaluate.tasks.task import Split
from amma.evaluate.tuning.bench import Bench, Start, Vectors
from amma.evaluate.tuning.head import Head
from amma.evaluate.tuning.kept import Kept, KeptTuning
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.readout import AttentionPooling
from amma.evaluate.tuning.together import Together
from amma.featurize.store.stopping import InterruptedRunError
from amma.manifests.errors import LossError
from amma.manifests.table import Modality
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import generator_for

HEAD = "head"
"""What the names of the head's parameters begin with."""


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
    kept: KeptTuning | None = None,
) -> Fit:
    """Tune from `start`, which stays as it is, and keep the weights of the best validation epoch.

    `train` and `valid` may bring representations that were computed before (`Bench.is_fixed`). The result depends on
    the arguments alone: the head's weights are drawn from `seed`, the order of proteins from (seed, epoch). With
    `kept` it is written there now and then, at the end, and when it is stopped; a tuning that is there already goes on
    where it was, to the same bits. Raises `LossError` if the loss is no longer finite.
    """
    tuning = _Tuning(start, bench, rates, seed, train=train, valid=valid, kept=kept)
    tuning.begin()
    advance(len(tuning.epochs))
    while not tuning.is_over:
        tuning.run_epoch()
        advance(1)
    advance(bench.config.max_epochs - len(tuning.epochs))
    return tuning.finish()


class _Tuning:
    """A tuning between its steps: weights, optimizer, and how far it is.

    `step` is the number of batches done of the epoch that is running, `total` the sum of their losses.
    """

    def __init__(
        self,
        start: Start,
        bench: Bench,
        rates: Rates,
        seed: int,
        *,
        train: Vectors | None,
        valid: Vectors | None,
        kept: KeptTuning | None,
    ) -> None:
        self._bench, self._rates, self._seed, self._kept = bench, rates, seed, kept
        self._tunes = bench.config.protocol is not Protocol.PROBE
        if self._tunes and isinstance(start, PooledInputs):
            raise ValueError("pooled inputs have nothing to tune; use protocol probe")
        self._model = start if isinstance(start, PooledInputs) or not self._tunes else _copy(start, bench.device)
        self._train, self._valid = train, valid
        self._target_NK = torch.from_numpy(bench.task.train.target_NK).to(bench.device, torch.float32)
        self.epochs: list[Epoch] = []
        self._best_epoch, self._last_gain, self._step, self._total = 0, 0, 0, 0.0
        self._best_weights: dict[str, Tensor] = {}
        self._was_finished = False

    @property
    def is_over(self) -> bool:
        """True if the last epoch was reached, or nothing got better for long enough."""
        config = self._bench.config
        return len(self.epochs) >= config.max_epochs or len(self.epochs) - self._last_gain >= config.patience

    def begin(self) -> None:
        """Start anew, or where it was kept."""
        found = self._kept.read() if self._kept is not None else None
        bench, task = self._bench, self._bench.task
        if found is None:
            self._head = _new_head(self._model, bench, self._seed, self._train)
        else:
            self._head = _empty_head(found.tensors["head"], bench, bench.new_pooling(self._model))
        self._train = self._train or bench.vectors(self._model, task.train, self._head.pooling)
        self._valid = self._valid or bench.vectors(self._model, task.valid, self._head.pooling)
        groups = [_named(HEAD, self._head)]
        if self._tunes and not isinstance(self._model, PooledInputs):
            groups.append(_tuned_parameters(self._model, bench.config.tune))
        self._parameters = {name: parameter for group in groups for name, parameter in group.items()}
        kind = {Optimizer.ADAMW: torch.optim.AdamW, Optimizer.ADAM: torch.optim.Adam}[bench.config.optimizer]
        self._optimizer = kind(
            [{"params": list(group.values())} for group in groups], weight_decay=bench.config.weight_decay
        )
        if found is not None:
            self._restore(found)

    def run_epoch(self) -> None:
        """Go through what is left of an epoch, and validate; keeps the tuning where it may stop."""
        config, task = self._bench.config, self._bench.task
        decay = config.lr_decay ** len(self.epochs)
        rates = [self._rates.head, self._rates.fusion]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=False):
            group["lr"] = decay * (rate or 0.0)
        order = generator_for(self._seed, len(self.epochs)).permutation(len(task.train.ids))
        batches = np.split(order, range(config.batch_size, len(order), config.batch_size))
        try:
            for places in batches[self._step :]:
                self._bench.pause()
                self._take_step(places)
                if self._kept is not None and self._kept.is_due:
                    self._write_unfinished()
            now = _validated(self._total / len(order), self._head, self._vectors(self._valid), self._bench)
        except InterruptedRunError:
            self._write_unfinished()
            raise
        self._step, self._total = 0, 0.0
        self._add(now)

    def finish(self) -> Fit:
        """The tuned model at its best epoch."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._best_weights[name])
        if self._kept is not None and not self._was_finished:
            tensors = {"head": dict(self._head.state_dict()), "best": self._best_weights}
            self._kept.write({**self._values(), "finished": True}, tensors)
        return Fit(self._model, self._head, self._rates, self._seed, tuple(self.epochs), self._best_epoch)

    def _vectors(self, vectors: Vectors | None) -> Vectors:
        assert vectors is not None  # since `begin`
        return vectors

    def _take_step(self, places: Int64[np.ndarray, " B"]) -> None:
        logits_BK = self._head(self._vectors(self._train)(places))
        target_BK = self._target_NK[torch.from_numpy(places).to(self._bench.device)]
        loss = binary_cross_entropy_with_logits(logits_BK, target_BK)
        if not bool(loss.isfinite()):
            raise LossError(
                f"the loss is not finite in epoch {len(self.epochs) + 1} (learning rates {self._rates}, "
                f"seed {self._seed}). Try lower ones with --fusion-lr and --head-lr."
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._total += float(loss.detach()) * len(places)
        self._step += 1

    def _add(self, now: Epoch) -> None:
        epochs = self.epochs
        # On few proteins Fmax moves in steps, and often down before it goes up: a falling loss is reason to wait.
        if (
            not epochs
            or now.rank > epochs[self._best_epoch - 1].rank
            or now.valid_loss < min(epoch.valid_loss for epoch in epochs)
        ):
            self._last_gain = len(epochs) + 1
        epochs.append(now)
        if self._best_epoch == 0 or now.rank > epochs[self._best_epoch - 1].rank:
            self._best_epoch = len(epochs)
            # In host memory: a sequence encoder's are as large as the encoder.
            self._best_weights = {
                name: parameter.detach().to("cpu", copy=True) for name, parameter in self._parameters.items()
            }

    def _values(self) -> dict[str, Any]:
        """How far it is; numbers as hexadecimal text, which is exact and may be infinite."""
        return {
            "epochs": [[value.hex() for value in astuple(epoch)] for epoch in self.epochs],
            "best_epoch": self._best_epoch,
            "last_gain": self._last_gain,
            "step": self._step,
            "total": self._total.hex(),
            "finished": False,
        }

    def _write_unfinished(self) -> None:
        if self._kept is None:
            return
        moments = {
            f"{name}/{field}": value
            for name, parameter in self._parameters.items()
            for field, value in self._optimizer.state.get(parameter, {}).items()
        }
        beyond = {name: each for name, each in self._parameters.items() if not name.startswith(f"{HEAD}.")}
        tensors = {
            "head": dict(self._head.state_dict()),
            "weights": beyond,
            "best": self._best_weights,
            "moments": moments,
        }
        self._kept.write(self._values(), tensors)

    def _restore(self, found: Kept) -> None:
        values = found.values
        self.epochs = [Epoch(*(float.fromhex(value) for value in epoch)) for epoch in values["epochs"]]
        self._best_epoch, self._last_gain = values["best_epoch"], values["last_gain"]
        self._step, self._total = values["step"], float.fromhex(values["total"])
        self._best_weights = found.tensors["best"]
        if values["finished"]:
            self._was_finished = True
            return
        with torch.no_grad():
            for name, weight in found.tensors["weights"].items():
                self._parameters[name].copy_(weight)
        for key, value in found.tensors["moments"].items():
            name, field = key.rsplit("/", 1)
            parameter = self._parameters[name]
            # As the optimizer has them: the number of steps in host memory.
            self._optimizer.state[parameter][field] = value if value.dim() == 0 else value.to(parameter.device)


def predict(fit: Fit, bench: Bench, split: Split) -> Float32[np.ndarray, "N K"]:
    """Probability of each term for each protein of a split; raises `LossError` naming the protein if one is NaN."""
    return probabilities(_logits(fit.head, bench.vectors(fit.model, split, fit.head.pooling), split, bench))


def probabilities(logits_NK: Float32[Tensor, "N K"]) -> Float32[np.ndarray, "N K"]:
    """Sigmoid, worked out in float64: in float32 it would tie logits that differ."""
    probability_NK: np.ndarray = logits_NK.double().sigmoid().float().numpy()
    return probability_NK


def _copy(start: FusionModel | Together, device: torch.device) -> FusionModel | Together:
    return copy.deepcopy(start).to(device)


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def _tuned_parameters(model: FusionModel | Together, tune: Tune | None) -> dict[str, Tensor]:
    """The parameters to tune, by name; all others of `model` get no gradient from now on."""
    fusion = model.fusion if isinstance(model, Together) else model
    if tune is Tune.PAPER:
        chosen = {id(each) for part in (fusion.projections[Modality.STR], fusion.encoder) for each in part.parameters()}
    else:
        chosen = {id(each) for each in fusion.fusion_parameters()}
    parameters = {name: each for name, each in _named("fusion", fusion).items() if id(each) in chosen}
    if isinstance(model, Together):
        parameters |= _named("esm", model.esm)
    model.requires_grad_(False)
    for parameter in parameters.values():
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


def _empty_head(state: dict[str, Tensor], bench: Bench, pooling: AttentionPooling | None) -> Head:
    """The head of a tuning that was kept, with the standardisation it had from its start."""
    representation_1D = state["mean"][None]
    with torch.random.fork_rng(devices=[]):
        head = Head(representation_1D, torch.zeros(1, len(bench.task.terms), dtype=torch.bool), pooling)
    head.load_state_dict(state)
    return head.to(bench.device)


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
