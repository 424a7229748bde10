"""ESM-1b and ESM-2 residue features: fair-esm's models and alphabet, our own forward pass over packed proteins.

It does not know where weights are found.

Legend: T tokens (BOS, residues, EOS) of all proteins, one after another; L residues.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import esm
import numpy as np
import torch
from jaxtyping import Int64

from amma.featurize.encoders.esm_checkpoint import describe_model, random_model, read_checkpoint
from amma.featurize.encoders.esm_packed import PackedEsm
from amma.featurize.encoders.precision import DTYPES
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.weights import sha256_of_state
from amma.manifests.errors import ConfigError
from amma.manifests.quarantine import RecordError
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import Modality, Protein

LETTERS = "ACDEFGHIKLMNPQRSTVWYXBUZO"
"""The residues ESM was trained on. Its alphabet also has '.' and '-', which are gaps of alignments, not residues."""

NUM_ENDS = 2
"""BOS and EOS."""

Long = Literal["truncate", "skip"]
"""What becomes of a protein with more than `max_residues` residues: its first ones are read, or it is left out."""


class EsmEncoder:
    """Residue features of a frozen ESM-1b or ESM-2: one row a residue, BOS as `cls`, EOS dropped.

    `layer` counts from 0 (embeddings) to the number of layers; None is the last, after the final layer norm, as
    fair-esm's `representations[num_layers]`. Only the first `max_residues` residues are read: None is what the
    architecture allows (ESM-1b: 1,022, for its learned positions; ESM-2: all). With `long="skip"` a longer protein has
    no rows, and encoding it raises `RecordError` (`E_LONG`).

    The model's weights are copied, rounded to `precision`; it is not needed afterwards. Raises `ConfigError` for a
    layer or a limit that the architecture does not have, and for `long="skip"` without any limit.
    """

    modality = Modality.SEQ

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        weights_sha256: str,
        random_weights: bool = False,
        layer: int | None = None,
        max_residues: int | None = None,
        long: Long = "truncate",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.name = name
        self.random_weights = random_weights
        self.architecture = describe_model(model)
        self.width = int(self.architecture["width"])
        self._weights_sha256 = weights_sha256
        self._alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
        self._index_of_byte = np.full(256, -1, dtype=np.int64)
        for letter in LETTERS:
            self._index_of_byte[ord(letter)] = self._alphabet.tok_to_idx[letter]

        num_layers = int(self.architecture["layers"])
        self.layer = num_layers if layer is None else layer
        if not 0 <= self.layer <= num_layers:
            raise ConfigError(f"{name} has layers 0 to {num_layers}, got layer {layer}.")
        most = self.architecture["max_residues"]
        if max_residues is not None and (max_residues < 1 or (most is not None and max_residues > most)):
            raise ConfigError(f"{name} reads 1 to {most or 'any number of'} residues, got max_residues {max_residues}.")
        self.max_residues: int | None = most if max_residues is None else max_residues
        if long == "skip" and self.max_residues is None:
            raise ConfigError(f"{name} reads proteins of any length: say with max_residues which are too long for it.")
        self.long = long
        self._dtype = DTYPES[precision]
        self._packed = PackedEsm(model, layer=self.layer, dtype=self._dtype, device=device)

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        name: str | None = None,
        layer: int | None = None,
        max_residues: int | None = None,
        long: Long = "truncate",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> "EsmEncoder":
        """Load a checkpoint as published by fair-esm (`.pt`); `WeightsError` if it is anything else."""
        model, sha256 = read_checkpoint(path)
        return cls(
            model,
            name=name or path.stem,
            weights_sha256=sha256,
            layer=layer,
            max_residues=max_residues,
            long=long,
            device=device,
            precision=precision,
        )

    @classmethod
    def random(
        cls,
        *,
        seed: int = 0,
        architecture: Literal["esm1b", "esm2"] = "esm1b",
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        layer: int | None = None,
        max_residues: int | None = None,
        long: Long = "truncate",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> "EsmEncoder":
        """The same at any size with seeded random weights; torch's random state is left alone."""
        model = random_model(seed=seed, architecture=architecture, layers=layers, width=width, heads=heads)
        return cls(
            model,
            name=f"random-{architecture}",
            weights_sha256=sha256_of_state(model),
            random_weights=True,
            layer=layer,
            max_residues=max_residues,
            long=long,
            device=device,
            precision=precision,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "encoder": "esm",
            "architecture": self.architecture,
            "layer": self.layer,
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": str(self._dtype).removeprefix("torch."),
            "tokenizer_sha256": sha256_of_json({"tokens": self._alphabet.all_toks, "accepted": LETTERS}),
            "special_tokens": "BOS is cls, EOS dropped",
            "long": self.long,
            "max_residues": self.max_residues,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues of each protein, at most `max_residues`; 0 for a longer one that is to be skipped."""
        counts = [len(protein.sequence) for protein in proteins]
        limit = self.max_residues
        if limit is None:
            return counts
        longer = limit if self.long == "truncate" else 0
        return [count if count <= limit else longer for count in counts]

    def cost(self, rows: int) -> int:
        """Residues with BOS and EOS: memory grows with them, not with their square."""
        return rows + NUM_ENDS

    def check(self, protein: Protein) -> None:
        """Raise `RecordError` (`E_ALPHABET`, `E_EMPTY`, `E_LONG`) for a sequence that has no features."""
        self.tokens(protein)

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; `RecordError` as by `check`."""
        tokens = [self.tokens(item.protein) for item in batch]
        if not tokens:
            return []
        lengths = [len(row) for row in tokens]
        hidden_TD = self._packed(torch.from_numpy(np.concatenate(tokens)), lengths).cpu().numpy()
        ends = np.cumsum(lengths).tolist()
        return [
            Encoded(features=hidden_TD[end - length + 1 : end - 1], cls=hidden_TD[end - length])
            for length, end in zip(lengths, ends, strict=True)
        ]

    def tokens(self, protein: Protein) -> Int64[np.ndarray, " T"]:
        """Tokens of the residues that are read, between BOS and EOS; `RecordError` as by `check`."""
        # Also what lies behind the last residue that is read must be a sequence.
        tokens_L = self._residue_tokens(protein)
        limit = self.max_residues
        if limit is not None and len(tokens_L) > limit and self.long == "skip":
            raise RecordError(
                "E_LONG",
                f"{len(tokens_L)} residues, more than the {limit} that {self.name} is to read",
                "encode its first residues with --long truncate, or allow more with --max-residues",
            )
        return np.concatenate([[self._alphabet.cls_idx], tokens_L[:limit], [self._alphabet.eos_idx]]).astype(np.int64)

    def _residue_tokens(self, protein: Protein) -> Int64[np.ndarray, " L"]:
        """Tokens of all residues, looked up letter by letter: no text is parsed, so none can become a special token."""
        sequence = protein.sequence
        if not sequence:
            raise RecordError("E_EMPTY", "the sequence is empty", "remove the record or give it a sequence")
        # One byte a letter; what is not ASCII becomes '?', which is not in the alphabet.
        tokens_L = self._index_of_byte[np.frombuffer(sequence.encode("ascii", errors="replace"), dtype=np.uint8)]
        unknown = np.flatnonzero(tokens_L < 0)
        if len(unknown):
            first = int(unknown[0])
            raise RecordError(
                "E_ALPHABET",
                f"{sequence[first]!r} at residue {first + 1} is not a residue that ESM knows ({LETTERS})",
                "write X for a residue of unknown kind (J is not in ESM's alphabet), and remove gaps and stops",
            )
        if len(tokens_L) != len(sequence):
            raise AssertionError(f"{len(tokens_L)} tokens for {len(sequence)} residues")
        return tokens_L
