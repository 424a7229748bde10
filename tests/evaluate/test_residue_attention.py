import numpy as np
import pytest
import torch

from amma.evaluate.analyses.residue_attention import (
    View,
    collect_attention,
    correlation,
    evenness,
    name_tokens,
    position_profiles,
    times_mean,
)
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import Modality
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 8, STR: 6, FUNC: 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Four proteins; text tokens are of name and function, the last has no name."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("attention") / "store.zarr"
    proteins = []
    for n, length in enumerate((7, 9, 5, 6)):
        resolved = np.arange(n % 2, length, dtype=np.int32)
        field = np.array([1, 1] if n == 3 else [0, 0, 1][: 3 - n % 2], np.int32)
        features = {
            SEQ: Encoded(rng.normal(size=(length, 8)).astype(np.float32), None, np.zeros(8, np.float32)),
            STR: Encoded(rng.normal(size=(len(resolved), 6)).astype(np.float32), resolved, None),
            FUNC: Encoded(rng.normal(size=(len(field), 4)).astype(np.float32), field, np.zeros(4, np.float32)),
        }
        proteins.append(ProteinArrays(f"P{n}", "ACDEFGHIK"[:length], features))
    write_store(folder, proteins, widths=WIDTHS, fingerprint={"seq": {"encoder": "toy"}}, random_weights=True)
    return FeatureStore(folder)


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    config = {"width": 16, "ffn": 32, "num_fusion_layers": 2, "num_heads": 2, "decoder_width": 16, "decoder_ffn": 32}
    made = make_model(ModelConfig.model_validate({**config, "num_decoder_heads": 2}), WIDTHS).eval()
    with torch.no_grad():
        made.encoder.layers[-1].attention.query_key_value.weight.mul_(5)
    return made


def test_attention_is_that_of_the_names_tokens_alone_and_summed_over_a_residues_tokens(
    store: FeatureStore, model: FusionModel
) -> None:
    rows = np.array([store.row_of(name) for name in ("P0", "P1", "P2")])
    is_name = [name_tokens(store, int(row)) for row in rows]
    assert [mask.tolist() for mask in is_name] == [[True, True, False], [True, True], [True, True, False]]
    found = {
        tokens: collect_attention(store, rows, is_name, [View(model, np.arange(3))], residue_tokens=tokens)[0]
        for tokens in ("both", "seq", "str")
    }
    for place, row in enumerate(rows.tolist()):
        tokens = {}
        for modality in Modality:
            read = store.read(modality, row)
            kept = is_name[place] if modality is FUNC else np.ones(len(read.features), dtype=bool)
            position = np.flatnonzero(kept) if modality is not STR else read.index
            features = torch.from_numpy(read.features[kept].astype(np.float32))
            tokens[modality] = Tokens(
                features, torch.tensor([0, len(features)]), torch.from_numpy(np.asarray(position, dtype=np.int64))
            )
        # What the layer computes, written out: the name's rows of softmax(q·k), mean over rows and heads.
        caught = []
        last = model.encoder.layers[-1]
        hook = last.register_forward_pre_hook(lambda _, given, caught=caught: caught.append(given[0]))
        with torch.no_grad():
            model.fuse(PackedBatch(("P",), tokens))
            hook.remove()
            query, key, _ = last.before(caught[0], None)
            weight = torch.softmax(torch.einsum("qhk,thk->hqt", query, key) / query.shape[-1] ** 0.5, -1)
        num_seq, num_str = len(tokens[SEQ].position_T), len(tokens[STR].position_T)
        mean = weight[:, num_seq + num_str :].mean((0, 1)).double().numpy()
        expected_seq = mean[:num_seq]
        expected_str = np.zeros(num_seq)
        expected_str[tokens[STR].position_T.numpy()] = mean[num_seq : num_seq + num_str]
        np.testing.assert_allclose(found["seq"][place].residue_L, expected_seq, atol=1e-6)
        np.testing.assert_allclose(found["str"][place].residue_L, expected_str, atol=1e-6)
        np.testing.assert_allclose(found["both"][place].residue_L, expected_seq + expected_str, atol=1e-6)
        assert sum(found["both"][place].shares.values()) == pytest.approx(1, abs=1e-6)
        assert found["both"][place].shares[STR] == pytest.approx(expected_str.sum(), abs=1e-6)


def test_another_proteins_name_changes_who_asks_and_not_what_is_asked(store: FeatureStore, model: FusionModel) -> None:
    rows = np.array([store.row_of(name) for name in ("P0", "P1", "P2")])
    is_name = [name_tokens(store, int(row)) for row in rows]
    views = [View(model, np.arange(3)), View(model, np.array([1, 2, 0]))]
    own, other = collect_attention(store, rows, is_name, views)
    for a, b in zip(own, other, strict=True):
        assert len(a.residue_L) == len(b.residue_L)
        assert np.abs(a.residue_L - b.residue_L).max() > 1e-4
    # Alone with that name it is the same as among others.
    (alone,) = collect_attention(
        store, rows[[0, 1]], [is_name[0], is_name[1]], [View(model, np.array([1, 0]))], residue_tokens="both"
    )
    np.testing.assert_allclose(alone[0].residue_L, other[0].residue_L, atol=1e-6)


def test_a_protein_with_a_text_and_no_name_has_no_name_tokens(store: FeatureStore) -> None:
    assert not name_tokens(store, store.row_of("P3")).any()


def test_measures_of_a_profile_know_flat_and_single_ones() -> None:
    flat, single = np.full(10, 0.03), np.eye(10)[3]
    assert evenness(flat) == pytest.approx(1)
    assert evenness(single) == pytest.approx(0.1)
    assert times_mean(single)[3] == pytest.approx(10)
    assert correlation(flat, single) is None
    assert correlation(single, 2 * single + 1) == pytest.approx(1)


def test_position_alone_is_learnt_from_other_proteins() -> None:
    rising = [np.linspace(1, 3, length) for length in (30, 41, 50)]
    odd = np.linspace(3, 1, 40)
    profiles = position_profiles([*rising, odd])
    assert [len(profile) for profile in profiles] == [30, 41, 50, 40]
    assert np.all(np.diff(profiles[3]) >= 0)
    changed = position_profiles([*rising, np.ones(40)])
    np.testing.assert_allclose(changed[3], profiles[3])
    assert np.abs(changed[0] - profiles[0]).max() > 0.1
