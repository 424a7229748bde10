"""The sequence encoder of a store, to be tuned, and the proteins of a task as it reads them.

Legend: T tokens (BOS, residues, EOS) of all proteins of a batch, one after another; B proteins; N proteins in all.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from amma.evaluate.config import FunctionConfig, Precision
from amma.evaluate.tuning.tunable_esm import TunableEsm
from amma.featurize.encoders.builders import EsmOptions, RandomEsmOptions
from amma.featurize.encoders.choice import EncoderChoice
from amma.featurize.encoders.pins import trusted_weights
from amma.featurize.encoders.presets import PRESETS
from amma.featurize.encoders.registry import ENCODERS, EncoderSpec, known_name
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import FingerprintError, UsageError
from amma.manifests.known_weights import known_weights
from amma.manifests.table import Modality, Protein
from amma.train.model.batch import PackedBatch, Tokens

NUM_ENDS = 2
"""BOS and EOS."""

COMPUTED_IN = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
STORED_AS = {"float32": 0.0, "float16": 1e-3, "int8": 5e-2}
"""How far features may be from the store's (RMS of the difference over RMS) for what the encoder computed in then, and
for what its features were rounded to. Those of other weights, or of another protein, differ by about 1."""


@dataclass(frozen=True)
class SequenceInputs:
    """The tokens of some proteins, by their number in the store."""

    tokens: Mapping[int, Int64[np.ndarray, " T"]]
    precision: Precision

    def renewed(self, batch: PackedBatch, rows: Int64[np.ndarray, " B"], esm: TunableEsm) -> PackedBatch:
        """The batch of the proteins `rows` with what `esm` gives for its sequences; one without any stays as it is.

        Raises `FingerprintError` if the store has another number of rows for one of them.
        """
        stored = batch.tokens.get(Modality.SEQ)
        if stored is None:
            return batch
        read = [self.tokens[row] for row in rows.tolist()]
        lengths = [len(tokens_T) for tokens_T in read]
        if [length - NUM_ENDS for length in lengths] != stored.lengths.tolist():
            raise FingerprintError(
                f"the store has {stored.lengths.tolist()} sequence rows for {', '.join(batch.ids)}, its encoder reads "
                f"{[length - NUM_ENDS for length in lengths]} residues. Run amma-featurize verify on the store."
            )
        device = stored.features_TD.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision is Precision.BF16):
            hidden_TD = esm(torch.from_numpy(np.concatenate(read)), lengths)
        features_TD = hidden_TD.index_select(0, _residues(lengths).to(device))
        renewed = Tokens(features_TD, stored.offsets, stored.position_T)
        return replace(batch, tokens={**batch.tokens, Modality.SEQ: renewed})


@dataclass(frozen=True)
class SequenceEncoder:
    """An encoder in host memory, as it was when the store was made, and what it reads of the proteins of a task."""

    esm: TunableEsm
    inputs: SequenceInputs

    @property
    def num_parameters(self) -> int:
        """All of them are tuned."""
        return sum(parameter.numel() for parameter in self.esm.parameters())


def open_sequence_encoder(
    config: FunctionConfig, store: FeatureStore, rows: Int64[np.ndarray, " N"]
) -> SequenceEncoder:
    """The encoder that made the sequence features of `store`, and the tokens of those of `rows` that have some.

    Its layer, limit and precision are the store's. Raises `UsageError` if it is no model of fair-esm, `WeightsError`
    if its weights are missing, `FingerprintError` naming each field in which what was found differs from the store's.
    """
    from amma.featurize.encoders.esm import EsmEncoder

    made_by: Mapping[str, Any] = store.fingerprint.get("seq", {})
    if made_by.get("encoder") != "esm":
        raise UsageError(
            f"--protocol paper tunes an ESM-1b or ESM-2 of fair-esm; the sequence features of {store.path} are of "
            f"encoder {made_by.get('encoder')!r}. Give --protocol fusion, or a store of another sequence encoder."
        )
    model, sha256, random_weights = _read_model(_spec(config, made_by), config.weights)
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[made_by["dtype"]]
    encoder = EsmEncoder(
        model,
        name="sequence encoder",
        weights_sha256=sha256,
        random_weights=random_weights,
        layer=made_by.get("layer"),
        max_residues=made_by.get("max_residues"),
        long=made_by.get("long", "truncate"),
        precision=precision,
    )
    different = differences({"seq": dict(made_by)}, {"seq": encoder.fingerprint()})
    if different:
        raise FingerprintError(
            f"this is not the sequence encoder that {store.path} was written with (store -> found): "
            f"{'; '.join(different)}. Give its weights with --weights, and --preset or --seq-encoder as for the store."
        )
    present = rows[store.length(Modality.SEQ)[rows] > 0].tolist()
    sequences = store.sequences().take(present)
    tokens = {
        row: encoder.tokens(Protein(id=str(row), sequence=sequence))
        for row, sequence in zip(present, sequences, strict=True)
    }
    esm = TunableEsm(model, layer=encoder.layer)
    esm.recomputes = config.recompute
    return SequenceEncoder(esm, SequenceInputs(tokens, config.finetune.precision or Precision.FP32))


@torch.no_grad()
def check_features(encoder: SequenceEncoder, store: FeatureStore, *, device: torch.device) -> None:
    """Compare the features of a few proteins with the store's; `FingerprintError` for one that differs.

    Fingerprints say that they must not: this finds what they cannot, such as another version of a library.
    """
    bound = COMPUTED_IN[store.fingerprint["seq"]["dtype"]] + STORED_AS[str(store.dtype)]
    by_length = sorted(encoder.inputs.tokens, key=lambda row: (len(encoder.inputs.tokens[row]), row))
    esm = encoder.esm.to(device)
    # Long ones would take a CPU a while; what is wrong is wrong in short ones too.
    for row in {by_length[place] for place in (0, len(by_length) // 4, len(by_length) // 2)} if by_length else ():
        tokens_T = encoder.inputs.tokens[row]
        found = esm(torch.from_numpy(tokens_T), [len(tokens_T)])[1:-1].cpu().double().numpy()
        stored = store.read(Modality.SEQ, row).features.astype(np.float64)
        apart = _rms(found - stored) / _rms(stored)
        if not apart <= bound:
            raise FingerprintError(
                f"protein {store.ids[row]!r}: what the sequence encoder gives here differs from the features in "
                f"{store.path} by {apart:.2g} of their RMS, at most {bound:.2g} was expected of what it was computed "
                "and stored in. Is this the fair-esm that the store was made with? Else featurize again."
            )
    encoder.esm.to("cpu")


def _rms(value: np.ndarray) -> float:
    return float(np.sqrt(np.square(value).mean()))


def _residues(lengths: list[int]) -> Int64[Tensor, " _"]:
    """The rows of tokens that are residues, and not BOS or EOS."""
    starts = np.cumsum([0, *lengths])[:-1]
    return torch.cat(
        [torch.arange(start + 1, start + length - 1) for start, length in zip(starts.tolist(), lengths, strict=True)]
    )


def _spec(config: FunctionConfig, made_by: Mapping[str, Any]) -> EncoderSpec:
    preset = config.preset or ("tiny" if made_by.get("random_weights") else "paper")
    choice = EncoderChoice(seq_encoder=config.seq_encoder)
    spec = choice.specs(preset).get(Modality.SEQ)
    return spec or known_name(preset, PRESETS, what="preset")[Modality.SEQ]


def _read_model(spec: EncoderSpec, weights: str | None) -> tuple[Any, str, bool]:
    """A model of fair-esm, the sha256 of its weights, and whether they are random numbers."""
    from amma.featurize.encoders.esm_checkpoint import random_model, read_checkpoint
    from amma.featurize.encoders.weights import sha256_of_state

    source = f"options of encoder {spec.name}"
    builder = known_name(spec.name, ENCODERS, what="encoder").rpartition(":")[2]
    if builder == "random_esm":
        sizes = RandomEsmOptions.parse(spec.options, source=source).model_dump(
            include={"seed", "architecture", "layers", "width", "heads"}
        )
        model = random_model(**sizes)
        return model, sha256_of_state(model), True
    if builder != "published_esm":
        raise UsageError(f"{spec.name} is no model of fair-esm, and --protocol paper tunes no other.")
    file = EsmOptions.parse(spec.options, source=source).file
    folder = None if weights is None else Path(weights)
    with nullcontext(file) if file else trusted_weights(known_weights()[spec.name], folder) as path:
        model, sha256 = read_checkpoint(path)
    return model, sha256, False
