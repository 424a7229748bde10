"""Models of fair-esm: read from checkpoints as published, or made with random weights.

fair-esm never loads or downloads a file here: that would unpickle whatever the file holds.
"""

import argparse
from pathlib import Path
from typing import Any, Literal

import esm
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from torch import Tensor

from amma.featurize.encoders.weights import (
    LoadedFile,
    check_state,
    fill_with_random_numbers,
    load_torch_file,
    one_line,
)
from amma.manifests.errors import ConfigError, WeightsError

UNUSED_HEAD = ("contact_head.regression.weight", "contact_head.regression.bias")
"""Contact prediction; published in a file of its own and not needed for features."""


def read_checkpoint(path: Path) -> tuple[Any, str]:
    """The model in a checkpoint as published by fair-esm (`.pt`), and the file's sha256.

    Its weights are those of the file, in the file's precision, and not copied: where the file's format can be mapped,
    they are read when they are used. Raises `WeightsError` if the file is anything else.
    """
    loaded = load_torch_file(path, allowed=[argparse.Namespace])
    model, state = _checked(loaded)
    model.load_state_dict(state, strict=False, assign=True)
    return model.eval().requires_grad_(False), loaded.sha256


def describe_file(path: Path) -> dict[str, Any]:
    """Family and sizes of a fair-esm checkpoint whose names and shapes all fit; `WeightsError` if it is anything else.

    Its weights are not read into memory (where the file's format can be mapped).
    """
    return describe_model(_checked(load_torch_file(path, allowed=[argparse.Namespace]))[0])


def random_model(*, seed: int, architecture: Literal["esm1b", "esm2"], layers: int, width: int, heads: int) -> Any:
    """A model of any size with seeded random weights; torch's random state is left alone.

    Raises `ConfigError` for a width that heads do not divide into pairs of channels.
    """
    if width % (2 * heads):
        raise ConfigError(f"width must be a multiple of twice the number of heads ({heads}), got {width}.")
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    with torch.random.fork_rng(devices=[]):
        if architecture == "esm2":
            model: Any = ESM2(num_layers=layers, embed_dim=width, attention_heads=heads, alphabet=alphabet)
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
    return model.eval().requires_grad_(False)


def describe_model(model: Any) -> dict[str, Any]:
    """Family and sizes of a fair-esm model; `max_residues` is None where positions are not learned."""
    if isinstance(model, ESM2):
        sizes = {"layers": model.num_layers, "width": model.embed_dim, "heads": model.attention_heads}
        return {"family": "esm2", **sizes, "max_residues": None}
    settings = model.args
    sizes = {"layers": settings.layers, "width": settings.embed_dim, "heads": settings.attention_heads}
    return {"family": "esm1b", **sizes, "max_residues": settings.max_positions - 2}


def _checked(loaded: LoadedFile) -> tuple[Any, dict[str, Tensor]]:
    """An empty model of the checkpoint's architecture, and its weights under the names of today's classes.

    Renaming is fair-esm 2.0.0's (`esm.pretrained`), on data that we read ourselves. The model is on the meta device:
    it takes no memory.
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
    check_state(model, state, source=str(loaded.path), may_be_missing=UNUSED_HEAD)
    return model, state
