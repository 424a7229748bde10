"""Token features of function descriptions, by any BERT-style encoder of transformers.

It knows the four text fields and how they are joined; it knows nothing about proteins beyond their text.

Legend: T tokens (with [CLS] and [SEP]), D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64

from amma.featurize.encoders.huggingface import HuggingFaceModel
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.tiny_vocabulary import tiny_vocabulary
from amma.featurize.encoders.weights import fill_with_random_numbers, sha256_of_state
from amma.manifests.errors import ConfigError
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import TEXT_FIELDS, Modality, Protein

MAX_FIELD_TOKENS = 128
MAX_TOKENS = 512
NUM_SPECIAL = len(TEXT_FIELDS)
"""[CLS] before the first field, [SEP] before each of the others."""

SPECIAL_TOKENS = {"drop": "[CLS] is cls, [SEP] dropped", "keep": "[CLS] is cls and a row, [SEP] are rows"}
"""What becomes of the special tokens, as the fingerprint says it."""

PROBE = ("Tyrosine-protein kinase (EC 2.7.10.2) [SEP] binds β-D-Ribose 5′-phosphate, naïve", "IL-2RA/CD25; 37 °C?")
"""Texts whose tokens show how a tokenizer treats case, accents, hyphens, digits and bracketed names of its tokens."""


class TextEncoder:
    """Token features of a frozen BERT-style encoder: one row a token of the text.

    The layout is `[CLS] name [SEP] function [SEP] location [SEP] similarity`, all of token type 0, nothing at the
    end and no padding inside; the tokenizer's own names of the two count (`<s>`, `</s>`). A field has at most 128
    tokens, all together at most 512 or what the model's positions allow: what is over is cut from the end of the
    last field. An absent field is empty and its [SEP] stays, so a field's place says which it is; a field that is
    not in `fields` is treated as absent. The text is plain: a special token's name written in it is plain text or
    unknown, never that token.

    Rows are the fields' tokens alone, `index` is each one's field (0 to 3, as `TEXT_FIELDS`); [CLS] is `cls` and the
    three [SEP] are dropped. With `special_tokens="keep"` these four are rows too, of the field that follows them.
    A protein whose text gives no token has length 0 and is to be treated as one without text; encoded anyway it has
    no rows.
    """

    modality = Modality.FUNC

    def __init__(
        self,
        model: HuggingFaceModel,
        *,
        fields: Sequence[str] = TEXT_FIELDS,
        special_tokens: Literal["drop", "keep"] = "drop",
    ) -> None:
        self.name = model.name
        self.random_weights = model.random_weights
        self.width = model.width
        self.max_tokens = min(MAX_TOKENS, model.max_tokens)
        if not fields or list(fields) != [field for field in TEXT_FIELDS if field in fields]:
            raise ConfigError(
                f"text fields {', '.join(fields) or '(none)'}: give one or more of {', '.join(TEXT_FIELDS)}, each "
                "once and in this order, in which they are joined."
            )
        self.fields = tuple(fields)
        self._keep = special_tokens == "keep"
        self._special_tokens = SPECIAL_TOKENS[special_tokens]
        self._model = model
        tokenizer = self._tokenizer = model.tokenizer
        special = {
            "[CLS]": tokenizer.cls_token_id,
            "[SEP]": tokenizer.sep_token_id,
            "[PAD]": tokenizer.pad_token_id,
            "[UNK]": tokenizer.unk_token_id,
        }
        absent = [token for token, index in special.items() if index is None]
        if absent:
            raise ConfigError(f"{self.name}: its tokenizer has no {', '.join(absent)}; choose a BERT-style encoder.")
        self._cls, self._sep, _, self._unknown = special.values()
        self._special = frozenset(tokenizer.all_special_ids)
        # A published tokenizer may say "left".
        tokenizer.truncation_side = "right"

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        name: str | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        fields: Sequence[str] = TEXT_FIELDS,
        special_tokens: Literal["drop", "keep"] = "drop",
    ) -> "TextEncoder":
        """Load a model and its tokenizer from a Hugging Face folder; raises as `HuggingFaceModel.from_folder`."""
        model = HuggingFaceModel.from_folder(folder, name=name, device=device, precision=precision)
        return cls(model, fields=fields, special_tokens=special_tokens)

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
        precision: str = "fp32",
        fields: Sequence[str] = TEXT_FIELDS,
        special_tokens: Literal["drop", "keep"] = "drop",
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
        loaded = HuggingFaceModel(
            model,
            BertTokenizer(vocab=vocabulary),
            name="random-bert",
            weights_sha256=sha256_of_state(model),
            random_weights=True,
            device=device,
            precision=precision,
        )
        return cls(loaded, fields=fields, special_tokens=special_tokens)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        probe = self._tokenize(PROBE)
        return {
            "encoder": "text",
            **self._model.fingerprint(),
            "tokenizer_sha256": sha256_of_json({"vocabulary": self._tokenizer.get_vocab(), "probe": probe}),
            "layout": "[CLS] name [SEP] function [SEP] location [SEP] similarity",
            "fields": list(self.fields),
            "special_tokens": self._special_tokens,
            "long": "truncate",
            "max_field_tokens": MAX_FIELD_TOKENS,
            "max_tokens": self.max_tokens,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Rows of each protein's text; 0 where there is no token of a field."""
        tokens = [sum(len(field) for field in fields) for fields in self._fields(proteins)]
        return [count + NUM_SPECIAL if self._keep and count else count for count in tokens]

    def cost(self, rows: int) -> int:
        """Tokens with [CLS] and [SEP]."""
        return rows if self._keep else rows + NUM_SPECIAL

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein's text."""
        layouts = [self._lay_out(fields) for fields in self._fields([item.protein for item in batch])]
        hidden = self._model.hidden_states([layout.tokens_T for layout in layouts])
        return [
            Encoded(
                features=hidden_TD[layout.row_T],
                index=layout.field_T[layout.row_T].astype(np.int32),
                cls=hidden_TD[0].copy(),
            )
            for layout, hidden_TD in zip(layouts, hidden, strict=True)
        ]

    def _fields(self, proteins: Sequence[Protein]) -> list[list[list[int]]]:
        """Tokens of each protein's four fields, cut to the limits."""
        chosen = [name in self.fields for name in TEXT_FIELDS]
        texts = [
            text if wanted else "" for protein in proteins for text, wanted in zip(protein.text, chosen, strict=True)
        ]
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
        # SentencePiece vocabularies (DeBERTa's) hold "[SEP]" as a word, which the switch above does not know about.
        return [[self._unknown if token in self._special else token for token in field] for field in tokens]

    def _lay_out(self, fields: Sequence[Sequence[int]]) -> "_Layout":
        tokens: list[int] = []
        field: list[int] = []
        row: list[bool] = []
        keep = self._keep and any(fields)
        for place, content in enumerate(fields):
            tokens += [self._sep if place else self._cls, *content]
            field += [place] * (1 + len(content))
            row += [keep, *[True] * len(content)]
        return _Layout(np.array(tokens, dtype=np.int64), np.array(field, dtype=np.int64), np.array(row, dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class _Layout:
    """The joined tokens of a protein's text, the field of each, and whether it becomes a row (True)."""

    tokens_T: Int64[np.ndarray, " T"]
    field_T: Int64[np.ndarray, " T"]
    row_T: Bool[np.ndarray, " T"]
