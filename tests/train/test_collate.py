import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.collate import collate


def test_a_batch_holds_exactly_the_rows_of_its_proteins(store: Path) -> None:
    with FeatureStore(store) as features:
        triplets = [row for row, kind in enumerate(features.kinds()) if kind == "triplet"][:5]
        batch = collate(features, triplets, MODALITIES)
        assert batch.ids == tuple(features.ids[row] for row in triplets)
        for modality in MODALITIES:
            tokens = batch.tokens[modality]
            assert tokens.features_TD.dtype == torch.float32
            for place, row in enumerate(triplets):
                stored = features.read(modality, row)
                start, end = tokens.offsets[place], tokens.offsets[place + 1]
                assert np.array_equal(tokens.of(place).numpy(), stored.features.astype(np.float32))
                expected = stored.index if modality is Modality.STR else np.arange(len(stored.features))
                assert np.array_equal(tokens.position_T[start:end].numpy(), expected)


def test_structure_positions_skip_residues_without_coordinates(store: Path) -> None:
    with FeatureStore(store) as features:
        row = features.kinds().index("seq-str")
        batch = collate(features, [row], (Modality.SEQ, Modality.STR))
        assert set(batch.tokens) == {Modality.SEQ, Modality.STR}
        assert batch.tokens[Modality.STR].position_T[:4].tolist() == [0, 1, 3, 4]


def test_a_damaged_row_is_an_error_that_names_the_protein(store: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(store, damaged)
    shard = next(
        path
        for path in sorted((damaged / "seq" / "features").rglob("*"))
        if path.is_file() and path.name != "zarr.json"
    )
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with FeatureStore(damaged) as features:
        rows = range(features.num_proteins)
        first = min((int(features.start(Modality.SEQ)[row]), row) for row in rows)[1]
        with pytest.raises(CorruptStoreError, match=features.ids[first]):
            collate(features, [first], (Modality.SEQ,))
