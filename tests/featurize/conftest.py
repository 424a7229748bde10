"""Small stores for tests: random arrays, and a deterministic encoder that needs nothing but numpy."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import MODALITIES, Manifest, Modality, Protein, write_manifest

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}


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


class FakeEncoder:
    """An encoder whose rows are plain arithmetic of the input: exact in any batch, and different for each modality.

    `failing` maps ids to what happens to them: an exception to raise, or a number to put among the features. With
    `room`, memory is enough for so many proteins at once.
    """

    def __init__(self, modality: Modality, failing: dict[str, Exception | float] | None = None) -> None:
        self.name = f"fake-{modality}"
        self.modality = modality
        self.width = WIDTHS[modality]
        self.random_weights = True
        self.layer = 1
        self.failing = failing or {}
        self.room: int | None = None
        self.batches: list[list[str]] = []

    def fingerprint(self) -> dict[str, object]:
        return {"encoder": self.name, "layer": self.layer}

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        count = {
            Modality.SEQ: lambda p: len(p.sequence),
            Modality.STR: lambda p: len(p.sequence) - len(p.unresolved),
            Modality.FUNC: lambda p: len("".join(p.text)),
        }[self.modality]
        return [count(protein) for protein in proteins]

    def cost(self, rows: int) -> int:
        return rows + 2

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        if self.room is not None and len(batch) > self.room:
            raise MemoryError
        self.batches.append([item.protein.id for item in batch])
        return [self._encode(item) for item in batch]

    def _encode(self, item: EncoderInput) -> Encoded:
        fate = self.failing.get(item.protein.id)
        if isinstance(fate, Exception):
            raise fate
        index = None
        if self.modality is Modality.STR:
            assert item.chain is not None
            codes, index = item.chain.ca.sum(axis=1), item.chain.residue
        elif self.modality is Modality.FUNC:
            codes = np.frombuffer("".join(item.protein.text).encode(), dtype=np.uint8).astype(np.float32)
            index = np.repeat(np.arange(4), [len(field) for field in item.protein.text]).astype(np.int32)
        else:
            codes = np.frombuffer(item.protein.sequence.encode(), dtype=np.uint8).astype(np.float32)
        features = np.cos(codes[:, None] * np.arange(1, self.width + 1)).astype(np.float32)
        if isinstance(fate, float):
            features[-1, -1] = fate
        return Encoded(features, index, None if self.modality is Modality.STR else features.mean(axis=0))


class FakeEncoders:
    """One fake encoder for each modality."""

    random_weights = True

    def __init__(self) -> None:
        self.encoders = {modality: FakeEncoder(modality) for modality in MODALITIES}

    def __getitem__(self, modality: Modality) -> FakeEncoder:
        return self.encoders[modality]

    def fingerprint(self) -> dict[Modality, dict[str, object]]:
        return {modality: encoder.fingerprint() for modality, encoder in self.encoders.items()}


@pytest.fixture
def fake_encoders() -> Callable[[], FakeEncoders]:
    """Give a new set of fake encoders."""
    return FakeEncoders


THREE_LETTERS = {"A": "ALA", "G": "GLY", "S": "SER", "V": "VAL", "L": "LEU"}


def pdb_of(sequence: str, unresolved: tuple[int, ...]) -> str:
    """A chain of Cα atoms on a helix."""
    lines = []
    for i, letter in enumerate(sequence):
        if i not in unresolved:
            x, y, z = 2.3 * np.cos(1.75 * i), 2.3 * np.sin(1.75 * i), 1.5 * i
            lines.append(
                f"ATOM  {i + 1:5d}  CA  {THREE_LETTERS[letter]} A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
                "           C\n"
            )
    return "".join(lines) + "END\n"


@pytest.fixture
def write_proteins() -> Callable[..., Manifest]:
    """Write a manifest of `count` proteins with structures and texts (some lack one) into a folder, and open it."""

    def write(folder: Path, count: int = 24, *, seed: int = 0, longest: int = 24) -> Manifest:
        rng = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        proteins = []
        for number in range(count):
            sequence = "".join(rng.choice(list(THREE_LETTERS), int(rng.integers(8, longest + 1))))
            protein = Protein(f"p{number}", sequence, source="test")
            if number % 5:
                unresolved = (2,) if rng.random() < 0.3 else ()
                text = pdb_of(sequence, unresolved)
                (folder / f"p{number}.pdb").write_text(text)
                digest = hashlib.sha256(text.encode()).hexdigest()
                protein = replace(protein, structure=f"p{number}.pdb", structure_sha256=digest, unresolved=unresolved)
            if number % 4:
                protein = replace(protein, name=f"kinase {number}", location="cell" * int(rng.integers(0, 3)))
            proteins.append(protein)
        write_manifest(folder / "m.parquet", proteins)
        return Manifest(folder / "m.parquet")

    return write


HERE = Path(__file__).parent


@pytest.fixture
def workers_find_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started import `cluster_encoders`."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def crewed() -> Callable[..., dict[str, Any]]:
    """`crewed(crew, manifest, …)`: what `featurize` needs to have a crew encode with `cluster_encoders.build(…)`."""
    from amma.featurize.workers.cluster import ClusterWriter
    from amma.featurize.workers.recipe import Recipe

    def arguments(crew: Any, manifest: Manifest, **of_encoders: Any) -> dict[str, Any]:
        recipe = Recipe("cluster_encoders:build", of_encoders)
        writer = ClusterWriter(crew, manifest.path, recipe)
        return {"manifest": manifest, "encoders": recipe.build(), "write_units": writer}

    return arguments


@pytest.fixture
def store(memory_folder: Path, random_proteins: Callable[..., list[ProteinArrays]]) -> Path:
    """Nine random proteins in a sealed store of shards of 64 rows, for tests that damage it."""
    path = memory_folder / "s.zarr"
    settings = StoreSettings(shard_rows=64, chunk_rows=8)
    fingerprint = {"seq": {"layer": 1}}
    write_store(
        path, random_proteins(9), widths=WIDTHS, settings=settings, fingerprint=fingerprint, random_weights=True
    )
    return path
