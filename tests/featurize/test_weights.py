"""Weights files are data: what carries anything else is refused, and every fault says what to do."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amma.featurize.encoders.registry import ENCODERS
from amma.featurize.encoders.weights import (
    default_folder,
    fill_with_random_numbers,
    find_weights,
    load_state,
    load_torch_file,
    sha256_of_state,
)
from amma.manifests.errors import WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.known_weights import known_weights


class Canary:
    """Unpickling one creates a file: a stand-in for any code in a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_plain_state_is_read_with_the_hash_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.arange(6.0).reshape(2, 3)}, path)

    loaded = load_torch_file(path)

    assert torch.equal(loaded.data["weight"], torch.arange(6.0).reshape(2, 3))
    assert loaded.sha256 == sha256_of_file(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "old format"])
def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    torch.save({"model": Canary(canary)}, path, _use_new_zipfile_serialization=zipped)
    # The file is really dangerous: the reader that trusts it runs what it carries.
    torch.load(path, weights_only=False)
    assert canary.exists()
    canary.unlink()

    with pytest.raises(WeightsError, match="nothing in it was run") as caught:
        load_torch_file(path, allowed=[argparse.Namespace])

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_code_in_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Canary(canary)))

    with pytest.raises(WeightsError):
        load_torch_file(path)

    assert not canary.exists()


def test_a_class_is_allowed_for_one_file_only(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"args": argparse.Namespace(layers=2)}, path)

    assert load_torch_file(path, allowed=[argparse.Namespace]).data["args"].layers == 2
    with pytest.raises(WeightsError, match=r"it asks for argparse\.Namespace"):
        load_torch_file(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_file_cut_short_is_refused_in_one_line(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])

    with pytest.raises(WeightsError, match="official address") as caught:
        load_torch_file(path)

    assert "\n" not in str(caught.value)


def test_misfits_are_named_and_nothing_is_changed() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {
        "0.weight": torch.zeros(2, 3),
        "0.bias": torch.zeros(5),
        "1.weight": torch.zeros(2, 2),
        "2.extra": torch.zeros(1),
    }

    with pytest.raises(WeightsError) as caught:
        load_state(module, state, source="file.pt")

    message = str(caught.value)
    assert "file.pt" in message
    assert "0.bias has shape (5,), expected (2,)" in message
    assert "1.bias is missing" in message
    assert "2.extra is not part of this architecture" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_only_what_may_be_missing_may_be_missing() -> None:
    module = nn.Linear(3, 2)
    state = {"weight": torch.ones(2, 3)}

    load_state(module, state, source="file.pt", may_be_missing=["bias"])

    assert torch.equal(module.weight, torch.ones(2, 3))
    with pytest.raises(WeightsError, match="bias is missing"):
        load_state(module, state, source="file.pt")


def test_random_weights_are_the_same_numbers_on_every_machine() -> None:
    module = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2), nn.LayerNorm(2))

    fill_with_random_numbers(module, seed=7)

    # Written down once; uniform numbers from random bits leave no room for rounding that differs between machines.
    assert sha256_of_state(module) == "ac6bc20c158699df321acf59fd2c7358dca62e2249c7b41e685eecbb73ebf346"
    assert module[0].weight.abs().max() <= 3**0.5
    assert module[1].weight.abs().max() <= (3 / 2) ** 0.5
    assert (module[2].weight - 1).abs().max() <= 0.1
    assert 0 < module[2].bias.abs().max() <= 0.1


def test_random_weights_keep_the_scale_of_activations() -> None:
    module = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
    fill_with_random_numbers(module, seed=0)
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32))

    assert 0.5 < module(inputs).std().item() < 2


def test_a_state_hash_depends_on_every_value_and_name() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    fill_with_random_numbers(one, seed=0)
    fill_with_random_numbers(other, seed=0)
    assert sha256_of_state(one) == sha256_of_state(other)
    assert sha256_of_state(nn.Sequential(one)) != sha256_of_state(one)

    with torch.no_grad():
        other.bias[1] = torch.nextafter(other.bias[1], torch.tensor(9.0))
    assert sha256_of_state(one) != sha256_of_state(other)


def test_missing_weights_name_file_address_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find_weights(known_weights()["esm1b"], tmp_path)

    message = str(caught.value)
    assert "esm1b_t33_650M_UR50S.pt" in message
    assert "https://dl.fbaipublicfiles.com/fair-esm/models/esm1b_t33_650M_UR50S.pt" in message
    assert str(tmp_path) in message
    assert "--weights" in message
    assert "\n" not in message


def test_weights_are_found_in_the_folder_given(tmp_path: Path) -> None:
    (tmp_path / "mc_gearnet_edge.pth").touch()

    assert find_weights(known_weights()["gearnet-edge"], tmp_path) == tmp_path / "mc_gearnet_edge.pth"


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMMA_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "weights"

    monkeypatch.delenv("AMMA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "amma" / "weights"


def test_text_weights_are_found_in_the_hugging_face_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    known = known_weights()["pubmedbert"]
    with pytest.raises(WeightsError, match="Hugging Face cache"):
        find_weights(known, tmp_path)

    repository = tmp_path / "hub" / "models--microsoft--BiomedNLP-BiomedBERT-base-uncased-abstract"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)

    assert find_weights(known, tmp_path) == snapshot


def test_known_weights_have_an_address_and_a_licence_and_belong_to_an_encoder() -> None:
    known = known_weights()

    published = {name for name, builder in ENCODERS.items() if builder.partition(":")[2].startswith("published")}
    # Nobody published weights of a GearNet without edge layers: its file must be given.
    assert set(known) == published - {"gearnet"}
    for entry in known.values():
        assert entry.address.startswith("https://")
        assert entry.licence
        assert entry.address.endswith(entry.file)
