"""One vector for each protein and modality: the mean over its tokens of features, projections or fused outputs.

Nothing is masked. What is *fused* is the fusion encoder's output, of all modalities together or of each alone; *lifted*
is that behind the linear map ℓ which leads from there to a decoder. All of it is in float32 and computed with given
batches, so the same proteins give the same bits on one machine.

Legend: N proteins, B of a batch, T tokens of one modality, F feature width, D width of a vector.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.packing import Packer
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.fusion import FusionModel

VECTORS = "vectors.parquet"
TOKEN_BUDGET = 8192
"""Most tokens of a batch, of all modalities."""

Vectors = dict[Modality, Float32[np.ndarray, "N _D"]]
View = Callable[[PackedBatch], Mapping[Modality, Tensor]]
"""A vector for each protein of a batch and modality."""


def mean_vectors(tokens: Tokens) -> Float32[Tensor, "_B _D"]:
    """The mean over the tokens of each protein."""
    lengths_B = tokens.lengths.to(tokens.features_TD.device)
    return torch.segment_reduce(tokens.features_TD.float(), "mean", lengths=lengths_B)


def raw(batch: PackedBatch) -> dict[Modality, Tensor]:
    """Of the encoders' own features, as they are stored."""
    return {modality: mean_vectors(tokens) for modality, tokens in batch.tokens.items()}


def projected(model: FusionModel) -> View:
    """Of the projections to the fusion encoder's width: no positions, no other tokens.

    A contrastive model projects the mean of the features, not the features (Eq. 14).
    """

    def of(batch: PackedBatch) -> dict[Modality, Tensor]:
        vectors = {}
        for modality, tokens in batch.tokens.items():
            if model.per_token:
                rows_TD = model.projections[modality](model.standardiser(modality, tokens.features_TD))
                vectors[modality] = mean_vectors(Tokens(rows_TD, tokens.offsets, tokens.position_T))
            else:
                mean_BF = model.standardiser(modality, mean_vectors(tokens))
                vectors[modality] = model.projections[modality](mean_BF)
        return vectors

    return of


def together(model: FusionModel) -> View:
    """Fused, all modalities of a protein given at once: their tokens attend to each other."""

    def of(batch: PackedBatch) -> dict[Modality, Tensor]:
        return {modality: mean_vectors(tokens) for modality, tokens in model.fuse(batch).tokens.items()}

    return of


def alone(model: FusionModel) -> View:
    """Fused, each modality given by itself: vectors that agree do so without having seen each other."""

    def of(batch: PackedBatch) -> dict[Modality, Tensor]:
        return {
            modality: mean_vectors(model.fuse(PackedBatch(batch.ids, {modality: tokens})).tokens[modality])
            for modality, tokens in batch.tokens.items()
        }

    return of


def lifts_of(model: FusionModel) -> nn.ModuleDict | None:
    """The maps ℓ to the decoders, by modality; None if the model has none, or not one for each modality."""
    lifts = getattr(model, "lifts", None)
    return lifts if isinstance(lifts, nn.ModuleDict) and all(m in lifts for m in model.widths) else None


def lifted(model: FusionModel, vectors: Mapping[Modality, Float[np.ndarray, "N _D"]]) -> Vectors:
    """Vectors of fused outputs behind ℓ: a linear map of the mean is the mean of what it makes of each token."""
    lifts = lifts_of(model)
    if lifts is None:
        raise ValueError("this model has no map from the fusion encoder to a decoder for each modality")
    device = next(lifts.parameters()).device
    with torch.no_grad():
        return {m: lifts[m](torch.from_numpy(of).to(device)).float().cpu().numpy() for m, of in vectors.items()}


@torch.no_grad()
def collect(
    store: FeatureStore,
    rows: Int64[np.ndarray, " N"],
    views: Mapping[str, View],
    *,
    device: torch.device | str = "cpu",
    modalities: Sequence[Modality] = MODALITIES,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Vectors]:
    """What each view gives of the proteins `rows`, which all have the `modalities`; read once for all views."""
    pack = Packer(device)
    parts: dict[str, dict[Modality, list[Tensor]]] = {name: {m: [] for m in modalities} for name in views}
    order: list[int] = []
    for places in batches(store, rows, modalities):
        batch = pack(store, rows[places].tolist(), modalities)
        for name, view in views.items():
            for modality, vector_BD in view(batch).items():
                parts[name][modality].append(vector_BD.float().cpu())
        order += places
        advance(len(places))
    back_N = np.argsort(order)
    return {
        name: {modality: torch.cat(of).numpy()[back_N] for modality, of in by_modality.items()}
        for name, by_modality in parts.items()
    }


def batches(
    store: FeatureStore, rows: Int64[np.ndarray, " N"], modalities: Sequence[Modality], budget: int = TOKEN_BUDGET
) -> Iterator[list[int]]:
    """Places in `rows`, longest proteins first, as many as the budget allows or a single one."""
    cost_N = np.sum([store.length(modality)[rows].astype(np.int64) for modality in modalities], axis=0)
    batch: list[int] = []
    left = 0
    for place in np.argsort(-cost_N, kind="stable").tolist():
        cost = int(cost_N[place])
        if batch and cost > left:
            yield batch
            batch = []
        left = (left if batch else budget) - cost
        batch.append(place)
    if batch:
        yield batch


def write_vectors(path: Path, ids: Sequence[str], vectors: Mapping[str, Vectors]) -> None:
    """Write vectors as Parquet: a row for each protein, kind (the mapping's keys) and modality."""
    metadata = {"amma": json.dumps({"format": "vectors", "version": "1.0"})}
    fields = [("id", pa.string()), ("kind", pa.string()), ("modality", pa.string()), ("vector", pa.list_(pa.float32()))]
    schema = pa.schema(fields, metadata=metadata)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for kind, by_modality in vectors.items():
            for modality, vector_ND in by_modality.items():
                count, width = vector_ND.shape
                ends = pa.array(np.arange(count + 1, dtype=np.int32) * width)
                columns = [
                    pa.array(list(ids)),
                    pa.array([kind] * count),
                    pa.array([str(modality)] * count),
                    pa.ListArray.from_arrays(ends, pa.array(vector_ND.astype(np.float32).ravel())),
                ]
                writer.write_table(pa.table(columns, schema=schema))
