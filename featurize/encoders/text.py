"""Token features of function descriptions, by any BERT-style encoder of transformers.

It knows the four text fields and how they are joined; it knows nothing about proteins beyond their text.

Legend: B proteins, T tokens (with [CLS], [SEP] and padding), D width.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from amma.featurize.encoders.buckets import length_buckets
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.tiny_vocabulary import tiny_vocabulary
from amma.featurize.encoders.weights import fill_with_random_numbers, one_line, sha256_of_state
from amma.manifests.errors import ConfigError, WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import TEXT_FIELDS, Modality, Protein

MAX_FIELD_TOKENS = 128
MAX_TOKENS = 512
NUM_SPECIAL = len(TEXT_FIELDS)
"""[CLS] before the first field, [SEP] before each of the others."""

DECISIVE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
)
"""What a model's configuration says about its numbers, for the fingerprint."""

VOCABULARY_PADDING = 128
"""Models round the size of their vocabulary up to a multiple of at most this."""

PROBE = ("Tyrosine-protein kinase (EC 2.7.10.2) [SEP] binds β-D-Ribose 5′-phosphate, naïve", "IL-2RA/CD25; 37 °C?")
"""Texts whose tokens show how a tokenizer treats case, accents, hyphens, digits and bracketed names of its tokens."""


class TextEncoder:
    """Token features of a frozen BERT-style encoder: one row a token of the text.

    The layout is `[CLS] name [SEP] function [SEP] location [SEP] similarity`, all of token type 0, nothing at the
    end and no padding inside. A field has at most 128 tokens, all together at most 512: what is over is cut from the
    end of the last field. An absent field is empty and its [SEP] stays, so a field's place says which it is. The
    text is plain: "[SEP]" written in it does not become a special token.

    Rows are the fields' tokens alone, `index` is each one's field (0 to 3, as `TEXT_FIELDS`); [CLS] is `cls` and the
    three [SEP] are dropped. A protein whose text gives no token has length 0 and is to be treated as one without
    text; encoded anyway it has no rows.
    """

    modality = Modality.FUNC

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        weights_sha256: str,
        random_weights: bool = False,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.random_weights = random_weights
        config: Any = model.config
        self.width = int(config.hidden_size)
        self.max_tokens = min(MAX_TOKENS, int(config.max_position_embeddings))
        self._architecture = {key: value for key in DECISIVE if (value := getattr(config, key, None)) is not None}
        self._weights_sha256 = weights_sha256
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device

        special = {"[CLS]": tokenizer.cls_token_id, "[SEP]": tokenizer.sep_token_id, "[PAD]": tokenizer.pad_token_id}
        absent = [token for token, index in special.items() if index is None]
        if absent:
            raise ConfigError(f"{name}: its tokenizer has no {', '.join(absent)}; choose a BERT-style encoder.")
        # transformers makes a tokenizer without a single word where the word list is absent, and says nothing.
        if not 0 <= int(config.vocab_size) - len(tokenizer) < VOCABULARY_PADDING:
            raise WeightsError(
                f"{name}: the model knows {config.vocab_size} tokens, its tokenizer {len(tokenizer)}: the word list "
                "(vocab.txt or tokenizer.json) is missing, cut short or another model's."
            )
        self._cls, self._sep, self._pad = special.values()

    @classmethod
    def from_folder(cls, folder: Path, *, name: str | None = None, device: str = "cpu") -> "TextEncoder":
        """Load a model and its tokenizer from a Hugging Face folder, offline, without running code from it.

        Raises `WeightsError` if a file is missing or damaged, or if the weights leave part of the model unset.
        """
        from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise WeightsError(f"{folder}: not a Hugging Face model folder (it has no config.json).")
        weights = _weights_files(folder)
        offline = {"local_files_only": True, "trust_remote_code": False}
        try:
            with _quiet_transformers():
                config = AutoConfig.from_pretrained(folder, **offline)
                architecture: Any = MODEL_MAPPING[type(config)]
                # The pooler on top of [CLS] belongs to BERT's pretraining, not to its features.
                has_pooler = "add_pooling_layer" in inspect.signature(architecture).parameters
                model, report = AutoModel.from_pretrained(
                    folder,
                    config=config,
                    dtype=torch.float32,
                    use_safetensors=weights[0].name.endswith((".safetensors", ".safetensors.index.json")),
                    output_loading_info=True,
                    **offline,
                    **({"add_pooling_layer": False} if has_pooler else {}),
                )
                tokenizer = AutoTokenizer.from_pretrained(folder, **offline)
        # transformers, tokenizers, safetensors and torch each have their own exceptions for a file they cannot read.
        except Exception as error:
            raise WeightsError(
                f"{folder}: cannot be loaded as a text encoder ({one_line(error)}). No code in it was run; "
                "get it again from its official address."
            ) from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise WeightsError(
                f"{folder}: the weights lack {len(missing)} tensors of {type(model).__name__} "
                f"({', '.join(missing[:3])}); they belong to another architecture or are incomplete."
            )
        hashes = {path.name: sha256_of_file(path) for path in weights}
        sha256 = next(iter(hashes.values())) if len(hashes) == 1 else sha256_of_json(hashes)
        return cls(model, tokenizer, name=name or folder.name, weights_sha256=sha256, device=device)

    @classmethod
    def random(
        cls,
        *,
        seed: int = 0,
        layers: int = 2,
        width: int = 48,
        heads: int = 4,
        intermediate: int = 96,
        device: str = "cpu",
    ) -> "TextEncoder":
        """BERT at any size with seeded random weights and a small tokenizer that ships with the package.

        Torch's random state is left alone.
        """
        from transformers import BertConfig, BertModel, BertTokenizer

        if width % heads:
            raise ConfigError(f"width must be a multiple of the number of heads ({heads}), got {width}.")
        vocabulary = tiny_vocabulary()
        config = BertConfig(
            vocab_size=len(vocabulary),
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=vocabulary["[PAD]"],
        )
        with torch.random.fork_rng(devices=[]):
            model = BertModel(config, add_pooling_layer=False)
        fill_with_random_numbers(model, seed)
        return cls(
            model,
            BertTokenizer(vocab=vocabulary),
            name="random-bert",
            weights_sha256=sha256_of_state(model),
            random_weights=True,
            device=device,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        probe = self._tokenize(PROBE)
        return {
            "encoder": "text",
            "architecture": self._architecture,
            "layer": "last",
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": "float32",
            "tokenizer_sha256": sha256_of_json({"vocabulary": self._tokenizer.get_vocab(), "probe": probe}),
            "layout": "[CLS] name [SEP] function [SEP] location [SEP] similarity",
            "special_tokens": "[CLS] is cls, [SEP] dropped",
            "long": "truncate",
            "max_field_tokens": MAX_FIELD_TOKENS,
            "max_tokens": self.max_tokens,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Tokens of each protein's text without special tokens; 0 where there is none."""
        return [sum(len(field) for field in fields) for fields in self._fields(proteins)]

    def cost(self, rows: int) -> int:
        """Tokens with [CLS] and [SEP]."""
        return rows + NUM_SPECIAL

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein's text."""
        layouts = [self._lay_out(fields) for fields in self._fields([item.protein for item in batch])]
        encoded: dict[int, Encoded] = {}
        for group in length_buckets([len(layout.tokens_T) for layout in layouts]):
            longest = max(len(layouts[index].tokens_T) for index in group)
            tokens_BT = torch.full((len(group), longest), self._pad, dtype=torch.int64)
            real_BT = torch.zeros((len(group), longest), dtype=torch.bool)
            for row, index in enumerate(group):
                tokens_T = layouts[index].tokens_T
                tokens_BT[row, : len(tokens_T)] = torch.from_numpy(tokens_T)
                real_BT[row, : len(tokens_T)] = True
            hidden_BTD = self._forward(tokens_BT.to(self._device), real_BT.to(self._device)).cpu().numpy()
            for row, index in enumerate(group):
                field_T = layouts[index].field_T
                of_a_field = field_T >= 0
                encoded[index] = Encoded(
                    features=hidden_BTD[row, : len(field_T)][of_a_field],
                    index=field_T[of_a_field].astype(np.int32),
                    cls=hidden_BTD[row, 0].copy(),
                )
        return [encoded[index] for index in range(len(batch))]

    def _fields(self, proteins: Sequence[Protein]) -> list[list[list[int]]]:
        """Tokens of each protein's four fields, cut to the limits."""
        texts = [text for protein in proteins for text in protein.text]
        tokens = self._tokenize(texts)
        fields = [tokens[start : start + NUM_SPECIAL] for start in range(0, len(tokens), NUM_SPECIAL)]
        for four in fields:
            over = sum(len(field) for field in four) + NUM_SPECIAL - self.max_tokens
            for place in reversed(range(NUM_SPECIAL)):
                if over <= 0:
                    break
                kept = max(0, len(four[place]) - over)
                over -= len(four[place]) - kept
                four[place] = four[place][:kept]
        return fields

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        # An empty list is not a batch to a tokenizer.
        if not texts:
            return []
        tokens: list[list[int]] = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=True,
            max_length=MAX_FIELD_TOKENS,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return tokens

    def _lay_out(self, fields: Sequence[Sequence[int]]) -> "_Layout":
        tokens: list[int] = []
        field: list[int] = []
        for place, content in enumerate(fields):
            tokens += [self._sep if place else self._cls, *content]
            field += [-1, *[place] * len(content)]
        return _Layout(np.array(tokens, dtype=np.int64), np.array(field, dtype=np.int64))

    @torch.inference_mode()
    def _forward(self, tokens_BT: Int64[Tensor, "B T"], real_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Hidden states after the last layer; `real_BT` is False at padding, which is at the end. Token types are 0."""
        hidden_BTD: Tensor = self._model(input_ids=tokens_BT, attention_mask=real_BT.long()).last_hidden_state
        return hidden_BTD


@dataclass(frozen=True, slots=True)
class _Layout:
    """The joined tokens of a protein's text and the field of each, -1 for special tokens."""

    tokens_T: Int64[np.ndarray, " T"]
    field_T: Int64[np.ndarray, " T"]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and its report of unused heads off the terminal: what matters becomes an error here."""
    from transformers.utils import logging

    console: Any = logging
    verbosity, bar = console.get_verbosity(), console.is_progress_bar_enabled()
    console.set_verbosity_error()
    console.disable_progress_bar()
    try:
        yield
    finally:
        console.set_verbosity(verbosity)
        if bar:
            console.enable_progress_bar()


def _weights_files(folder: Path) -> list[Path]:
    """The files that hold the weights, safetensors before pickles; for a sharded model its index and all shards."""
    for pattern in ("model.safetensors", "pytorch_model.bin"):
        if (folder / pattern).is_file():
            return [folder / pattern]
        stem, _, ending = pattern.rpartition(".")
        index = folder / f"{pattern}.index.json"
        if index.is_file():
            return [index, *sorted(folder.glob(f"{stem}-*-of-*.{ending}"))]
    raise WeightsError(f"{folder}: has neither model.safetensors nor pytorch_model.bin.")
