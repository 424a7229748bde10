"""ESM-1b and ESM-2 residue features, by fair-esm's own classes and alphabet.

It does not know where weights are found, and it never lets fair-esm load or download a file: that would unpickle
whatever the file holds.

Legend: B proteins, T tokens (BOS, residues, EOS, padding), L residues, D width.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import esm
import numpy as np
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from jaxtyping import Float, Int64
from torch import Tensor, nn

from amma.featurize.encoders.buckets import length_buckets
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.weights import (
    LoadedFile,
    fill_with_random_numbers,
    load_state,
    load_torch_file,
    one_line,
    sha256_of_state,
)
from amma.manifests.errors import ConfigError, WeightsError
from amma.manifests.quarantine import RecordError
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import Modality, Protein

LETTERS = "ACDEFGHIKLMNPQRSTVWYXBUZO"
"""The residues ESM was trained on. Its alphabet also has '.' and '-', which are gaps of alignments, not residues."""

UNUSED_HEAD = ("contact_head.regression.weight", "contact_head.regression.bias")
"""Contact prediction; published in a file of its own and not needed for features."""


class EsmEncoder:
    """Residue features of a frozen ESM-1b or ESM-2: one row a residue, BOS as `cls`, EOS dropped.

    `layer` counts from 0 (embeddings) to the number of layers; None is the last, after the final layer norm, as
    fair-esm's `representations[num_layers]`. Only the first `max_residues` residues are read: None is what the
    architecture allows (ESM-1b: 1,022, for its learned positions; ESM-2: all). Raises `ConfigError` for a layer or a
    limit that the architecture does not have.
    """

    modality = Modality.SEQ

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        weights_sha256: str,
        random_weights: bool = False,
        layer: int | None = None,
        max_residues: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.random_weights = random_weights
        self.architecture = _describe(model)
        self.width = int(self.architecture["width"])
        self._weights_sha256 = weights_sha256
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
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

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        name: str | None = None,
        layer: int | None = None,
        max_residues: int | None = None,
        device: str = "cpu",
    ) -> "EsmEncoder":
        """Load a checkpoint as published by fair-esm (`.pt`); `WeightsError` if it is anything else."""
        loaded = load_torch_file(path, allowed=[argparse.Namespace])
        model, state = _upgrade(loaded)
        model.to_empty(device="cpu")
        load_state(model, state, source=str(path), may_be_missing=UNUSED_HEAD)
        for unused in model.contact_head.parameters():
            torch.nn.init.zeros_(unused)
        return cls(
            model,
            name=name or path.stem,
            weights_sha256=loaded.sha256,
            layer=layer,
            max_residues=max_residues,
            device=device,
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
        device: str = "cpu",
    ) -> "EsmEncoder":
        """The same classes at any size with seeded random weights; torch's random state is left alone."""
        if width % (2 * heads):
            raise ConfigError(f"width must be a multiple of twice the number of heads ({heads}), got {width}.")
        alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
        with torch.random.fork_rng(devices=[]):
            if architecture == "esm2":
                model: nn.Module = ESM2(num_layers=layers, embed_dim=width, attention_heads=heads, alphabet=alphabet)
            else:
                # The switches of the published ESM-1b.
                settings = argparse.Namespace(
                    arch="roberta_large",
                    layers=layers,
                    embed_dim=width,
                    ffn_embed_dim=4 * width,
                    attention_heads=heads,
                    max_positions=1024,
                    token_dropout=True,
                    emb_layer_norm_before=True,
                )
                model = ProteinBertModel(settings, alphabet)
        fill_with_random_numbers(model, seed)
        return cls(
            model,
            name=f"random-{architecture}",
            weights_sha256=sha256_of_state(model),
            random_weights=True,
            layer=layer,
            max_residues=max_residues,
            device=device,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "encoder": "esm",
            "architecture": self.architecture,
            "layer": self.layer,
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": "float32",
            "tokenizer_sha256": sha256_of_json({"tokens": self._alphabet.all_toks, "accepted": LETTERS}),
            "special_tokens": "BOS is cls, EOS dropped",
            "long": "truncate",
            "max_residues": self.max_residues,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues of each protein, at most `max_residues`."""
        limit = self.max_residues
        return [len(protein.sequence) if limit is None else min(len(protein.sequence), limit) for protein in proteins]

    def cost(self, rows: int) -> int:
        """Residues with BOS and EOS."""
        return rows + 2

    def check(self, protein: Protein) -> None:
        """Raise `RecordError` (`E_ALPHABET`, `E_EMPTY`) for a sequence that cannot be read residue by residue."""
        self._residue_tokens(protein)

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; `RecordError` as by `check`."""
        tokens = [self._with_ends(self._residue_tokens(item.protein)) for item in batch]
        encoded: dict[int, Encoded] = {}
        for group in length_buckets([len(row) for row in tokens]):
            longest = max(len(tokens[index]) for index in group)
            tokens_BT = torch.full((len(group), longest), self._alphabet.padding_idx, dtype=torch.int64)
            for row, index in enumerate(group):
                tokens_BT[row, : len(tokens[index])] = torch.from_numpy(tokens[index])
            hidden_BTD = self._forward(tokens_BT.to(self._device)).cpu().numpy()
            for row, index in enumerate(group):
                end = len(tokens[index]) - 1
                encoded[index] = Encoded(features=hidden_BTD[row, 1:end].copy(), cls=hidden_BTD[row, 0].copy())
        return [encoded[index] for index in range(len(batch))]

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

    def _with_ends(self, tokens_L: Int64[np.ndarray, " L"]) -> Int64[np.ndarray, " T"]:
        kept = tokens_L[: self.max_residues]
        return np.concatenate([[self._alphabet.cls_idx], kept, [self._alphabet.eos_idx]]).astype(np.int64)

    @torch.inference_mode()
    def _forward(self, tokens_BT: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Hidden states after `self.layer`, by fair-esm's forward; padding is at the end and masked."""
        output = self._model(tokens_BT, repr_layers=[self.layer], need_head_weights=False, return_contacts=False)
        hidden_BTD: Tensor = output["representations"][self.layer]
        return hidden_BTD


def _describe(model: Any) -> dict[str, Any]:
    """Family and sizes of a fair-esm model; `max_residues` is None where positions are not learned."""
    if isinstance(model, ESM2):
        sizes = {"layers": model.num_layers, "width": model.embed_dim, "heads": model.attention_heads}
        return {"family": "esm2", **sizes, "max_residues": None}
    settings = model.args
    sizes = {"layers": settings.layers, "width": settings.embed_dim, "heads": settings.attention_heads}
    return {"family": "esm1b", **sizes, "max_residues": settings.max_positions - 2}


def _upgrade(loaded: LoadedFile) -> tuple[Any, dict[str, Tensor]]:
    """An empty model of the checkpoint's architecture, and its weights under the names of today's classes.

    Renaming is fair-esm 2.0.0's (`esm.pretrained`), on data that we read ourselves. The model is on the meta device:
    it takes no memory before names and shapes have been compared.
    """
    data = loaded.data
    try:
        if "cfg" in data:
            upgrade = esm.pretrained._load_model_and_alphabet_core_v2
        elif data["args"].arch == "roberta_large":
            upgrade = esm.pretrained._load_model_and_alphabet_core_v1
        else:
            raise WeightsError(
                f"{loaded.path}: a fair-esm checkpoint of architecture {data['args'].arch!r}; "
                "only ESM-1b (roberta_large) and ESM-2 are read."
            )
        with torch.device("meta"):
            model, _, state = upgrade(data)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{loaded.path}: not a checkpoint of ESM-1b or ESM-2 as fair-esm publishes them "
            f"({type(error).__name__}: {one_line(error)}). Give the .pt file from its official address."
        ) from error
    return model, state
