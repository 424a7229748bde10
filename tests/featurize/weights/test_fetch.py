"""Published weights come from their address to an encoder, or not at all: nothing is run, nothing bad is kept."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esm.data import Alphabet
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2

from amma.featurize.encoders.acceptance import check_contents
from amma.featurize.encoders.download import Patience
from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.esm_checkpoint import describe_model
from amma.featurize.encoders.pins import pins_file, read_pins
from amma.featurize.encoders.protocol import EncoderInput
from amma.featurize.encoders.registry import EncoderSpec, Place, build_encoder
from amma.featurize.weights import fetch, report, select, verify
from amma.manifests.errors import UsageError, WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.known_weights import KnownWeights, known_weights
from amma.manifests.table import Modality, Protein

WriteEsm1b = Callable[..., Path]
QUICK = Patience(connect=5.0, silence=0.4, tries=3, pause=0.01, longest_pause=0.02)
FILE = "esm1b_t33_650M_UR50S.pt"


class Canary:
    """Unpickling one creates a file: a stand-in for any code in a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture
def checkpoint(tmp_path: Path, write_esm1b: WriteEsm1b) -> Path:
    return write_esm1b(tmp_path / "published.pt")


@pytest.fixture
def toy(site: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> KnownWeights:
    """ESM-1b in the table of known weights, at toy size and at this machine's server."""
    known = KnownWeights(
        name="esm1b",
        file=FILE,
        address=f"{site.address}/{FILE}",
        licence="MIT",
        architecture={"family": "esm1b", "layers": 2, "width": 16, "heads": 2, "max_residues": 1022},
    )
    monkeypatch.setitem(known_weights(), "esm1b", known)
    site.files[f"/{FILE}"] = checkpoint.read_bytes()
    return known


def refused(known: KnownWeights, folder: Path, **how: Any) -> str:
    """The line that refuses a file, of which nothing is left."""
    with pytest.raises(WeightsError) as caught:
        fetch(known, folder, patience=QUICK, **how)
    assert "\n" not in str(caught.value)
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]
    return str(caught.value)


def encode(encoder: Any) -> np.ndarray:
    features: np.ndarray = encoder.encode([EncoderInput(Protein(id="p", sequence="MKTAYIAKQR"))])[0].features
    return features


def test_esm1b_comes_over_a_bad_connection_and_encodes(
    site: Any, toy: KnownWeights, checkpoint: Path, tmp_path: Path
) -> None:
    size = checkpoint.stat().st_size
    site.fail(cut=size // 3)
    site.fail(hang=size // 3)

    path = fetch(toy, tmp_path / "w", patience=QUICK)

    assert path == tmp_path / "w" / FILE
    assert path.read_bytes() == checkpoint.read_bytes()
    assert sum(site.sent) == size, "nothing came twice"
    encoder = build_encoder(EncoderSpec(name="esm1b"), Modality.SEQ, Place(weights=tmp_path / "w", device="cpu"))
    assert np.array_equal(encode(encoder), encode(EsmEncoder.from_file(checkpoint)))
    assert not encoder.random_weights
    assert encoder.fingerprint()["weights_sha256"] == sha256_of_file(checkpoint)
    assert read_pins() == {"esm1b": {FILE: sha256_of_file(checkpoint)}}


def test_what_is_there_is_not_fetched_again(site: Any, toy: KnownWeights, tmp_path: Path) -> None:
    fetch(toy, tmp_path / "w")
    fetch(toy, tmp_path / "w")

    assert len(site.asked) == 1


@pytest.mark.parametrize("where", ["args", "model", "alone"])
def test_code_in_a_download_is_not_run_and_not_kept(
    site: Any, toy: KnownWeights, checkpoint: Path, tmp_path: Path, where: str
) -> None:
    canary, poisoned = tmp_path / "canary", tmp_path / "poisoned.pt"
    contents = torch.load(checkpoint, weights_only=False)
    torch.save(Canary(canary) if where == "alone" else {**contents, where: Canary(canary)}, poisoned)
    torch.load(poisoned, weights_only=False)
    canary.unlink()  # it was really dangerous
    site.files[f"/{FILE}"] = poisoned.read_bytes()

    line = refused(toy, tmp_path / "w")

    assert "nothing in it was run" in line
    assert "was removed" in line
    assert not canary.exists()
    assert read_pins() == {}


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_cut_short_by_its_server_is_not_kept(
    site: Any, toy: KnownWeights, checkpoint: Path, tmp_path: Path, kept: float
) -> None:
    whole = checkpoint.read_bytes()
    site.files[f"/{FILE}"] = whole[: int(len(whole) * kept)]

    assert "cut short" in refused(toy, tmp_path / "w")
    assert read_pins() == {}


def test_a_server_that_says_too_short_a_length_gives_nothing(
    site: Any, toy: KnownWeights, checkpoint: Path, tmp_path: Path
) -> None:
    site.fail_always(length=checkpoint.stat().st_size - 100)

    assert "cut short" in refused(toy, tmp_path / "w")


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_one_changed_byte_is_refused_where_the_hash_is_known(
    site: Any, toy: KnownWeights, checkpoint: Path, tmp_path: Path, at: float
) -> None:
    changed = bytearray(checkpoint.read_bytes())
    changed[int(len(changed) * at)] ^= 1
    site.files[f"/{FILE}"] = bytes(changed)
    stated = toy.model_copy(update={"sha256": sha256_of_file(checkpoint)})

    line = refused(stated, tmp_path / "w", accept=True)

    assert f"its publisher states {stated.sha256}" in line
    assert read_pins() == {}


def test_a_file_that_changed_since_it_was_first_seen_is_refused_until_accepted(
    site: Any, toy: KnownWeights, write_esm1b: WriteEsm1b, checkpoint: Path, tmp_path: Path
) -> None:
    fetch(toy, tmp_path / "w").unlink()
    other = write_esm1b(tmp_path / "other.pt", seed=4)
    site.files[f"/{FILE}"] = other.read_bytes()

    line = refused(toy, tmp_path / "w")
    assert sha256_of_file(checkpoint) in line
    assert sha256_of_file(other) in line
    assert "amma-featurize weights esm1b --accept" in line
    assert read_pins()["esm1b"][FILE] == sha256_of_file(checkpoint)

    fetch(toy, tmp_path / "w", accept=True)
    assert read_pins()["esm1b"][FILE] == sha256_of_file(other)


def test_another_architecture_is_refused(
    site: Any, toy: KnownWeights, write_esm1b: WriteEsm1b, checkpoint: Path, tmp_path: Path
) -> None:
    site.files[f"/{FILE}"] = write_esm1b(tmp_path / "deeper.pt", layers=3).read_bytes()
    assert "layers is 3, expected 2" in refused(toy, tmp_path / "w")

    contents = torch.load(checkpoint, weights_only=False)
    del contents["model"]["encoder.sentence_encoder.layers.1.fc1.weight"]
    torch.save(contents, tmp_path / "incomplete.pt")
    site.files[f"/{FILE}"] = (tmp_path / "incomplete.pt").read_bytes()
    assert "layers.1.fc1.weight is missing" in refused(toy, tmp_path / "w")

    torch.save({"args": argparse.Namespace(arch="protein_bert_base"), "model": {}}, tmp_path / "esm1.pt")
    site.files[f"/{FILE}"] = (tmp_path / "esm1.pt").read_bytes()
    assert "protein_bert_base" in refused(toy, tmp_path / "w")

    torch.save({"layers.0.linear.weight": torch.zeros(3)}, tmp_path / "gearnet.pth")
    site.files[f"/{FILE}"] = (tmp_path / "gearnet.pth").read_bytes()
    assert "not a checkpoint of ESM" in refused(toy, tmp_path / "w")
    assert read_pins() == {}


def test_gearnet_edge_is_accepted_with_edge_layers_only(tmp_path: Path) -> None:
    from amma.featurize.encoders.gearnet import GearNet, GearNetConfig

    path = tmp_path / "mc_gearnet_edge.pth"
    state = GearNet(GearNetConfig()).state_dict()
    torch.save(state, path)
    check_contents(known_weights()["gearnet-edge"], path)

    torch.save({name: value for name, value in state.items() if not name.startswith("edge_layers.")}, path)
    with pytest.raises(WeightsError, match="edge layers"):
        check_contents(known_weights()["gearnet-edge"], path)


@pytest.mark.parametrize("variable", ["AMMA_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_of_the_network(
    site: Any, toy: KnownWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")

    with pytest.raises(WeightsError, match=f"{variable} is set") as caught:
        fetch(toy, tmp_path / "w")

    assert caught.value.code == "E_OFFLINE"
    assert str(tmp_path / "w") in str(caught.value)
    assert site.asked == []


def test_an_encoder_pins_the_file_that_it_loads(toy: KnownWeights, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / FILE).write_bytes(checkpoint.read_bytes())
    spec, place = EncoderSpec(name="esm1b"), Place(weights=folder, device="cpu")
    build_encoder(spec, Modality.SEQ, place)
    assert read_pins() == {"esm1b": {FILE: sha256_of_file(checkpoint)}}

    changed = bytearray(checkpoint.read_bytes())
    changed[len(changed) // 2] ^= 1  # within a tensor: torch does not notice
    EsmEncoder.from_file(checkpoint)
    (folder / FILE).write_bytes(bytes(changed))
    with pytest.raises(WeightsError, match="is not what was used as esm1b before") as caught:
        build_encoder(spec, Modality.SEQ, place)
    assert caught.value.code == "E_PINNED"

    assert verify(toy, folder, accept=True)
    build_encoder(spec, Modality.SEQ, place)


def test_a_file_that_cannot_be_loaded_is_not_pinned(toy: KnownWeights, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / FILE).write_bytes(checkpoint.read_bytes()[:-100])
    spec, place = EncoderSpec(name="esm1b"), Place(weights=folder, device="cpu")
    with pytest.raises(WeightsError, match="cut short"):
        build_encoder(spec, Modality.SEQ, place)
    with pytest.raises(WeightsError, match="cut short"):
        verify(toy, folder, accept=True)
    assert read_pins() == {}

    (folder / FILE).write_bytes(checkpoint.read_bytes())
    assert build_encoder(spec, Modality.SEQ, place).width == 16


def test_a_file_of_the_users_own_is_not_pinned(toy: KnownWeights, checkpoint: Path, tmp_path: Path) -> None:
    spec = EncoderSpec(name="esm1b", options={"file": str(checkpoint)})

    build_encoder(spec, Modality.SEQ, Place(weights=tmp_path, device="cpu"))

    assert read_pins() == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 9, "weights": {}}', '{"version": 1}'])
def test_damaged_pins_are_one_line(toy: KnownWeights, tmp_path: Path, text: str) -> None:
    pins_file().parent.mkdir(parents=True)
    pins_file().write_text(text)

    with pytest.raises(WeightsError, match="pinned anew") as caught:
        report([toy], tmp_path)

    assert str(pins_file()) in str(caught.value)


def test_a_cache_that_cannot_be_written_stops_nothing(
    toy: KnownWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("AMMA_CACHE", str(tmp_path / "occupied" / "cache"))

    assert fetch(toy, tmp_path / "w").is_file()

    assert "not remembered" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in known_weights() if name.startswith("esm")])
def test_sizes_in_the_table_are_those_that_the_files_are_named_after(name: str) -> None:
    known = known_weights()[name]
    sizes = {key: int(known.architecture[key]) for key in ("layers", "width", "heads")}
    with torch.device("meta"):
        if name == "esm1b":
            args = argparse.Namespace(
                arch="roberta_large",
                ffn_embed_dim=4 * sizes["width"],
                max_positions=1024,
                emb_layer_norm_before=True,
                layers=sizes["layers"],
                embed_dim=sizes["width"],
                attention_heads=sizes["heads"],
                token_dropout=True,
            )
            model: Any = ProteinBertModel(args, Alphabet.from_architecture("ESM-1b"))
        else:
            model = ESM2(num_layers=sizes["layers"], embed_dim=sizes["width"], attention_heads=sizes["heads"])
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    layers, size = re.findall(r"_t(\d+)_(\d+[MB])_", known.file)[0]

    assert int(layers) == sizes["layers"]
    stated = float(size[:-1]) * {"M": 1, "B": 1000}[size[-1]]
    assert millions == pytest.approx(stated, rel=0.07)
    assert {**describe_model(model), **known.architecture} == describe_model(model)


def test_weights_are_chosen_by_name_or_by_preset() -> None:
    assert [known.name for known in select([], "paper")] == ["esm1b", "gearnet-edge", "pubmedbert"]
    assert select([], "tiny") == []
    assert [known.name for known in select(["esm2_t6_8M", "esm1b", "esm1b"], None)] == ["esm2_t6_8M", "esm1b"]
    assert select([], None) == list(known_weights().values())
    with pytest.raises(UsageError, match="esm1b"):
        select(["esm1"], None)
    with pytest.raises(UsageError, match="not both"):
        select(["esm1b"], "paper")
