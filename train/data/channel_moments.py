"""One pass over the training proteins for the mean and σ of every channel."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int64

from amma.manifests.table import Modality
from amma.train.data.corpus import Corpus
from amma.train.data.loader import Loader
from amma.train.data.packing import Pack, Packer
from amma.train.model.standardise import Moments
from amma.train.run.arithmetic import one_thread

PROTEINS_AT_ONCE = 8
"""Part of what decides the last bits of the statistics, so a constant: the blocks are merged in order."""


def measure_moments(
    corpus: Corpus,
    proteins_N: Int64[np.ndarray, " N"],
    *,
    threads: int,
    advance: Callable[[int], None] = lambda n: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[Modality, Moments] | None:
    """The moments of each modality over all tokens of `proteins_N` (ascending), or None if `stop` said so.

    The same bits for any number of threads. Raises `CorruptStoreError` for rows that fail their checksum.
    """
    pack = Packer()
    present = {modality: corpus.length(modality) > 0 for modality in corpus.widths}

    def block(number: int) -> Mapping[Modality, Moments]:
        chosen = proteins_N[number * PROTEINS_AT_ONCE : (number + 1) * PROTEINS_AT_ONCE]
        return {m: _moments(pack, corpus, m, chosen[present[m][chosen]]) for m in corpus.widths}

    moments = {modality: Moments(width) for modality, width in corpus.widths.items()}
    num_blocks = -(-len(proteins_N) // PROTEINS_AT_ONCE)
    with Loader(block, 0, num_blocks, threads=threads, ahead=2 * threads, begin=one_thread) as blocks:
        for number, measured in enumerate(blocks):
            if stop():
                return None
            for modality, part in measured.items():
                moments[modality].merge(part)
            advance(len(proteins_N[number * PROTEINS_AT_ONCE : (number + 1) * PROTEINS_AT_ONCE]))
    return moments


def _moments(pack: Pack, corpus: Corpus, modality: Modality, proteins: Int64[np.ndarray, " P"]) -> Moments:
    rows = pack(corpus, [int(protein) for protein in proteins], (modality,)).tokens[modality]
    return Moments(corpus.widths[modality]).update(rows.features_TD.numpy())
