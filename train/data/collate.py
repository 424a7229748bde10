"""Read proteins from a store into one packed batch of its own memory."""

from collections.abc import Sequence

from amma.manifests.table import Modality
from amma.train.data.corpus import FeatureSource
from amma.train.data.packing import Packer
from amma.train.model.batch import PackedBatch


def collate(store: FeatureSource, proteins: Sequence[int], modalities: Sequence[Modality]) -> PackedBatch:
    """The rows of `proteins` in each of `modalities`, in float32 and host memory: as a `Packer` that is used once."""
    return Packer()(store, proteins, modalities)
