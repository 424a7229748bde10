"""A protein's representation and prediction are the same alone, in a store of 10 and in a store of 1,000.

Whatever is with it in the store, whatever is with it in the batch, and in whatever order: only rounding may differ,
because the arithmetic library sums matrices of different shapes in different orders.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from amma.evaluate.config import Readout
from amma.evaluate.tuning.head import Head
from amma.evaluate.tuning.readout import AttentionPooling, represent
from amma.featurize.encoders.presets import build_encoders
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.run import featurize
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.build import build_manifest
from amma.manifests.table import MODALITIES, Manifest, Modality, write_manifest
from amma.manifests.toy import write_toy
from amma.train.model.amma import AMMA
from amma.train.model.config import PRESETS
from amma.train.model.standardise import Moments

WIDTHS = {Modality.SEQ: 64, Modality.STR: 96, Modality.FUNC: 48}
SIZES = (1, 10, 1000)
NUM_WATCHED, NUM_TERMS = 10, 7
BOUND = 1e-6
"""See `distance`. In batches of one it is 0: the same to the bit, whatever the store."""
ENCODER_BOUND = 1e-5
"""The same for features that were encoded anew in other company, stored as float32."""
LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))

Found = dict[str, tuple[Tensor, Tensor]]
"""Vector and logits of each protein, by id."""
StoreOf = Callable[[Sequence[int]], Path]
"""Writes a store of the proteins with these numbers."""


def protein(number: int) -> ProteinArrays:
    """Random features from the number alone; every fifth protein lacks its structure, every seventh has no text."""
    rng = np.random.default_rng(number)
    length = int(rng.integers(5, 60))
    residues = np.flatnonzero(rng.random(length) < 0.9).astype(np.int32)
    features = {
        Modality.SEQ: Encoded(rng.normal(1, 2, (length, 64)).astype(np.float32), None, np.ones(64, np.float32)),
        Modality.STR: Encoded(rng.normal(0, 3, (len(residues), 96)).astype(np.float32), residues),
        Modality.FUNC: Encoded(
            rng.normal(0, 1, (9, 48)).astype(np.float32), np.zeros(9, np.int32), np.ones(48, np.float32)
        ),
    }
    absent = {Modality.STR} if number % 5 == 4 else {Modality.FUNC} if number % 7 == 6 else set()
    kept = {modality: rows for modality, rows in features.items() if modality not in absent}
    return ProteinArrays(f"P{number}", "".join(rng.choice(LETTERS, length)), kept)


@pytest.fixture(scope="module")
def arrays_store(tmp_path_factory: pytest.TempPathFactory) -> StoreOf:
    folder = tmp_path_factory.mktemp("arrays")

    @cache
    def write(numbers: tuple[int, ...]) -> Path:
        path = folder / f"{len(numbers)}-{numbers[0]}.zarr"
        fingerprint = {str(modality): {"name": "test"} for modality in MODALITIES}
        proteins = [protein(number) for number in numbers]
        write_store(path, proteins, widths=WIDTHS, fingerprint=fingerprint, random_weights=True)
        return path

    return lambda numbers: write(tuple(numbers))


class Model:
    """A model with a global token, and for each readout a head that tells proteins apart."""

    def __init__(self, store: Path) -> None:
        torch.manual_seed(5)
        self.model = AMMA(PRESETS["tiny"].model.model_copy(update={"global_token": True}), WIDTHS).eval()
        self.poolings: dict[Readout, AttentionPooling | None] = dict.fromkeys(Readout)
        pooling = AttentionPooling(self.model.config.width)
        torch.nn.init.normal_(pooling.score.weight)
        self.poolings[Readout.ATTENTION] = pooling
        self.heads: dict[Readout, Head] = {}
        with FeatureStore(store) as features, torch.no_grad():
            for modality, width in WIDTHS.items():
                moments = Moments(width)
                for row in np.flatnonzero(features.present(modality)):
                    moments.update(features.read(modality, int(row)).features)
                self.model.standardiser.fit(modality, moments)
            for readout in Readout:
                vectors = self.vectors(features, np.arange(NUM_WATCHED), readout)
                self.heads[readout] = Head(vectors, torch.rand(len(vectors), NUM_TERMS) < 0.5).eval()
                torch.nn.init.normal_(self.heads[readout].second.weight)

    def vectors(self, store: FeatureStore, rows: np.ndarray, readout: Readout) -> Tensor:
        return represent(self.model, store, rows, readout, device="cpu", pooling=self.poolings[readout])

    @torch.no_grad()
    def of(self, path: Path, wanted: Sequence[str], readout: Readout, *, batch_size: int) -> Found:
        """Vector and logits of `wanted`, among whatever shares their batches in a random order of the whole store."""
        found = {}
        with FeatureStore(path) as store:
            rows_wanted = {store.row_of(name) for name in wanted}
            order = np.random.default_rng(batch_size).permutation(store.num_proteins)
            for rows in np.split(order, range(batch_size, len(order), batch_size)):
                if rows_wanted.isdisjoint(rows.tolist()):
                    continue
                vectors = self.vectors(store, rows, readout)
                for row, vector, logits in zip(rows, vectors, self.heads[readout](vectors), strict=True):
                    found[store.ids[int(row)]] = (vector, logits)
        return {name: found[name] for name in wanted}


def distance(found: Found, expected: Found, part: int) -> float:
    """Of the protein that is furthest off, the root mean square difference over the root mean square of all."""
    one, other = (torch.stack([each[part] for each in figures.values()]) for figures in (found, expected))
    return float((one - other).square().mean(dim=1).sqrt().max() / other.square().mean().sqrt())


def compare(store_of: StoreOf, readout: Readout) -> Iterator[tuple[int, int, float, float]]:
    """Store size, batch size, and how far vectors and logits are off those of each protein in a store of its own."""
    everyone = list(range(SIZES[-1]))
    single = [store_of([number]) for number in everyone[:NUM_WATCHED]]
    stores = {size: store_of(everyone[:size]) for size in SIZES[1:]}
    model = Model(stores[SIZES[1]])
    alone: Found = {}
    for path in single:
        with FeatureStore(path) as store:
            (name,) = store.ids
        alone |= model.of(path, [name], readout, batch_size=1)
    rotated = dict(zip(alone, [*list(alone.values())[1:], next(iter(alone.values()))], strict=True))
    assert min(distance(rotated, alone, part) for part in (0, 1)) > 0.1  # proteins differ, or this shows nothing
    for size, path in stores.items():
        for batch_size in (1, 4, 64):
            among = model.of(path, list(alone), readout, batch_size=batch_size)
            yield size, batch_size, distance(among, alone, 0), distance(among, alone, 1)


@pytest.mark.parametrize("readout", list(Readout))
def test_it_is_the_same_in_stores_of_equal_features(readout: Readout, arrays_store: StoreOf) -> None:
    for size, batch_size, vectors, logits in compare(arrays_store, readout):
        bound = 0.0 if batch_size == 1 else BOUND
        assert vectors <= bound, (size, batch_size)
        assert logits <= bound, (size, batch_size)


@pytest.fixture(scope="module")
def featurized_store(tmp_path_factory: pytest.TempPathFactory) -> StoreOf:
    """Through the encoders of preset `tiny`, from a synthetic proteome's files."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder / "data", proteins=SIZES[-1], seed=11)
    everyone = folder / "everyone.parquet"
    files = {"sequences": "sequences.fasta", "structures": "structures", "descriptions": "descriptions.tsv"}
    build_manifest(**{name: folder / "data" / file for name, file in files.items()}, out=everyone)
    rows = list(Manifest(everyone))
    encoders = build_encoders("tiny", device="cpu")

    @cache
    def write(numbers: tuple[int, ...]) -> Path:
        name = f"{len(numbers)}-{numbers[0]}"
        write_manifest(folder / f"{name}.parquet", [rows[number] for number in numbers])
        settings = StoreSettings.parse({"dtype": "float32"}, source="test")
        featurize(Manifest(folder / f"{name}.parquet"), folder / f"{name}.zarr", encoders, settings)
        return folder / f"{name}.zarr"

    return lambda numbers: write(tuple(numbers))


@pytest.mark.slow
@pytest.mark.parametrize("readout", list(Readout))
def test_it_is_the_same_in_stores_that_the_encoders_wrote(readout: Readout, featurized_store: StoreOf) -> None:
    for size, batch_size, vectors, logits in compare(featurized_store, readout):
        assert vectors <= ENCODER_BOUND, (size, batch_size)
        assert logits <= ENCODER_BOUND, (size, batch_size)
