import numpy as np
import pytest
import torch

from amma.evaluate.config import Readout
from amma.evaluate.tuning.readout import AttentionPooling, check_readout, read_out, represent
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import UsageError
from amma.manifests.table import Modality
from amma.train.data.collate import collate
from amma.train.model.amma import AMMA
from amma.train.model.batch import Fused, Tokens
from amma.train.run.checkpoint import load_model


def tokens(lengths: list[int], width: int = 3) -> Tokens:
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    position_T = torch.cat([torch.arange(length) for length in lengths])
    return Tokens(torch.randn(int(offsets[-1]), width), offsets, position_T)


def test_mean_averages_a_proteins_sequence_outputs_and_first_takes_residue_1() -> None:
    torch.manual_seed(0)
    sequence, structure = tokens([4, 1, 7]), tokens([3, 1, 2])
    fused = Fused(("a", "b", "c"), {Modality.SEQ: sequence, Modality.STR: structure})
    means, firsts = read_out(fused, Readout.MEAN), read_out(fused, Readout.FIRST)
    for protein in range(3):
        torch.testing.assert_close(means[protein], sequence.of(protein).mean(0))
        assert torch.equal(firsts[protein], sequence.of(protein)[0])


def random_pooling(width: int, readout: Readout) -> AttentionPooling | None:
    if readout is not Readout.ATTENTION:
        return None
    pooling = AttentionPooling(width)
    torch.nn.init.normal_(pooling.score.weight)
    return pooling


def test_attention_is_a_softmax_over_a_proteins_residues_and_starts_as_the_mean() -> None:
    torch.manual_seed(0)
    sequence = tokens([4, 1, 7])
    fused = Fused(("a", "b", "c"), {Modality.SEQ: sequence})
    torch.testing.assert_close(read_out(fused, Readout.ATTENTION, AttentionPooling(3)), read_out(fused, Readout.MEAN))
    pooling = random_pooling(3, Readout.ATTENTION)
    assert pooling is not None
    vectors = read_out(fused, Readout.ATTENTION, pooling)
    for protein in range(3):
        features = sequence.of(protein)
        weights = (features @ pooling.score.weight[0]).softmax(0)
        torch.testing.assert_close(vectors[protein], weights @ features)
    with torch.no_grad():
        pooling.score.weight.mul_(1e4)  # exp() of such scores overflows
    assert read_out(fused, Readout.ATTENTION, pooling).isfinite().all()
    with pytest.raises(ValueError, match="needs the pooling"):
        read_out(fused, Readout.ATTENTION)


def test_without_sequence_features_a_protein_is_read_at_its_structure() -> None:
    structure = tokens([3, 2])
    means = read_out(Fused(("a", "b"), {Modality.STR: structure}), Readout.MEAN)
    torch.testing.assert_close(means[1], structure.of(1).mean(0))


def test_a_protein_without_any_residue_is_refused() -> None:
    with pytest.raises(ValueError, match="without a single residue"):
        read_out(Fused(("a", "b"), {Modality.SEQ: tokens([3, 0])}), Readout.MEAN)


def test_global_is_the_output_at_the_global_token_and_needs_one() -> None:
    vectors = torch.randn(2, 3)
    assert read_out(Fused(("a", "b"), {Modality.SEQ: tokens([3, 2])}, vectors), Readout.GLOBAL) is vectors
    with pytest.raises(ValueError, match="needs a model with a global token"):
        read_out(Fused(("a", "b"), {Modality.SEQ: tokens([3, 2])}), Readout.GLOBAL)


@pytest.mark.parametrize("readout", [readout for readout in Readout if readout is not Readout.GLOBAL])
def test_gradients_reach_only_what_is_read(readout: Readout) -> None:
    sequence = tokens([3, 2])
    sequence.features_TD.requires_grad_()
    pooling = random_pooling(3, readout)
    read_out(Fused(("a", "b"), {Modality.SEQ: sequence}), readout, pooling)[1].sum().backward()
    gradient = sequence.features_TD.grad
    assert gradient is not None
    assert not gradient[:3].any()
    assert gradient[3].all()
    assert bool(gradient[4].all()) == (readout is not Readout.FIRST)
    assert pooling is None or pooling.score.weight.grad is not None


def model_of(run, readout: Readout) -> AMMA:
    """The trained model; for `global` with a token put in."""
    model = load_model(run).model
    if readout is not Readout.GLOBAL:
        return model
    torch.manual_seed(0)
    with_token = AMMA(model.config.model_copy(update={"global_token": True}), model.widths)
    assert with_token.load_state_dict(model.state_dict(), strict=False).missing_keys == ["global_token"]
    return with_token.eval()


def test_global_is_refused_where_the_model_has_no_global_token(planted) -> None:
    model = model_of(planted.run, Readout.MEAN)
    with FeatureStore(planted.store) as store, pytest.raises(UsageError, match=r"no global token.*--global-token"):
        represent(model, store, np.arange(2), Readout.GLOBAL, device="cpu")
    check_readout(model_of(planted.run, Readout.GLOBAL), Readout.GLOBAL)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_global_token_is_tuned_through_its_readout_unless_frozen(planted, frozen: bool) -> None:
    model = model_of(planted.run, Readout.GLOBAL)
    with FeatureStore(planted.store) as store:
        proteins = np.arange(store.num_proteins)
        vectors = represent(model, store, proteins, Readout.GLOBAL, device="cpu", frozen=frozen)
    assert vectors.unique(dim=0).shape == vectors.shape  # every protein has its own
    assert vectors.requires_grad == (not frozen)
    if not frozen:
        vectors.square().sum().backward()
        assert model.global_token is not None
        assert model.global_token.grad is not None
        assert model.global_token.grad.any()


@pytest.mark.parametrize("readout", list(Readout))
def test_a_representation_is_the_same_alone_and_among_many_and_in_any_order(planted, readout: Readout) -> None:
    model = model_of(planted.run, readout)
    pooling = random_pooling(model.config.width, readout)
    with FeatureStore(planted.store) as store, torch.no_grad():
        everyone = np.random.default_rng(0).permutation(store.num_proteins)
        assert (store.length(Modality.STR) == 0).sum() > 5  # both kinds of protein are there
        among = represent(model, store, everyone, readout, device="cpu", pooling=pooling)
        for place, protein in enumerate(everyone):
            alone = represent(model, store, np.array([protein]), readout, device="cpu", pooling=pooling)
            torch.testing.assert_close(alone[0], among[place], atol=1e-5, rtol=1e-5)


def test_text_has_no_part_in_a_representation(planted, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(planted.run).model
    asked = []

    def watched(store, proteins, modalities):
        asked.extend(modalities)
        return collate(store, proteins, modalities)

    monkeypatch.setattr("amma.evaluate.tuning.readout.collate", watched)
    with FeatureStore(planted.store) as store, torch.no_grad():
        represent(model, store, np.arange(20), Readout.MEAN, device="cpu")
    assert set(asked) == {Modality.SEQ, Modality.STR}
