"""Proteins packed one after the other, a matrix per modality, without any padding.

Offsets stay in host memory wherever the features are: whatever depends on lengths is worked out there, and no step
ever waits for the device to tell how long a protein is.

Shapes: B proteins, T tokens of one modality over the whole batch, D width of its features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality

Visible = Mapping[Modality, Bool[Tensor, " _T"]]
"""For each modality, True where the fusion encoder sees a token; best kept in host memory, like offsets."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of one modality: protein b owns the rows `offsets[b]:offsets[b + 1]`.

    `position_T` is the residue index (sequence and structure) or the token index (text), 0-based in each protein.
    Raises `ValueError` if the offsets do not describe the rows.
    """

    features_TD: Float[Tensor, "T D"]
    offsets: Int64[Tensor, " offsets"]
    position_T: Int64[Tensor, " T"]

    def __post_init__(self) -> None:
        if self.offsets.device.type != "cpu":
            raise ValueError("offsets belong in host memory, also when the features are on a device")
        ends = self.offsets
        if not len(ends) or ends[0] != 0 or ends[-1] != len(self.features_TD) or bool((ends.diff() < 0).any()):
            raise ValueError(
                f"offsets must rise from 0 to the number of rows, {len(self.features_TD)}; got {ends.tolist()[:8]}"
            )

    @property
    def lengths(self) -> Int64[Tensor, " _B"]:
        """Tokens of each protein (host memory)."""
        return self.offsets.diff()

    def protein_T(self) -> Int64[Tensor, " _T"]:
        """Which protein of the batch each token belongs to (on the features' device)."""
        index_B = torch.arange(len(self.offsets) - 1)
        return index_B.repeat_interleave(self.lengths).to(self.features_TD.device, non_blocking=True)

    def of(self, protein: int) -> Float[Tensor, "_T _D"]:
        """The features of one protein (a view)."""
        start, end = self.offsets[protein : protein + 2].tolist()
        return self.features_TD[start:end]

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens with features and positions on `device`; the offsets stay where they are."""
        return Tokens(
            self.features_TD.to(device, non_blocking=True), self.offsets, self.position_T.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class PackedBatch:
    """Proteins that all have the same modalities; a modality they lack has no entry in `tokens`.

    Sequence rows are the residues in order, from residue 0; each structure row names in its position the residue
    (a sequence row) it belongs to. Raises `ValueError` where the modalities do not fit together; the positions
    of structures are checked in host memory only.
    """

    ids: tuple[str, ...]
    tokens: dict[Modality, Tokens]

    def __post_init__(self) -> None:
        for modality, tokens in self.tokens.items():
            if len(tokens.offsets) != len(self.ids) + 1:
                raise ValueError(f"{modality}: {len(tokens.offsets) - 1} proteins, but {len(self.ids)} ids")
        structure, sequence = self.tokens.get(Modality.STR), self.tokens.get(Modality.SEQ)
        if structure is None or sequence is None or structure.position_T.device.type != "cpu":
            return
        limit_T = sequence.lengths.repeat_interleave(structure.lengths)
        stray_T = (structure.position_T < 0) | (structure.position_T >= limit_T)
        if bool(stray_T.any()):
            owner = self.ids[int(structure.protein_T()[stray_T][0])]
            raise ValueError(f"{owner}: a structure row names a residue that its sequence has no row for")

    @property
    def num_proteins(self) -> int:
        """How many proteins the batch holds."""
        return len(self.ids)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What these proteins have, in the order used everywhere."""
        return tuple(modality for modality in MODALITIES if modality in self.tokens)

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch with features and positions on `device`."""
        return PackedBatch(self.ids, {modality: tokens.to(device) for modality, tokens in self.tokens.items()})


@dataclass(frozen=True)
class Fused:
    """What the fusion encoder gives: its output at the visible tokens, sorted back into modalities.

    A model that is not `per_token` gives one token for each protein and modality instead, at position 0. `global_BD`
    is the output at each protein's global token; None if the model has no such token.
    """

    ids: tuple[str, ...]
    tokens: dict[Modality, Tokens]
    global_BD: Float[Tensor, "B D"] | None = None


def pack(
    ids: tuple[str, ...], rows: Mapping[Modality, list[tuple[Float[Tensor, "_T _D"], Int64[Tensor, " _T"]]]]
) -> PackedBatch:
    """A batch from the separate proteins: for each modality, in the order of `ids`, features and positions."""
    tokens = {}
    for modality in MODALITIES:
        if modality not in rows:
            continue
        features, positions = zip(*rows[modality], strict=True)
        lengths_B = torch.tensor([len(matrix) for matrix in features])
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_B.cumsum(0)])
        tokens[modality] = Tokens(torch.cat(features), offsets, torch.cat(positions))
    return PackedBatch(ids, tokens)
