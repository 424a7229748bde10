"""Sequences as tokens of a model of transformers: its tokenizer, read as an alphabet of residues.

Sequences are never given to the tokenizer as text: what stands in one ("<eos>", say) could become a special token.
Its number for each residue is looked up once, and what is not a residue is refused.

Legend: L residues, T tokens (with those before and after the residues).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from amma.featurize.encoders.huggingface import HuggingFaceModel
from amma.manifests.errors import ConfigError
from amma.manifests.quarantine import RecordError
from amma.manifests.settings import Settings, sha256_of_json
from amma.manifests.table import Protein

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
RESIDUES = STANDARD + "XBUZO"


class ResidueLimits(Settings):
    """How many residues of a protein are read, None for what the model's positions allow, and what of longer ones."""

    max_residues: Annotated[int, Field(ge=1)] | None = None
    long: Literal["truncate", "skip"] = "truncate"


class ResidueTokens:
    """One token a residue, between the special tokens that the tokenizer puts around a sequence.

    Raises `ConfigError` for a limit above what the model's positions allow, and for a tokenizer that lacks a standard
    residue, joins or splits residues, puts nothing before the first (so that there is no row for the protein as a
    whole) or has no padding token.
    """

    def __init__(self, model: HuggingFaceModel, limits: ResidueLimits) -> None:
        name, tokenizer = model.name, model.tokenizer
        single = {letter: tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in RESIDUES}
        self.number = {
            letter: int(tokens[0])
            for letter, tokens in single.items()
            if len(tokens) == 1 and tokens[0] not in (tokenizer.unk_token_id, None)
        }
        lacking = [letter for letter in STANDARD if letter not in self.number]
        if lacking:
            raise ConfigError(f"{name}: its tokenizer has no token for {', '.join(lacking)}; choose a protein model.")
        around = list(tokenizer("A")["input_ids"])
        if self.number["A"] not in around[1:] or tokenizer.pad_token_id is None:
            raise ConfigError(f"{name}: its tokenizer has no [CLS] or no [PAD]; choose a BERT-style encoder.")
        first = around.index(self.number["A"])
        self._before, self._after = around[:first], around[first + 1 :]
        # ESM's tokenizer takes blanks between residues or none, ProtBERT's needs them.
        if list(tokenizer(" ".join(self.number))["input_ids"]) != self._with_ends(list(self.number.values())):
            raise ConfigError(f"{name}: its tokenizer does not read a residue as a token; choose a protein model.")
        limit = model.max_tokens - self.num_special
        self.max_residues = limit if limits.max_residues is None else limits.max_residues
        self._long = limits.long
        if self.max_residues > limit:
            raise ConfigError(f"{name} reads at most {limit} residues, got max_residues {self.max_residues}.")

    @property
    def num_special(self) -> int:
        """Tokens before and after the residues."""
        return len(self._before) + len(self._after)

    @property
    def residues(self) -> slice:
        """Where in the tokens of a sequence its residues are."""
        return slice(len(self._before), -len(self._after) or None)

    def fingerprint(self) -> dict[str, Any]:
        """What of the tokens decides the numbers."""
        table = {"residues": self.number, "before": self._before, "after": self._after}
        return {"tokenizer_sha256": sha256_of_json(table), "long": self._long, "max_residues": self.max_residues}

    def count(self, protein: Protein) -> int:
        """How many residues of a protein are read; 0 of one that is to be skipped."""
        length = len(protein.sequence)
        if length <= self.max_residues:
            return length
        return self.max_residues if self._long == "truncate" else 0

    def tokens(self, protein: Protein) -> Int64[np.ndarray, " T"]:
        """The tokens of the residues that are read, with those around them.

        Raises `RecordError`: `E_ALPHABET` or `E_EMPTY` for a sequence that cannot be read residue by residue, wherever
        in it the fault is, `E_LONG` for one that is to be skipped.
        """
        if not protein.sequence:
            raise RecordError("E_EMPTY", "the sequence is empty", "remove the record or give it a sequence")
        for place, letter in enumerate(protein.sequence):
            if letter not in self.number:
                raise RecordError(
                    "E_ALPHABET",
                    f"{letter!r} at residue {place + 1} is not a residue that the encoder knows "
                    f"({''.join(self.number)})",
                    "write X for a residue of unknown kind, and remove gaps and stops",
                )
        if not self.count(protein):
            raise RecordError(
                "E_LONG",
                f"{len(protein.sequence)} residues, more than the {self.max_residues} that are to be read",
                "encode its first residues with --long truncate, or allow more with --max-residues",
            )
        residues = [self.number[letter] for letter in protein.sequence[: self.max_residues]]
        return np.array(self._with_ends(residues), dtype=np.int64)

    def _with_ends(self, residues: Sequence[int]) -> list[int]:
        return [*self._before, *residues, *self._after]
