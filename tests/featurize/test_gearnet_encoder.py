"""The structure encoder: which rows it gives, and that a protein's rows are its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.encoders.gearnet import GearNetConfig
from amma.featurize.encoders.gearnet_encoder import GearNetEncoder
from amma.featurize.encoders.gearnet_weights import random_gearnet
from amma.featurize.encoders.protocol import Encoded, Encoder, EncoderInput
from amma.featurize.encoders.residue_graph import RESIDUES, GraphConfig
from amma.manifests.build import build_manifest
from amma.manifests.settings import canonical_json
from amma.manifests.structures import Chain, load_chain
from amma.manifests.table import Manifest, Modality, Protein


def protein(length: int, seed: int, unresolved: tuple[int, ...] = ()) -> EncoderInput:
    """A random protein at the density of real ones, some residues of which lack a Cα."""
    generator = np.random.default_rng(seed)
    sequence = "".join(generator.choice(list(RESIDUES), size=length))
    position = (generator.random((length, 3)) * (130 * length) ** (1 / 3)).astype(np.float32)
    residue = np.array([index for index in range(length) if index not in unresolved], dtype=np.int32)
    chain = Chain(residue=residue, letters="".join(sequence[index] for index in residue), ca=position[residue])
    row = Protein(id=f"P{seed}", sequence=sequence, structure=f"P{seed}.pdb", unresolved=unresolved)
    return EncoderInput(row, chain)


def difference(found: Encoded, expected: Encoded) -> float:
    rms = float(np.sqrt(np.mean(np.square(expected.features))))
    return float(np.abs(found.features - expected.features).max()) / rms


@pytest.fixture(scope="module")
def encoder() -> GearNetEncoder:
    return GearNetEncoder.random(seed=0)


def test_it_is_an_encoder_of_structures(encoder: GearNetEncoder) -> None:
    as_protocol: Encoder = encoder
    assert (as_protocol.modality, as_protocol.width, as_protocol.random_weights) == (Modality.STR, 96, True)


def test_a_row_for_every_residue_with_a_position(encoder: GearNetEncoder) -> None:
    batch = [protein(40, 0), protein(25, 1, unresolved=(0, 7, 8, 24)), protein(1, 2)]
    encoded = encoder.encode(batch)
    assert [len(item.features) for item in encoded] == [40, 21, 1]
    assert encoder.lengths([item.protein for item in batch]) == [40, 21, 1]
    for item, found in zip(batch, encoded, strict=True):
        assert item.chain is not None
        assert found.index is not None
        assert found.features.dtype == np.float32
        assert found.index.tolist() == item.chain.residue.tolist()
        assert found.cls is None
        assert np.isfinite(found.features).all()


def test_the_limit_cuts_rows_but_not_the_graph(encoder: GearNetEncoder) -> None:
    item = protein(60, 3, unresolved=(2, 5, 30, 45, 59))
    whole = encoder.encode([item])[0]
    cut_encoder = GearNetEncoder.random(seed=0, max_residues=31)
    cut = cut_encoder.encode([item])[0]
    assert whole.index is not None
    assert cut.index is not None
    assert cut_encoder.lengths([item.protein]) == [28]
    assert cut.index.tolist() == [index for index in whole.index.tolist() if index < 31]
    np.testing.assert_array_equal(cut.features, whole.features[:28])

    assert item.chain is not None
    shorter = Chain(residue=item.chain.residue[:28], letters=item.chain.letters[:28], ca=item.chain.ca[:28])
    assert difference(encoder.encode([EncoderInput(item.protein, shorter)])[0], cut) > 0.1


def test_a_chain_that_begins_after_the_limit_has_no_rows() -> None:
    item = protein(12, 0, unresolved=tuple(range(10)))
    encoder = GearNetEncoder.random(max_residues=10)
    assert encoder.lengths([item.protein]) == [0]
    assert encoder.encode([item])[0].features.shape == (0, 96)


def test_a_protein_is_the_same_alone_and_in_any_company(encoder: GearNetEncoder) -> None:
    batch = [protein(length, seed) for seed, length in enumerate((80, 3, 140, 51))]
    together = encoder.encode(batch)
    for item, found in zip(batch, together, strict=True):
        assert difference(found, encoder.encode([item])[0]) <= 1e-5
    for again, found in zip(encoder.encode(batch), together, strict=True):
        np.testing.assert_array_equal(again.features, found.features)
    for turned, found in zip(encoder.encode(batch[::-1])[::-1], together, strict=True):
        assert difference(turned, found) <= 1e-5


def test_gaps_in_a_chain_count_as_bonds(encoder: GearNetEncoder) -> None:
    gapped = protein(30, 5, unresolved=tuple(range(10, 20)))
    assert gapped.chain is not None
    closed = Chain(np.arange(20, dtype=np.int32), gapped.chain.letters, gapped.chain.ca)
    first, second = encoder.encode([gapped])[0], encoder.encode([EncoderInput(gapped.protein, closed)])[0]
    np.testing.assert_array_equal(first.features, second.features)


def test_a_chain_without_residues_does_not_disturb_its_batch(encoder: GearNetEncoder) -> None:
    nothing = EncoderInput(protein(4, 0).protein, Chain(np.zeros(0, np.int32), "", np.zeros((0, 3), np.float32)))
    item = protein(20, 1)
    empty, found = encoder.encode([nothing, item])
    assert empty.features.shape == (0, 96)
    assert difference(found, encoder.encode([item])[0]) <= 1e-5
    assert encoder.encode([nothing])[0].features.shape == (0, 96)
    assert encoder.encode([]) == []


def test_a_protein_without_a_structure_has_no_rows_and_cannot_be_encoded(encoder: GearNetEncoder) -> None:
    row = Protein(id="P1", sequence="MKV")
    assert encoder.lengths([row]) == [0]
    with pytest.raises(ValueError, match="P1"):
        encoder.encode([EncoderInput(row)])


def pdb_of(sequence: str, atom: str) -> str:
    """A straight chain of one atom a residue."""
    names = {"A": "ALA", "G": "GLY", "V": "VAL"}
    lines = [
        f"ATOM  {i + 1:5d}  {atom:<3} {names[letter]} A{i + 1:4d}    {3.8 * i:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00"
        for i, letter in enumerate(sequence)
    ]
    return "\n".join([*lines, "TER", "END", ""])


def test_a_chain_without_a_single_alpha_carbon_is_quarantined_and_one_of_one_residue_is_encoded(
    tmp_path: Path, encoder: GearNetEncoder
) -> None:
    (tmp_path / "structures").mkdir()
    for name, sequence, atom in (("bare", "GAVGAV", "CB"), ("one", "G", "CA"), ("whole", "GAVGA", "CA")):
        (tmp_path / "structures" / f"{name}.pdb").write_text(pdb_of(sequence, atom))
    (tmp_path / "p.fasta").write_text(">bare\nGAVGAV\n>one\nG\n>whole\nGAVGA\n")
    report = build_manifest(
        sequences=tmp_path / "p.fasta",
        structures=tmp_path / "structures",
        descriptions=None,
        out=tmp_path / "m.parquet",
    )
    assert [(rejection.id, rejection.code) for rejection in report.rejections] == [("bare", "E_CHAINS")]
    manifest = Manifest(tmp_path / "m.parquet")
    having = [protein for protein in manifest if protein.structure is not None]
    batch = [EncoderInput(protein, load_chain(manifest, protein)) for protein in having]
    assert sorted(item.protein.id for item in batch) == ["one", "whole"]
    rows = {item.protein.id: len(found.features) for item, found in zip(batch, encoder.encode(batch), strict=True)}
    assert rows == {"one": 1, "whole": 5}


def test_the_fingerprint_is_plain_json_and_changes_with_whatever_changes_the_numbers(tmp_path: Path) -> None:
    config = GearNetConfig(hidden_widths=(4, 4))
    wider = GearNetConfig(hidden_widths=(4, 4), graph=GraphConfig(radius=9.0))
    torch.save(random_gearnet(0, config).state_dict(), tmp_path / "weights.pth")
    encoders = [
        GearNetEncoder.random(seed=0, config=config),
        GearNetEncoder.random(seed=1, config=config),
        GearNetEncoder.random(seed=0, config=wider),
        GearNetEncoder.random(seed=0, config=config, max_residues=1022),
        GearNetEncoder.from_file(tmp_path / "weights.pth", config),
    ]
    prints = [canonical_json(encoder.fingerprint()) for encoder in encoders]
    assert len(set(prints)) == len(prints)
    assert canonical_json(GearNetEncoder.random(seed=0, config=config).fingerprint()) == prints[0]
    assert not any(str(tmp_path) in text for text in prints)
    plain = json.loads(prints[4])
    assert plain["random_weights"] is False
    assert plain["backend"] == "amma"


def test_weights_from_a_file_give_the_numbers_of_the_same_weights_in_memory(tmp_path: Path) -> None:
    config = GearNetConfig(hidden_widths=(4, 4))
    torch.save(random_gearnet(2, config).state_dict(), tmp_path / "weights.pth")
    item = protein(30, 0)
    from_file = GearNetEncoder.from_file(tmp_path / "weights.pth", config)
    np.testing.assert_array_equal(
        from_file.encode([item])[0].features, GearNetEncoder.random(seed=2, config=config).encode([item])[0].features
    )
    assert (from_file.random_weights, from_file.name) == (False, "gearnet-edge")
