"""A small store of real files for the tests of the loop: 24 triplets, 10 seq-str and 6 seq-func pairs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import Modality
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.run.config import RunConfig

# What tests and the processes that they start have in common lies beside them, in modules that are no tests.
sys.path.insert(0, str(Path(__file__).parent))

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
FINGERPRINT = {"seq": {"name": "test", "layer": 2}, "str": {"name": "test"}, "func": {"name": "test"}}
SETTINGS = StoreSettings(shard_rows=256, chunk_rows=64)
SMALL = ModelConfig(
    width=16,
    ffn=32,
    num_fusion_layers=2,
    num_heads=2,
    decoder_width=16,
    decoder_ffn=32,
    num_decoder_layers=1,
    num_decoder_heads=2,
)


def protein_of(name: str, kind: str, rng: np.random.Generator) -> ProteinArrays:
    """Random features; structures lack their third residue."""
    length = int(rng.integers(15, 30))
    residues = np.delete(np.arange(length, dtype=np.int32), 2)
    features = {
        Modality.SEQ: Encoded(rng.normal(1, 2, (length, 8)).astype(np.float32), None, np.ones(8, np.float32)),
        Modality.STR: Encoded(rng.normal(-1, 3, (len(residues), 12)).astype(np.float32), residues),
        Modality.FUNC: Encoded(
            rng.normal(0, 1, (9, 6)).astype(np.float32), np.zeros(9, np.int32), np.ones(6, np.float32)
        ),
    }
    kept = list(WIDTHS) if kind == "triplet" else [Modality(part) for part in kind.split("-")]
    sequence = "".join(rng.choice(LETTERS, length))
    return ProteinArrays(name, sequence, {modality: features[modality] for modality in kept})


StoreMaker = Callable[..., Path]


def write(path: Path, kinds: dict[str, int], *, seed: int = 0, prefix: str = "P", **changes: Any) -> Path:
    rng = np.random.default_rng(seed)
    names = [kind for kind, count in kinds.items() for _ in range(count)]
    proteins = [protein_of(f"{prefix}{number}", kind, rng) for number, kind in enumerate(names)]
    values: dict[str, Any] = {
        "widths": WIDTHS,
        "settings": SETTINGS,
        "fingerprint": FINGERPRINT,
        "random_weights": True,
        **changes,
    }
    write_store(path, proteins, **values)
    return path


@pytest.fixture(scope="session")
def make_store() -> StoreMaker:
    """`make_store(path, {kind: count}, seed=…, prefix=…)` writes and seals a store and gives its path."""
    return write


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    """As small a model as has every part."""
    return SMALL


@pytest.fixture(scope="session")
def widths() -> dict[Modality, int]:
    """Of the stores written here."""
    return WIDTHS


@pytest.fixture(scope="session")
def fingerprint() -> dict[str, Any]:
    """Of the stores written here."""
    return FINGERPRINT


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sealed, read-only by convention; a test that damages it copies it first."""
    kinds = {"triplet": 24, "seq-str": 10, "seq-func": 6, "seq": 2}
    return write(tmp_path_factory.mktemp("store") / "store.zarr", kinds)


@pytest.fixture(scope="session")
def config(store: Path) -> Callable[..., RunConfig]:
    """Makes the settings of a small run; keywords replace single ones."""

    def make(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "stores": (store,),
            "model": SMALL.model_dump(),
            "mask": MaskConfig(visible_tokens=12).model_dump(),
            "epochs": 2,
            "validation_fraction": 0.1,
            "threads": 1,
            "device": "cpu",
        }
        return RunConfig.parse({**values, **changes}, source="test")

    return make
