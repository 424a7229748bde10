"""One vector a protein from the fusion encoder's outputs: at its residues, or at its global token.

A protein's vector does not depend on its batch mates. Sequence and structure go in; a protein that has only one of the
two goes in with that one. Nothing is masked, or, of several masks in turn, what each shows (`VisibleDraws`): the vector
is the mean of those read out then. A model that is not `per_token` gives the vector itself.

Shapes: B proteins, T residues of the whole batch, D fusion width.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from amma.evaluate.config import Readout
from amma.evaluate.tasks.task import INPUTS
from amma.evaluate.tuning.visible import VisibleDraws
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import UsageError
from amma.manifests.table import Modality
from amma.train.data.collate import collate
from amma.train.model.batch import Fused, PackedBatch
from amma.train.model.fusion import FusionModel


class AttentionPooling(nn.Module):
    """The weighted mean of a protein's residues: a softmax over them of one learned linear score.

    The score starts at zero for all, which is the plain mean; the head on top, made for that, fits at the start.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, features_TD: Float[Tensor, "T D"], lengths_B: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """The vector of each protein; residues are packed one protein after the other."""
        score_T1 = self.score(features_TD)
        # Softmax is the same whatever is subtracted; the largest score keeps the exponentials finite.
        largest_B1 = torch.segment_reduce(score_T1.detach(), "max", lengths=lengths_B)
        weight_T1 = (score_T1 - largest_B1.repeat_interleave(lengths_B, dim=0)).exp()
        total_B1 = torch.segment_reduce(weight_T1, "sum", lengths=lengths_B)
        return torch.segment_reduce(features_TD * weight_T1, "sum", lengths=lengths_B) / total_B1


def read_out(fused: Fused, readout: Readout, pooling: AttentionPooling | None = None) -> Float[Tensor, "B D"]:
    """The vector of each protein of a batch, in the batch's order; differentiable. `attention` needs its `pooling`."""
    if readout is Readout.GLOBAL:
        if fused.global_BD is None:
            raise ValueError("readout global needs a model with a global token")
        return fused.global_BD
    tokens = fused.tokens[Modality.SEQ if Modality.SEQ in fused.tokens else Modality.STR]
    features_TD = tokens.features_TD
    lengths_B = tokens.offsets.diff()
    if not bool((lengths_B > 0).all()):
        raise ValueError("a protein without a single residue has no readout")
    if readout is Readout.FIRST:
        return features_TD.index_select(0, tokens.offsets[:-1].to(features_TD.device))
    lengths_B = lengths_B.to(features_TD.device)
    if readout is Readout.MEAN:
        return torch.segment_reduce(features_TD, "mean", lengths=lengths_B)
    if pooling is None:
        raise ValueError("readout attention needs the pooling that was learned with the head")
    pooled_BD: Tensor = pooling(features_TD, lengths_B)
    return pooled_BD


def check_readout(model: FusionModel, readout: Readout) -> None:
    """Raise `UsageError` if the model has nothing to be read out so."""
    if not model.per_token and readout is not Readout.MEAN:
        raise UsageError(
            f"--readout {readout.value}: this checkpoint's model ({model.config.family}) gives a protein one vector "
            "and no tokens to choose from. Give --readout mean: that vector."
        )
    if readout is Readout.GLOBAL and model.global_token is None:
        raise UsageError(
            "--readout global: this checkpoint's model has no global token. Give another readout, or a checkpoint of "
            "amma-train pretrain --global-token."
        )


def represent(
    model: FusionModel,
    store: FeatureStore,
    proteins: Int64[np.ndarray, " B"],
    readout: Readout,
    *,
    device: torch.device | str,
    pooling: AttentionPooling | None = None,
    frozen: bool = False,
    renew: Callable[[PackedBatch, Int64[np.ndarray, " B"]], PackedBatch] | None = None,
    draws: VisibleDraws | None = None,
) -> Float[Tensor, "B D"]:
    """The vectors of `proteins` (numbers in the store), in their order; one pass for each set of modalities and mask.

    With `frozen`, gradients reach the `pooling` and stop there. `renew` may put other features into the place of the
    store's, given a batch on the device and the numbers of its proteins. Raises `UsageError` if the model cannot be
    read so.
    """
    check_readout(model, readout)
    groups: dict[tuple[Modality, ...], list[int]] = {}
    length = {modality: store.length(modality) for modality in INPUTS}
    for place, protein in enumerate(proteins.tolist()):
        groups.setdefault(tuple(m for m in INPUTS if length[m][protein]), []).append(place)
    vectors = []
    for modalities, places in groups.items():
        batch = collate(store, proteins[places].tolist(), modalities).to(device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            if renew is not None:
                batch = renew(batch, proteins[places])
            if draws is None:
                fused = [model.fuse(batch)]
            else:
                masks = (draws.masks(batch, proteins[places], draw, readout) for draw in range(draws.number))
                fused = [model.fuse(batch, visible) for visible in masks]
        each = [read_out(one, readout, pooling) for one in fused]
        vectors.append(each[0] if draws is None else torch.stack(each).mean(dim=0))
    order = np.argsort(np.concatenate([np.array(places) for places in groups.values()]))
    return torch.cat(vectors).index_select(0, torch.from_numpy(order).to(device))
