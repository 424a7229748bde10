"""What every tuning of an evaluation shares: how a protein of a task becomes a vector, under a protocol.

Shapes: B proteins of a batch, N proteins of a split, D width of a representation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from amma.evaluate.config import FinetuneConfig, Protocol, Readout
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.readout import AttentionPooling, represent
from amma.evaluate.tuning.sequence_features import SequenceInputs
from amma.evaluate.tuning.together import Together
from amma.evaluate.tuning.visible import VisibleDraws
from amma.featurize.store.reader import FeatureStore
from amma.train.model.fusion import FusionModel

Vectors = Callable[[Int64[np.ndarray, " B"]], Float[Tensor, "B D"]]
"""From numbers of proteins within a split to their representations."""

Start = FusionModel | PooledInputs | Together
"""What a head is put on: a model, features that are given and cannot be tuned (protocol `probe` only), or a model with
the sequence encoder before it (protocol `paper`)."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every tuning of an evaluation shares."""

    store: FeatureStore
    task: Task
    config: FinetuneConfig
    device: torch.device
    sequences: SequenceInputs | None = None
    """What the sequence encoder reads, for protocol `paper`."""
    pause: Callable[[], None] = lambda: None
    """Called where an evaluation may stop; raises `InterruptedRunError` if it was asked to."""
    draws: VisibleDraws | None = None
    """What models see of proteins; None: everything. Raises `ValueError` if that is not what `config` says."""

    def __post_init__(self) -> None:
        if (self.draws.number if self.draws is not None else None) != self.config.draws:
            raise ValueError(f"expected {self.config.draws} masks of each protein")

    def is_fixed(self, model: Start) -> bool:
        """True if representations never change while tuning: neither the model nor what reads it out is tuned."""
        if isinstance(model, PooledInputs):
            return True
        return self.config.protocol is Protocol.PROBE and self.config.readout is not Readout.ATTENTION

    def new_pooling(self, model: Start) -> AttentionPooling | None:
        """What is learned with the head to read the model out, if the readout needs it."""
        if isinstance(model, PooledInputs) or self.config.readout is not Readout.ATTENTION:
            return None
        fusion = model.fusion if isinstance(model, Together) else model
        return AttentionPooling(fusion.config.width).to(self.device)

    def vectors(self, model: Start, split: Split, pooling: AttentionPooling | None = None) -> Vectors:
        """Representations of a split: computed anew for every batch; once, when first asked for, if they are fixed."""
        if not self.is_fixed(model):
            return lambda places: self._represent(model, split.rows[places], pooling)
        fixed: list[Tensor] = []

        def vectors(places: Int64[np.ndarray, " B"]) -> Float[Tensor, "B D"]:
            if not fixed:
                fixed.append(self.representations(model, split))
            return fixed[0][torch.from_numpy(places).to(self.device)]

        return vectors

    @torch.no_grad()
    def representations(
        self, model: Start, split: Split, pooling: AttentionPooling | None = None
    ) -> Float[Tensor, "N D"]:
        """The representations of a whole split, batch by batch, without gradients."""
        num_blocks = -(-len(split.rows) // self.config.batch_size)
        return torch.cat(
            [self._represent(model, rows, pooling) for rows in self._pausing(np.array_split(split.rows, num_blocks))]
        )

    def blocks(self, split: Split) -> Iterator[Int64[np.ndarray, " B"]]:
        """Places of the proteins of a split, a batch at a time."""
        num_blocks = -(-len(split.ids) // self.config.batch_size)
        return self._pausing(np.array_split(np.arange(len(split.ids)), num_blocks))

    def _pausing(self, parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for part in parts:
            self.pause()
            yield part

    def _represent(
        self, model: Start, rows: Int64[np.ndarray, " B"], pooling: AttentionPooling | None
    ) -> Float[Tensor, "B D"]:
        if isinstance(model, PooledInputs):
            return model.vectors(rows)
        store, readout, device = self.store, self.config.readout, self.device
        if isinstance(model, Together):
            if self.sequences is None:
                raise ValueError("protocol paper needs the sequences that its encoder reads")
            renew = partial(self.sequences.renewed, esm=model.esm)
            return represent(
                model.fusion, store, rows, readout, device=device, pooling=pooling, renew=renew, draws=self.draws
            )
        frozen = self.config.protocol is Protocol.PROBE
        return represent(model, store, rows, readout, device=device, pooling=pooling, frozen=frozen, draws=self.draws)
