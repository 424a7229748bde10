"""Packed ESM-1b against the recipe of fair-esm's `scripts/extract.py`, on the same proteins and weights.

The recipe sorts a whole corpus by length and fills batches of 4,096 padded tokens. On a few proteins it would pad a
lot, at corpus scale hardly at all; so its batches are formed over a large simulated corpus, and some of them, evenly
spread, are run. Ours takes the proteins of these batches in random order, as a store's plan does, within its default
token budget. Both begin with letters and end with one array a protein in main memory. Weights are random: speed does
not depend on them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import esm
import numpy as np
import torch
from rounds import Line, median_seconds

from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.esm_checkpoint import random_model
from amma.featurize.encoders.protocol import EncoderInput
from amma.featurize.store.settings import StoreSettings
from amma.manifests.table import Protein

TOKENS_PER_BATCH = 4096
"""The recipe's default."""

MEDIAN_LENGTH, SPREAD, SHORTEST, LONGEST = 270, 0.6, 30, 1022
"""A log-normal distribution of lengths, as protein databases have; mean about 320. What is longer is cut by both."""

GOALS = {"fp32": "1.2", "bf16": "4 with AMX"}
REFERENCE = "fair-esm, extract.py's recipe, fp32"


@dataclass(frozen=True)
class Sample:
    """Some batches of the recipe over a corpus; efficiencies are the share of tokens that are not padding."""

    sequences: tuple[tuple[str, ...], ...]
    corpus_efficiency: float
    efficiency: float

    @property
    def residues(self) -> int:
        """Residues of all its proteins: the rows that are made."""
        return sum(len(sequence) for batch in self.sequences for sequence in batch)


def draw_sample(corpus: int, batches: int) -> Sample:
    """Form the recipe's batches over `corpus` proteins by fair-esm's own code; keep `batches`, evenly spread."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(MEDIAN_LENGTH), SPREAD, corpus)).clip(SHORTEST, LONGEST).astype(int)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    names = [""] * corpus
    # Only lengths matter to the batches, and only what is kept needs letters of its own.
    dataset = esm.data.FastaBatchedDataset(names, ["A" * length for length in lengths.tolist()])
    indices = dataset.get_batch_indices(TOKENS_PER_BATCH, extra_toks_per_seq=1)
    kept = [indices[int((number + 0.5) * len(indices) / batches)] for number in range(batches)]
    return Sample(
        tuple(tuple("".join(rng.choice(letters, lengths[index])) for index in batch) for batch in kept),
        _efficiency(lengths, indices),
        _efficiency(lengths, kept),
    )


def _efficiency(lengths: np.ndarray, batches: list[list[int]]) -> float:
    padded = sum(len(batch) * (int(lengths[batch].max()) + 2) for batch in batches)
    return sum(int(lengths[batch].sum()) + 2 * len(batch) for batch in batches) / padded


def recipe(model: Any, layers: int, sample: Sample, device: str, autocast: bool) -> Callable[[], list[np.ndarray]]:
    """fair-esm 2.0.0's `scripts/extract.py`, `--include per_tok`, without its files."""
    convert = esm.data.Alphabet.from_architecture("ESM-1b").get_batch_converter(LONGEST)

    def run() -> list[np.ndarray]:
        found = []
        kind = torch.device(device).type
        with torch.no_grad(), torch.autocast(kind, dtype=torch.bfloat16, enabled=autocast):
            for batch in sample.sequences:
                _, sequences, tokens = convert([("", sequence) for sequence in batch])
                out = model(tokens.to(device), repr_layers=[layers], return_contacts=False)
                hidden = out["representations"][layers].to("cpu")
                found += [hidden[row, 1 : len(text) + 1].clone().numpy() for row, text in enumerate(sequences)]
        return found

    return run


def packed(encoder: EsmEncoder, sample: Sample) -> Callable[[], list[np.ndarray]]:
    """Our encoder over batches as `amma-featurize run` cuts them; results in the sample's order."""
    sequences = [sequence for batch in sample.sequences for sequence in batch]
    # As in a store: longest first among the proteins of a unit, which lie in random order.
    shuffled = np.random.default_rng(1).permutation(len(sequences)).tolist()
    budget = StoreSettings().token_budget
    batches: list[list[int]] = []
    left = 0
    for place in sorted(shuffled, key=lambda place: -len(sequences[place])):
        cost = encoder.cost(len(sequences[place]))
        if cost > left:
            batches.append([])
            left = budget
        batches[-1].append(place)
        left -= cost

    def run() -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for batch in batches:
            items = [EncoderInput(Protein(id=str(place), sequence=sequences[place])) for place in batch]
            found |= {place: one.features for place, one in zip(batch, encoder.encode(items), strict=True)}
        return [found[place] for place in range(len(sequences))]

    return run


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of torch's bf16 product of two square matrices, the best of 5."""
    size = 8192 if torch.device(device).type == "cuda" else 2048
    one, other = torch.randn(2, size, size, device=device).bfloat16()

    def multiply() -> None:
        torch.mm(one, other)
        _wait(device)

    multiply()
    return 2 * size**3 / min(median_seconds({"": multiply}, 1)[""] for _ in range(5))


def operations(sample: Sample, layers: int, width: int) -> float:
    """Of the matrix products and of attention, for all tokens of the sample."""
    tokens = [len(sequence) + 2 for batch in sample.sequences for sequence in batch]
    return layers * sum(24 * count * width**2 + 4 * count**2 * width for count in tokens)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this half."""
    group = parser.add_argument_group("esm")
    group.add_argument("--layers", type=int, help="of 33; default 3 on a CPU, 33 on a GPU")
    group.add_argument("--width", type=int, default=1280, help="default 1280, ESM-1b's")
    group.add_argument("--corpus", type=int, default=100_000, help="proteins over which the recipe forms its batches")
    group.add_argument("--batches", type=int, default=3, help="how many of these batches are run")


def measure(arguments: argparse.Namespace) -> tuple[list[Line], list[str]]:
    """Lines of the table, and what is to be said below it."""
    device = arguments.device
    on_gpu = torch.device(device).type == "cuda"
    layers = arguments.layers or (33 if on_gpu else 3)
    sample = draw_sample(arguments.corpus, arguments.batches)
    model = random_model(seed=0, architecture="esm1b", layers=layers, width=arguments.width, heads=20)
    encoders = {
        precision: EsmEncoder(model, name="", weights_sha256="", device=device, precision=precision)
        for precision in ("fp32", "bf16", *(["fp16"] if on_gpu else []))
    }
    model.to(device)
    ways = {
        REFERENCE: recipe(model, layers, sample, device, autocast=False),
        "fair-esm, the same under bf16 autocast": recipe(model, layers, sample, device, autocast=True),
        **{f"ours, {precision}": packed(encoder, sample) for precision, encoder in encoders.items()},
    }
    # The first run of each warms it up and tells how far it is from the reference.
    numbers = {name: np.concatenate(run()) for name, run in ways.items()}
    rms = float(np.sqrt(np.mean(numbers[REFERENCE] ** 2)))
    differences = {name: float(np.abs(values - numbers[REFERENCE]).max()) / rms for name, values in numbers.items()}
    seconds = median_seconds(ways, arguments.rounds)
    lines = [
        Line(
            half="esm",
            what=name,
            seconds=seconds[name],
            per_second=sample.residues / seconds[name],
            unit="residues",
            ratio=seconds[REFERENCE] / seconds[name],
            difference=None if name == REFERENCE else differences[name],
            goal=GOALS.get(name.removeprefix("ours, "), "") if name.startswith("ours") else "",
        )
        for name in ways
    ]
    rate, done = matrix_rate(device), operations(sample, layers, arguments.width)
    notes = [
        f"ESM-1b of width {arguments.width}, {layers} of 33 layers, random weights; {sample.residues:,} residues of "
        f"{sum(len(batch) for batch in sample.sequences)} proteins.",
        f"The recipe's batches are {sample.corpus_efficiency:.4f} full over {arguments.corpus:,} proteins, those "
        f"that were run {sample.efficiency:.4f}: what is saved here is not padding.",
        f"bf16 products of square matrices reach {rate / 1e12:.3g} TFLOP/s; ours, bf16, uses "
        f"{done / seconds['ours, bf16'] / rate:.0%} of that.",
    ]
    return lines, notes
