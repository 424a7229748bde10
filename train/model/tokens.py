"""Choosing tokens, laying modalities side by side protein by protein, and finding rows again.

All of it is arithmetic on lengths in host memory; only the finished row numbers go to the device.

Shapes: B proteins, T tokens of one modality, P parts, J rows of the joint matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from amma.train.model.batch import Tokens


def select(tokens: Tokens, chosen_T: Bool[Tensor, " T"]) -> tuple[Tokens, Int64[Tensor, " V"]]:
    """The chosen tokens, and the rows they came from (on the features' device)."""
    chosen_T = chosen_T.cpu()
    row_V = chosen_T.nonzero().squeeze(1)
    before = torch.cat([torch.zeros(1, dtype=torch.int64), chosen_T.cumsum(0)])
    device_row_V = row_V.to(tokens.features_TD.device, non_blocking=True)
    kept = Tokens(
        tokens.features_TD.index_select(0, device_row_V),
        before[tokens.offsets],
        tokens.position_T.index_select(0, device_row_V),
    )
    return kept, device_row_V


@dataclass(frozen=True)
class Readout:
    """Rows of a joint matrix that are wanted, protein by protein in its order; `offsets` delimit the proteins.

    `back_T[i]` says where token i of the part that is read has come to lie among them.
    """

    row_Q: Int64[Tensor, " Q"]
    offsets: Int64[Tensor, " offsets"]
    back_T: Int64[Tensor, " Q"]


@dataclass(frozen=True)
class Joint:
    """How several packed parts lie in one matrix: protein by protein, and within a protein part by part.

    Proteins are sorted by their joint length, so that attention takes equal ones together. `offsets` delimit the
    proteins in that order (host memory); row `row_J[i]` of the matrix is row i of the concatenated parts, and
    `order_J` is the inverse of that.
    """

    offsets: Int64[Tensor, " offsets"]
    row_J: Int64[Tensor, " J"]
    order_J: Int64[Tensor, " J"]
    sizes: list[int]
    readout: Readout | None = None

    def lay(self, parts: Sequence[Float[Tensor, "_T _W"]]) -> Float[Tensor, "_J _W"]:
        """The joint matrix of the parts."""
        return torch.cat(list(parts)).index_select(0, self.order_J)

    def take_apart(self, joint_JW: Float[Tensor, "J W"]) -> tuple[Float[Tensor, "_T _W"], ...]:
        """The parts of a joint matrix, each in its own order again."""
        return torch.split(joint_JW.index_select(0, self.row_J), self.sizes)


def join(parts: Sequence[Int64[Tensor, " offsets"]], device: torch.device, *, read: int | None = None) -> Joint:
    """Work out the joint layout of parts that are given by their offsets; row numbers go to `device`.

    With `read`, also how to read off that part alone.
    """
    lengths_PB = torch.stack([offsets.diff() for offsets in parts])
    joint_B = lengths_PB.sum(0)
    sorted_B = joint_B.argsort(stable=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), joint_B[sorted_B].cumsum(0)])
    start_B = torch.empty_like(joint_B)
    start_B[sorted_B] = offsets[:-1]
    start_PB = start_B + lengths_PB.cumsum(0) - lengths_PB
    rows = []
    for part, starts_B, lengths_B in zip(parts, start_PB, lengths_PB, strict=True):
        shift_T = (starts_B - part[:-1]).repeat_interleave(lengths_B)
        rows.append(torch.arange(len(shift_T)) + shift_T)
    row_J = torch.cat(rows)
    order_J = torch.empty_like(row_J)
    order_J[row_J] = torch.arange(len(row_J))
    return Joint(
        offsets,
        row_J.to(device, non_blocking=True),
        order_J.to(device, non_blocking=True),
        [len(row) for row in rows],
        None if read is None else _readout(rows[read], lengths_PB[read][sorted_B], device),
    )


def _readout(row_T: Int64[Tensor, " T"], sorted_lengths_B: Int64[Tensor, " B"], device: torch.device) -> Readout:
    row_Q, order_Q = row_T.sort()
    back_T = torch.empty_like(order_Q)
    back_T[order_Q] = torch.arange(len(order_Q))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sorted_lengths_B.cumsum(0)])
    return Readout(row_Q.to(device, non_blocking=True), offsets, back_T.to(device, non_blocking=True))


def residue_rows(structure: Tokens, sequence: Tokens) -> Int64[Tensor, " _T"]:
    """The sequence row of each structure token: residues without a Cα have no structure token, so rows differ."""
    shift_T = sequence.offsets[:-1].repeat_interleave(structure.lengths)
    return structure.position_T + shift_T.to(structure.position_T.device, non_blocking=True)
