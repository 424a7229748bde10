"""The contrastive loss (Eq. 16): a protein's vectors are to find each other among those of the whole batch.

Shapes: B proteins of this rank, N of all ranks, D fusion width.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from amma.manifests.table import MODALITIES
from amma.train.model.batch import PackedBatch, Visible
from amma.train.model.contrastive import Contrastive
from amma.train.model.fusion import FusionModel
from amma.train.model.objective import ErrorSum, Losses, Objective, alone

SEQ, STR, FUNC = MODALITIES
STRUCTURE, FUNCTION, INPUT = "seq-str", "seq-func", "seq-input"
"""Terms: the encoder's outputs with the structures' vectors, with the functions', and with its own inputs."""


class Contrast(Objective):
    """con(z_seq, z_str) + con(z_seq, z_func) + con(z_seq, z′_seq), of the modalities that a batch has.

    z_seq is the encoder's output and z′_seq its input, all others are projections. Nothing is masked: masks are not
    looked at. The candidates of a protein are all others of the batch, on all ranks, but never itself drawn twice.
    """

    adds_up = False
    masked = False

    def counts(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> dict[str, int]:
        """The proteins of the batch, for each term."""
        modalities = (SEQ, *batch.modalities)
        terms = {STRUCTURE: STR, FUNCTION: FUNC, INPUT: SEQ}
        return {term: batch.num_proteins for term, other in terms.items() if other in modalities}

    def __call__(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> Losses:
        """The sum over this rank's proteins of each term; one that has no other to be told from counts nothing."""
        if not isinstance(model, Contrastive):
            raise TypeError(f"contrast needs a contrastive model, not {type(model).__name__}")
        contrasted = model(batch)
        if contrasted.encoded_BD is None:
            raise ValueError("contrast needs proteins with a sequence")
        others = {STRUCTURE: STR, FUNCTION: FUNC, INPUT: SEQ}
        others_BD = {term: contrasted.projected[m] for term, m in others.items() if m in contrasted.projected}
        gather = self._gather if model.training else alone
        # All at once: one exchange between ranks.
        own = torch.stack([contrasted.encoded_BD, *others_BD.values()], dim=1)
        if self.config.normalise:
            own = normalize(own, dim=2)
        whole, first = gather(own)
        key_B = _keys(batch.ids).to(own.device, non_blocking=True)
        key_N, _ = gather(key_B)
        column_B = torch.arange(first, first + len(key_B), device=own.device)
        again_BN = (key_B[:, None] == key_N).scatter(1, column_B[:, None], value=False)
        count = len(key_B) if len(key_N) > 1 else 0
        chance = ErrorSum((len(key_N) - again_BN.sum(dim=1)).float().log().sum(), count)
        losses = {}
        with torch.autocast(own.device.type, enabled=False):
            for place, term in enumerate(others_BD, start=1):
                total = info_nce(own[:, 0], whole[:, place], column_B, again_BN, self.config.temperature)
                back = info_nce(own[:, place], whole[:, 0], column_B, again_BN, self.config.temperature)
                losses[term] = ErrorSum((total + back) / 2, count)
        return Losses(losses, chance=dict.fromkeys(losses, chance))


def info_nce(
    query_BD: Float[Tensor, "B D"],
    key_ND: Float[Tensor, "N D"],
    column_B: Int64[Tensor, " B"],
    left_out_BN: Bool[Tensor, "B N"],
    temperature: float,
) -> Float32[Tensor, ""]:
    """Σ over queries of -log softmax(q·k/τ) at each one's own key, `column_B` (van den Oord et al., arXiv 1807.03748).

    `left_out_BN` is True for keys that are no candidates.
    """
    logits_BN = (query_BD @ key_ND.T / temperature).masked_fill(left_out_BN, -torch.inf)
    return cross_entropy(logits_BN, column_B, reduction="sum")


def _keys(ids: Sequence[str]) -> Int64[Tensor, " B"]:
    """A number for each id: the same on every rank, and different for different ids."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)
