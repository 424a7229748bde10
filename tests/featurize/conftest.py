"""Small stores for tests: random arrays, and a deterministic encoder that needs nothing but numpy."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.writer import ProteinArrays
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs there cost nothing. A kill looks the same on both."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=shm))
    yield folder
    shutil.rmtree(folder)


def random_encoded(rng: np.random.Generator, modality: Modality, rows: int) -> Encoded:
    width = WIDTHS[modality]
    limit = rows + 3 if modality is Modality.STR else 5
    return Encoded(
        features=rng.standard_normal((rows, width), dtype=np.float32),
        index=None if modality is Modality.SEQ else rng.integers(0, limit, rows).astype(np.int32),
        cls=None if modality is Modality.STR else rng.standard_normal(width, dtype=np.float32),
    )


def random_protein(rng: np.random.Generator, number: int, lengths: dict[Modality, int]) -> ProteinArrays:
    features = {modality: random_encoded(rng, modality, rows) for modality, rows in lengths.items() if rows}
    return ProteinArrays(f"P{number}/ü", "".join(rng.choice(list("ACDEF"), lengths[Modality.SEQ])), features)


@pytest.fixture
def random_proteins() -> Callable[..., list[ProteinArrays]]:
    """Give proteins with random features; some lack a structure, some a text."""

    def make(count: int, *, longest: int = 30, seed: int = 0) -> list[ProteinArrays]:
        rng = np.random.default_rng(seed)
        proteins = []
        for number in range(count):
            lengths = {m: int(rng.integers(1, longest + 1)) for m in MODALITIES}
            for modality in (Modality.STR, Modality.FUNC):
                lengths[modality] *= int(rng.random() < 0.8)
            proteins.append(random_protein(rng, number, lengths))
        return proteins

    return make


@pytest.fixture
def tree() -> Callable[[Path], dict[str, str]]:
    """Give the sha256 of every file below a folder."""

    def of(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return of
