"""Sequences longer than an encoder reads: cut or skipped as chosen, and never a reason to run out of memory."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.presets import build_encoders
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.registry import EncoderSpec
from amma.featurize.run import featurize
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.manifests.errors import ConfigError, InputError
from amma.manifests.quarantine import RecordError, read_quarantine
from amma.manifests.table import MODALITIES, Manifest, Modality, Protein, write_manifest

WriteProteins = Callable[..., Manifest]
SMALL = StoreSettings(shard_rows=64, token_budget=64, threads=1)
UNLIMITED = EncoderSpec(name="random-esm", options={"architecture": "esm2", "layers": 1, "width": 8, "heads": 2})


def item(length: int) -> EncoderInput:
    return EncoderInput(Protein(id=f"p{length}", sequence=("ACDEFGHIKLMNPQRSTVWY" * (length // 20 + 1))[:length]))


def tiny(max_residues: int, long: str) -> Any:
    spec = EncoderSpec(name="random-esm", options={"max_residues": max_residues, "long": long})
    return build_encoders("tiny", device="cpu", replaced={Modality.SEQ: spec})


@pytest.mark.parametrize("long", ["truncate", "skip"])
def test_a_sequence_as_long_as_the_limit_is_read_whole_either_way(long: Any) -> None:
    encoder = EsmEncoder.random(max_residues=12, long=long)

    assert encoder.lengths([item(12).protein]) == [12]
    assert encoder.encode([item(12)])[0].features.shape == (12, 64)
    assert encoder.fingerprint()["long"] == long


def test_a_longer_sequence_is_skipped_with_both_lengths_said() -> None:
    encoder = EsmEncoder.random(max_residues=12, long="skip")

    assert encoder.lengths([item(13).protein, item(3).protein]) == [0, 3]
    with pytest.raises(RecordError, match="13 residues, more than the 12") as caught:
        encoder.encode([item(13)])
    assert caught.value.code == "E_LONG"


def test_skipping_without_a_limit_is_refused_since_it_would_do_nothing() -> None:
    with pytest.raises(ConfigError, match="max_residues"):
        EsmEncoder.random(architecture="esm2", long="skip")


def test_skipped_proteins_take_no_rows_and_each_has_its_line(
    memory_folder: Path, write_proteins: WriteProteins
) -> None:
    manifest = write_proteins(memory_folder)
    limit = 16
    skipped = {protein.id for protein in manifest if len(protein.sequence) > limit}
    assert 3 < len(skipped) < len(manifest) - 3

    outcome = featurize(manifest, memory_folder / "s.zarr", tiny(limit, "skip"), SMALL)

    lines = list(read_quarantine(memory_folder / "s.zarr" / "quarantine.jsonl"))
    assert {line.id for line in lines} == skipped
    assert {line.code for line in lines} == {"E_LONG"}
    assert outcome.num_rejected == len(lines) == len(skipped)
    assert outcome.header.kinds["absent"] == len(skipped)
    assert outcome.header.rows[Modality.SEQ] == sum(len(p.sequence) for p in manifest if p.id not in skipped)
    assert not verify_store(memory_folder / "s.zarr").findings
    featurize(manifest, memory_folder / "whole.zarr", tiny(1022, "truncate"), SMALL)
    store, whole = FeatureStore(memory_folder / "s.zarr"), FeatureStore(memory_folder / "whole.zarr")
    assert sorted(store.ids) == sorted(protein.id for protein in manifest)
    for protein in manifest:
        here, there = store.row_of(protein.id), whole.row_of(protein.id)
        kind = "absent" if protein.id in skipped else whole.kinds()[there]
        assert store.kinds()[here] == kind
        for modality in MODALITIES:
            if protein.id in skipped or not whole.present(modality)[there]:
                assert not store.present(modality)[here]
                assert store.length(modality)[here] == 0
                continue
            kept, reference = (
                opened.read(modality, row).features.astype(np.float32)
                for opened, row in ((store, here), (whole, there))
            )
            assert np.allclose(kept, reference, rtol=2e-3, atol=2e-3)


def test_the_other_choice_is_another_fingerprint_and_other_features(
    memory_folder: Path, write_proteins: WriteProteins
) -> None:
    manifest = write_proteins(memory_folder)

    cut = featurize(manifest, memory_folder / "cut.zarr", tiny(16, "truncate"), SMALL)

    assert cut.num_rejected == 0
    assert cut.header.rows[Modality.SEQ] == sum(min(len(protein.sequence), 16) for protein in manifest)
    assert cut.header.fingerprint["seq"]["long"] == "truncate"


def test_a_manifest_of_which_everything_is_skipped_is_refused(
    memory_folder: Path, write_proteins: WriteProteins
) -> None:
    with pytest.raises(InputError, match="--max-residues"):
        featurize(write_proteins(memory_folder), memory_folder / "s.zarr", tiny(2, "skip"), SMALL)
    assert not (memory_folder / "s.zarr").exists()


def test_a_very_long_protein_has_a_batch_of_its_own(memory_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(memory_folder / "m.parquet", [item(length).protein for length in (50, 35000, 300, 8000, 100)])
    encoders = build_encoders("tiny", device="cpu", replaced={Modality.SEQ: UNLIMITED})
    batches = []

    def remember(batch: Sequence[EncoderInput]) -> list[Encoded]:
        batches.append([len(one.protein.sequence) for one in batch])
        return [Encoded(np.zeros((length, 8), np.float32), cls=np.zeros(8, np.float32)) for length in batches[-1]]

    monkeypatch.setattr(encoders.seq, "encode", remember)

    featurize(
        Manifest(memory_folder / "m.parquet"), memory_folder / "s.zarr", encoders, StoreSettings(shard_rows=65536)
    )

    assert batches == [[35000], [8000], [300, 100, 50]]


TELLS_ITS_MEMORY = """
import resource, sys
from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.protocol import EncoderInput
from amma.manifests.table import Protein

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

encoder = EsmEncoder.random(architecture="esm2", layers=1, width=32, heads=1)
encoder.encode([EncoderInput(Protein(id="p", sequence="MK" * 500))])
before = megabytes()
(encoded,) = encoder.encode([EncoderInput(Protein(id="p", sequence="MKTAY" * 7000))])
print(len(encoded.features), megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_esm2_reads_35000_residues_without_a_matrix_of_residues_by_residues() -> None:
    told = subprocess.run([sys.executable, "-c", TELLS_ITS_MEMORY], capture_output=True, text=True, check=True)

    rows, megabytes = told.stdout.split()
    assert int(rows) == 35000
    # The scores of its one head would take 4,900.
    assert float(megabytes) < 300


def test_esm1b_reads_the_beginning_of_a_very_long_protein() -> None:
    encoder = EsmEncoder.random(layers=1, width=8, heads=2)

    (long,), (beginning,) = encoder.encode([item(35000)]), encoder.encode([item(1022)])

    assert np.array_equal(long.features, beginning.features)
