"""The ESM that is tuned gives fair-esm's values, and gradients to all of its weights."""

import numpy as np
import pytest
import torch

from amma.evaluate.tuning.tunable_esm import TunableEsm
from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.esm_checkpoint import random_model
from amma.featurize.encoders.protocol import EncoderInput
from amma.manifests.table import Protein

FAMILIES = ["esm1b", "esm2"]
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "G", "ACDEFGHIKLMNPQRSTVWYXBUZO", "MKTAYIAKQR" * 9]


def make(family: str, *, layer: int = 3, precision: str = "fp32") -> tuple[TunableEsm, EsmEncoder]:
    settings = {"seed": 3, "architecture": family, "layers": 3, "width": 32, "heads": 4}
    encoder = EsmEncoder.random(**settings, layer=layer, precision=precision)
    return TunableEsm(random_model(**settings), layer=layer), encoder


def tokens(encoder: EsmEncoder, *sequences: str) -> tuple[torch.Tensor, list[int]]:
    rows = [encoder.tokens(Protein(id="p", sequence=sequence)) for sequence in sequences]
    return torch.from_numpy(np.concatenate(rows)), [len(row) for row in rows]


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference over the root mean square."""
    return float((found - wanted).abs().max() / wanted.square().mean().sqrt())


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_the_frozen_encoder(family: str, layer: int) -> None:
    esm, encoder = make(family, layer=layer)
    hidden_TD = esm(*tokens(encoder, *SEQUENCES)).detach()
    encoded = encoder.encode([EncoderInput(Protein(id="p", sequence=sequence)) for sequence in SEQUENCES])
    begin = 0
    for sequence, each in zip(SEQUENCES, encoded, strict=True):
        mine = hidden_TD[begin + 1 : begin + 1 + len(sequence)]
        assert apart(mine, torch.from_numpy(each.features)) < 1e-5
        begin += len(sequence) + 2


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_fair_esm(family: str) -> None:
    esm, encoder = make(family)
    model = random_model(seed=3, architecture=family, layers=3, width=32, heads=4)
    for sequence in SEQUENCES:
        tokens_T, lengths = tokens(encoder, sequence)
        with torch.no_grad():
            wanted = model(tokens_T[None], repr_layers=[3])["representations"][3][0]
        assert apart(esm(tokens_T, lengths).detach(), wanted) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_fair_esm_and_reach_every_weight(family: str) -> None:
    esm, encoder = make(family)
    tokens_T, lengths = tokens(encoder, SEQUENCES[0])
    model = random_model(seed=3, architecture=family, layers=3, width=32, heads=4).requires_grad_(True)
    weight_TD = torch.randn(len(tokens_T), 32, generator=torch.Generator().manual_seed(0))
    (esm(tokens_T, lengths) * weight_TD).sum().backward()
    (model(tokens_T[None], repr_layers=[3])["representations"][3][0] * weight_TD).sum().backward()
    theirs = dict(model.named_parameters())
    for name, parameter in esm.named_parameters():
        name = name.replace("norm_before", "emb_layer_norm_before").replace("norm_after", "emb_layer_norm_after")
        wanted = theirs[name].grad
        assert parameter.grad is not None
        assert wanted is not None
        # A constant added to all keys changes no softmax: that gradient is rounding alone, in both.
        if not name.endswith("k_proj.bias"):
            assert parameter.grad.any()
            assert apart(parameter.grad, wanted) < 1e-4, name


@pytest.mark.parametrize("family", FAMILIES)
def test_computing_anew_gives_the_same_gradients_to_the_bit(family: str) -> None:
    gradients = []
    for recomputes in (False, True):
        esm, encoder = make(family)
        esm.recomputes = recomputes
        esm(*tokens(encoder, *SEQUENCES)).square().sum().backward()
        gradients.append([parameter.grad for parameter in esm.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_values_are_near_and_sums_stay_in_float32(family: str) -> None:
    esm, encoder = make(family)
    exact = esm(*tokens(encoder, *SEQUENCES)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = esm(*tokens(encoder, *SEQUENCES))
    assert rounded.dtype is torch.float32
    assert 0 < apart(rounded.detach(), exact) < 0.2
    rounded.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in esm.parameters())


def test_training_mode_changes_nothing() -> None:
    esm, encoder = make("esm1b")
    given = tokens(encoder, *SEQUENCES)
    assert torch.equal(esm.train()(*given), esm.eval()(*given))
