"""Any BERT-style model of transformers: read as data from a folder, and run over rows of tokens.

It knows nothing about what the tokens stand for; `text.py` and `huggingface_sequence.py` do.

Legend: B rows, T tokens (with special tokens and padding), D width.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from amma.featurize.encoders.buckets import length_buckets
from amma.featurize.encoders.precision import DTYPES
from amma.featurize.encoders.weights import find_in_huggingface_cache, one_line
from amma.manifests.errors import ConfigError, WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import sha256_of_json

DECISIVE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "embedding_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dim",
    "hidden_act",
    "hidden_activation",
    "activation",
    "layer_norm_eps",
    "norm_eps",
    "max_position_embeddings",
    "position_embedding_type",
    "position_biased_input",
    "pos_att_type",
    "position_buckets",
    "token_dropout",
    "emb_layer_norm_before",
)
"""What a model's configuration says about its numbers, for the fingerprint."""

VOCABULARY_PADDING = 128
"""Models round the size of their vocabulary up to a multiple of at most this."""

FEWEST_TOKENS = 8
"""A model with fewer positions holds no text; architectures without a limit say -1."""


class HuggingFaceModel:
    """A frozen encoder of transformers and its tokenizer.

    `layer` counts from 0 (embeddings) to the number of layers; None is the last, after a final norm if there is one.
    `max_tokens` counts special tokens too. Weights and all arithmetic are in `precision`, norms and residuals
    included, as transformers runs a model of that dtype; what comes out is fp32. Against fp32, on BERT's base size
    with random weights and real descriptions, bf16 differs by at most 0.09 of the root mean square (0.014 of it in
    the root mean square itself). Raises `ConfigError` for what is no BERT-style encoder and for a layer that the model
    does not have, `WeightsError` for a tokenizer that is not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        weights_sha256: str,
        random_weights: bool = False,
        device: str = "cpu",
        precision: str = "fp32",
        layer: int | None = None,
    ) -> None:
        config: Any = model.config
        self.name = name
        self.random_weights = random_weights
        self.tokenizer = tokenizer
        self.width = int(config.hidden_size)
        self.max_tokens = _most_tokens(model, name)
        if getattr(config, "is_encoder_decoder", False):
            raise ConfigError(f"{name}: {type(model).__name__} has a decoder; choose a BERT-style encoder.")
        # transformers makes a tokenizer without a single word where the word list is absent, and says nothing.
        if not 0 <= int(config.vocab_size) - len(tokenizer) < VOCABULARY_PADDING:
            raise WeightsError(
                f"{name}: the model knows {config.vocab_size} tokens, its tokenizer {len(tokenizer)}: the word list "
                "(vocab.txt or tokenizer.json) is missing, cut short or another model's."
            )
        num_layers = int(config.num_hidden_layers)
        if layer is not None and not 0 <= layer <= num_layers:
            raise ConfigError(f"{name} has layers 0 to {num_layers}, got layer {layer}.")
        self._layer = None if layer == num_layers else layer
        self._architecture = {key: value for key in DECISIVE if (value := getattr(config, key, None)) is not None}
        self._weights_sha256 = weights_sha256
        self._device = device
        self._dtype = DTYPES[precision]
        self._model = model.to(device).eval().requires_grad_(False)
        # Not `model.to(dtype)`: that rounds the frequencies of rotary positions too, which are a buffer.
        for parameter in self._model.parameters():
            parameter.data = parameter.data.to(self._dtype)

    @classmethod
    def find(
        cls, model: str, *, device: str = "cpu", precision: str = "fp32", layer: int | None = None
    ) -> "HuggingFaceModel":
        """Load the folder `model`, or the repository of this id from the Hugging Face cache; nothing is downloaded.

        Raises as `from_folder`, and `WeightsError` that says where to get it if it is neither.
        """
        folder = Path(model) if Path(model).is_dir() else find_in_huggingface_cache(model)
        if folder is None:
            raise WeightsError(
                f"{model}: neither a folder nor a repository in the Hugging Face cache. Get it from "
                f"https://huggingface.co/{model} (`hf download {model}`), or give the folder that it is in."
            )
        return cls.from_folder(folder, name=model, device=device, precision=precision, layer=layer)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        name: str | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        layer: int | None = None,
    ) -> "HuggingFaceModel":
        """Load a model and its tokenizer from a Hugging Face folder, offline, without running code from it.

        Raises `WeightsError` if a file is missing or damaged, or if the weights leave part of the model unset, and
        `ConfigError` for an architecture that is no BERT-style encoder.
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
                f"{folder}: cannot be loaded as an encoder of transformers ({one_line(error)}). No code in it was "
                "run; get it again from its official address."
            ) from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise WeightsError(
                f"{folder}: the weights lack {len(missing)} tensors of {type(model).__name__} "
                f"({', '.join(missing[:3])}); they belong to another architecture or are incomplete."
            )
        hashes = {path.name: sha256_of_file(path) for path in weights}
        sha256 = next(iter(hashes.values())) if len(hashes) == 1 else sha256_of_json(hashes)
        return cls(
            model,
            tokenizer,
            name=name or folder.name,
            weights_sha256=sha256,
            device=device,
            precision=precision,
            layer=layer,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What of the model decides the numbers; what the tokens are is for its owner to add."""
        return {
            "architecture": self._architecture,
            "layer": "last" if self._layer is None else self._layer,
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    def hidden_states(self, rows: Sequence[Int64[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ D"]]:
        """The layer's output for each row of tokens, in any number; token types are 0 where a model has them.

        Rows of similar length share a padded batch; padding is at the end and masked.
        """
        hidden: dict[int, np.ndarray] = {}
        for group in length_buckets([len(row) for row in rows]):
            longest = max(len(rows[index]) for index in group)
            # What stands in the padding has no effect; RoBERTa counts positions by its padding token, so it is that.
            tokens_BT = torch.full((len(group), longest), self.tokenizer.pad_token_id, dtype=torch.int64)
            real_BT = torch.zeros((len(group), longest), dtype=torch.bool)
            for place, index in enumerate(group):
                tokens_BT[place, : len(rows[index])] = torch.from_numpy(rows[index])
                real_BT[place, : len(rows[index])] = True
            hidden_BTD = self._forward(tokens_BT.to(self._device), real_BT.to(self._device)).float().cpu().numpy()
            for place, index in enumerate(group):
                hidden[index] = hidden_BTD[place, : len(rows[index])].copy()
        return [hidden[index] for index in range(len(rows))]

    @torch.inference_mode()
    def _forward(self, tokens_BT: Int64[Tensor, "B T"], real_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Hidden states after the layer; `real_BT` is False at padding."""
        every = self._layer is not None
        output = self._model(input_ids=tokens_BT, attention_mask=real_BT.long(), output_hidden_states=every)
        hidden_BTD: Tensor = output.last_hidden_state if self._layer is None else output.hidden_states[self._layer]
        return hidden_BTD


def _most_tokens(model: nn.Module, name: str) -> int:
    """How many tokens the positions of a model allow.

    RoBERTa and its kin count positions from the padding token's number plus one, so 514 positions hold 512 tokens.
    Their tables of positions have a padding row; BERT's have none. Where there is no table, the configuration counts.
    """
    config: Any = model.config
    most = getattr(config, "max_position_embeddings", None)
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            most = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    if most is None or most < FEWEST_TOKENS:
        raise ConfigError(
            f"{name}: {type(model).__name__} does not say how many positions it has (max_position_embeddings); "
            "choose a BERT-style encoder."
        )
    return int(most)


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
