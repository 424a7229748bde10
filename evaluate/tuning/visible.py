"""Which tokens of a protein a model sees when it represents it: all, or those that masks of pretraining show.

A model of masked pretraining never saw a whole protein. So instead of showing it one, a protein's vector may be the
mean of K read-outs, each of the tokens that one mask of the checkpoint shows: as many (M), shared by the same
Dirichlet and with the same limits, of sequence and structure, which are all that a task gives. No modality is hidden
whole on purpose.

The masks are fixed: a pure function of a protein's sequence, its numbers of tokens and the number of the draw. So a
protein has the same vector whenever it is asked for, in any batch, at any place, in any store of the same features.

Legend: B proteins, T tokens of one modality over the whole batch.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from amma.evaluate.config import FinetuneConfig, Readout, Visible
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import UsageError
from amma.manifests.table import Modality
from amma.train.data.sequence_hash import sequence_hash
from amma.train.model.batch import PackedBatch
from amma.train.model.config import MaskConfig
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import draw_visible, generator_for
from amma.train.run.checkpoint import STATE, LoadedModel

SEED, COUNTER = 0, 1405
"""The masks are drawn by `generator_for(SEED, COUNTER, hash of the sequence, draw)`: apart from all other numbers."""


class VisibleDraws:
    """`number` masks for each protein of a store."""

    def __init__(self, store: FeatureStore, number: int, mask: MaskConfig) -> None:
        self.number = number
        self._mask = mask.model_copy(update={"modality_dropout": 0.0})
        self._sequences = store.sequences()
        self._hash: dict[int, int] = {}

    def masks(
        self, batch: PackedBatch, proteins: Int64[np.ndarray, " B"], draw: int, readout: Readout
    ) -> dict[Modality, Bool[Tensor, " _T"]]:
        """What a draw shows of each of `proteins` (numbers in the store; the batch holds them), in host memory.

        There is always something to read: of a protein that shows none of the tokens that are read out, one of them,
        drawn at random, is shown besides. With readout `first` that is residue 1, in the place of another one.
        """
        lengths = {modality: batch.tokens[modality].lengths.tolist() for modality in batch.modalities}
        drawn: dict[Modality, list[Bool[np.ndarray, " _T"]]] = {modality: [] for modality in lengths}
        read = Modality.SEQ if Modality.SEQ in lengths else Modality.STR
        for place, name in enumerate(self._hashes(proteins)):
            rng = generator_for(SEED, COUNTER, name, draw)
            visible = draw_visible(rng, {modality: of_all[place] for modality, of_all in lengths.items()}, self._mask)
            if readout is not Readout.GLOBAL:
                show_what_is_read(rng, visible[read], readout)
            for modality, visible_T in visible.items():
                drawn[modality].append(visible_T)
        return {modality: torch.from_numpy(np.concatenate(masks)) for modality, masks in drawn.items()}

    def _hashes(self, proteins: Int64[np.ndarray, " B"]) -> list[int]:
        unknown = [protein for protein in proteins.tolist() if protein not in self._hash]
        for protein, sequence in zip(unknown, self._sequences.take(unknown), strict=True):
            self._hash[protein] = sequence_hash(sequence)
        return [self._hash[protein] for protein in proteins.tolist()]


def show_what_is_read(rng: np.random.Generator, visible_T: Bool[np.ndarray, " T"], readout: Readout) -> None:
    """Change the mask of what is read out of a protein, if it shows nothing to read."""
    if readout is Readout.FIRST:
        if not visible_T[0] and visible_T.any():
            visible_T[rng.choice(np.flatnonzero(visible_T))] = False
        visible_T[0] = True
    elif not visible_T.any():
        visible_T[rng.integers(len(visible_T))] = True


def visible_draws(config: FinetuneConfig, trained: LoadedModel, store: FeatureStore) -> VisibleDraws | None:
    """The masks that a configuration asks for, None if everything is visible; M and α are the checkpoint's."""
    if config.draws is None:
        return None
    return VisibleDraws(store, config.draws, mask_of(trained))


def mask_of(trained: LoadedModel) -> MaskConfig:
    """What the checkpoint's masks were drawn by."""
    return MaskConfig.parse(trained.config["mask"], source=str(trained.path / STATE))


def check_visible(model: FusionModel, visible: Visible) -> None:
    """Raise `UsageError` if the model was pretrained without masks."""
    if visible is Visible.DRAWS and not model.per_token:
        raise UsageError(
            f"--visible {visible.value}: this checkpoint's model ({model.config.family}) was pretrained without masks. "
            "Give --visible all."
        )
