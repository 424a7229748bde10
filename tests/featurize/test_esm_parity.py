"""At full width, packed features are those of fair-esm's own padded forward, on real proteins."""

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import esm
import numpy as np
import pytest
import torch

from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.esm_checkpoint import random_model
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.manifests.table import Protein
from amma.manifests.toy import draw_proteome

EXACT = 1e-5
"""Largest difference over the reference's root mean square that fp32 may have, wherever sums are added up otherwise."""

BF16 = 0.06
"""The same in bf16, whose numbers have 8 bits: 0.027 to 0.031 were measured at 6 and at 33 layers."""

SHAPES = {"esm1b": ("esm1b", 1280), "esm2-650M": ("esm2", 1280), "esm2-150M": ("esm2", 640)}
HEADS = 20


@dataclass(frozen=True)
class Case:
    """A model with random weights, proteins, and what fair-esm gives for them (BOS first)."""

    model: Any
    proteins: list[EncoderInput]
    reference: list[np.ndarray]

    def encoder(self, precision: str = "fp32") -> EsmEncoder:
        return EsmEncoder(self.model, name="full-width", weights_sha256="", random_weights=True, precision=precision)

    def distances(self, encoded: Sequence[Encoded]) -> list[float]:
        rms = np.sqrt(np.mean(np.concatenate(self.reference) ** 2))
        return [
            float(np.abs(rows(ours) - theirs).max() / rms) for ours, theirs in zip(encoded, self.reference, strict=True)
        ]


def rows(encoded: Encoded) -> np.ndarray:
    assert encoded.cls is not None
    return np.concatenate([encoded.cls[None], encoded.features])


def make_case(shape: str, layers: int, sequences: Sequence[str]) -> Case:
    architecture, width = SHAPES[shape]
    model = random_model(seed=1, architecture=architecture, layers=layers, width=width, heads=HEADS)
    convert = esm.data.Alphabet.from_architecture("ESM-1b").get_batch_converter()
    reference = []
    ordered = sorted(sequences, key=len)
    for begin in range(0, len(ordered), 15):
        batch = ordered[begin : begin + 15]
        _, _, tokens = convert([("", sequence) for sequence in batch])
        with torch.no_grad():
            hidden = model(tokens, repr_layers=[layers])["representations"][layers]
        reference += [hidden[row, : len(sequence) + 1].numpy() for row, sequence in enumerate(batch)]
    proteins = [EncoderInput(Protein(id=f"p{row}", sequence=sequence)) for row, sequence in enumerate(ordered)]
    # Not in the order of their lengths: the encoder is not to rely on it.
    shuffled = np.random.default_rng(0).permutation(len(ordered)).tolist()
    return Case(model, [proteins[row] for row in shuffled], [reference[row] for row in shuffled])


@pytest.fixture(scope="module", autouse=True)
def _give_memory_back() -> Iterator[None]:
    """Leave no gigabytes to this process: the tests that come after fork it hundreds of times."""
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="module")
def sequences(request: pytest.FixtureRequest) -> list[str]:
    """Real sequences that ESM takes, shortest first; without them, those of the synthetic proteome."""
    try:
        folder: Path = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        found = [protein.residues.letters for protein in draw_proteome(80, seed=0)]
    else:
        records = (folder / "data" / "real" / "sequences.fasta").read_text().split(">")[1:]
        found = ["".join(record.splitlines()[1:]) for record in records]
    return sorted(
        {sequence for sequence in found if "J" not in sequence}, key=lambda sequence: (len(sequence), sequence)
    )


@pytest.fixture(scope="module", params=SHAPES)
def case(request: pytest.FixtureRequest, sequences: list[str]) -> Case:
    """Six layers and the 60 shortest sequences: what fair-esm takes longest for in these tests."""
    return make_case(request.param, 6, sequences[:60])


def check_repeats(encoder: EsmEncoder, batch: Sequence[EncoderInput]) -> None:
    """The same batch again has the same bits."""
    pairs = zip(encoder.encode(batch), encoder.encode(batch), strict=True)
    assert all(np.array_equal(rows(one), rows(other)) for one, other in pairs)


def check(case: Case) -> None:
    """All that is promised of fp32."""
    encoder = case.encoder()

    together = encoder.encode(case.proteins)

    assert max(case.distances(together)) <= EXACT
    check_repeats(encoder, case.proteins[:12])
    for place in range(0, len(case.proteins), 11):
        (alone,) = encoder.encode([case.proteins[place]])
        among = rows(together[place])
        assert np.abs(rows(alone) - among).max() <= EXACT * np.sqrt(np.mean(among**2))


def test_packed_features_are_fair_esms_alone_and_among_others(case: Case) -> None:
    check(case)


def test_bf16_stays_within_its_bound(case: Case) -> None:
    encoder = case.encoder("bf16")

    together = encoder.encode(case.proteins)

    assert 1e-4 < max(case.distances(together)) <= BF16
    (alone,) = encoder.encode([case.proteins[3]])
    among = rows(together[3])
    assert np.abs(rows(alone) - among).max() <= BF16 * np.sqrt(np.mean(among**2))
    check_repeats(encoder, case.proteins[:12])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_features_are_fair_esms_on_proteins_of_all_lengths(shape: str, sequences: list[str]) -> None:
    case = make_case(shape, 6, sequences[:: len(sequences) // 60][:60])

    check(case)

    assert max(case.distances(case.encoder("bf16").encode(case.proteins))) <= BF16


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["esm1b", "esm2-650M"])
def test_packed_features_are_fair_esms_after_33_layers(shape: str, sequences: list[str]) -> None:
    case = make_case(shape, 33, sequences[:: len(sequences) // 8][:8])

    check(case)

    assert max(case.distances(case.encoder("bf16").encode(case.proteins))) <= BF16
