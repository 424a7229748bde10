"""Which proteins each step trains on: a pure function of the seed and the step.

A *stream* is all training proteins with the same modalities, so that every batch is homogeneous. Its order is a new
permutation in every epoch of its own; one that runs dry begins its next epoch, in the middle of a batch if need be,
and the others do not notice. Nothing here reads a store or knows a model.

Legend: N proteins of a stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
from jaxtyping import Int64

from amma.manifests.errors import InputError
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.permutation import BlockPermutation, Permutation
from amma.train.run.config import MixConfig, StreamName

SEQ, STR, FUNC = MODALITIES

STREAMS: dict[StreamName, tuple[Modality, ...]] = {
    "triplet": (SEQ, STR, FUNC),
    "seq-str": (SEQ, STR),
    "seq-func": (SEQ, FUNC),
}
"""What the proteins of each stream have. A protein with nothing but a sequence takes no part."""

NUMBERS: dict[StreamName, int] = {name: number for number, name in enumerate(STREAMS)}
"""Counters of the random numbers; part of what a seed means, so never renumbered."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One protein of one step: the `position`-th of its stream's epoch `epoch` (all 0-based)."""

    protein: int
    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class Portion:
    """What one step takes from one stream; `weight` is the factor of its loss."""

    stream: StreamName
    weight: float
    draws: tuple[Draw, ...]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What each of these proteins has."""
        return STREAMS[self.stream]


class Stream:
    """The training proteins of one kind, in a random order for every epoch.

    With `blocks`, numbers of proteins in ascending order at which blocks begin, each block is drawn whole before the
    next, in random order and shuffled inside.
    """

    def __init__(
        self,
        name: StreamName,
        proteins: Int64[np.ndarray, " N"],
        *,
        seed: int,
        blocks: Int64[np.ndarray, " K"] | None = None,
    ) -> None:
        self.name = name
        self.proteins_N = proteins
        self._begin_K = None if blocks is None else np.searchsorted(proteins, blocks).astype(np.int64)
        self._seed = seed * len(STREAMS) + NUMBERS[name]
        self._order: tuple[int, Permutation | BlockPermutation] | None = None

    def __len__(self) -> int:
        return len(self.proteins_N)

    def draw(self, start: int, count: int) -> tuple[Draw, ...]:
        """The draws `start` to `start + count - 1`, counted from the stream's very first."""
        draws: list[Draw] = []
        while len(draws) < count:
            epoch, position = divmod(start + len(draws), len(self))
            places = np.arange(position, min(position + count - len(draws), len(self)))
            proteins = self.proteins_N[self._permutation(epoch)(places)]
            draws.extend(Draw(int(protein), epoch, int(place)) for protein, place in zip(proteins, places, strict=True))
        return tuple(draws)

    def _permutation(self, epoch: int) -> Permutation | BlockPermutation:
        order = self._order  # read once: other threads may replace it
        if order is None or order[0] != epoch:
            if self._begin_K is None:
                order = (epoch, Permutation(len(self), seed=self._seed, epoch=epoch))
            else:
                order = (epoch, BlockPermutation(len(self), self._begin_K, seed=self._seed, epoch=epoch))
            self._order = order
        return order[1]


class Mix:
    """The plan of every step, from the streams and how they are mixed.

    Raises `InputError` if no stream with a positive weight has a protein.
    """

    def __init__(self, streams: Sequence[Stream], config: MixConfig) -> None:
        self.streams = [stream for stream in streams if len(stream) and config.weight(stream.name) > 0]
        if not self.streams:
            found = ", ".join(f"{len(stream)} {stream.name}" for stream in streams)
            raise InputError(
                f"nothing to train on: {found} proteins are left. At least one stream needs proteins and a weight "
                "above 0; a protein takes part if it has a structure or a text besides its sequence."
            )
        self.config = config
        weights = [Fraction(str(config.weight(stream.name))) for stream in self.streams]
        shares = [weight * len(stream) for weight, stream in zip(weights, self.streams, strict=True)]
        whole = lcm(*(share.denominator for share in shares))
        self._shares = [int(share * whole) for share in shares]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each protein is drawn about once (`sum`: each of the largest stream)."""
        sizes = [len(stream) for stream in self.streams]
        return -(-(sum(sizes) if self.config.mixing == "interleave" else max(sizes)) // self.config.batch_size)

    def batches_before(self, step: int) -> list[int]:
        """How many batches each stream has given before `step`.

        `interleave` rounds step × share, for the first stream over all steps, for the next over the steps that are
        left, and so on: whole numbers that grow by one in exactly one stream a step and never stray from the exact
        shares by more than one and a half batches.
        """
        if self.config.mixing == "sum":
            return [step] * len(self.streams)
        before = []
        left, shares_left = step, sum(self._shares)
        for share in self._shares:
            count = (2 * left * share + shares_left) // (2 * shares_left)
            before.append(count)
            left -= count
            shares_left -= share
        return before

    def plan(self, step: int) -> tuple[Portion, ...]:
        """What step `step` trains on."""
        portions = []
        size = self.config.batch_size
        for stream, before, after in zip(
            self.streams, self.batches_before(step), self.batches_before(step + 1), strict=True
        ):
            if after > before:
                weight = self.config.weight(stream.name) if self.config.mixing == "sum" else 1.0
                portions.append(Portion(stream.name, weight, stream.draw(before * size, size)))
        return tuple(portions)

    def state(self, step: int) -> dict[str, dict[str, int]]:
        """Where each stream stands before `step`: its own epoch and the position in it."""
        state = {}
        for stream, batches in zip(self.streams, self.batches_before(step), strict=True):
            epoch, position = divmod(batches * self.config.batch_size, len(stream))
            state[str(stream.name)] = {"epoch": epoch, "position": position}
        return state
