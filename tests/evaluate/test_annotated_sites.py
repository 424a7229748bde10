from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.analyses.annotated_sites import annotated_sites
from amma.evaluate.analyses.attention_proteins import choose
from amma.evaluate.analyses.subject import HeldOut, HeldOutFacts
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import InputError
from amma.manifests.table import Modality

SEQ, STR, FUNC = Modality
HEADER = "id\tstart\tend\tkind\n"


def held_out(store: FeatureStore, *ids: str) -> HeldOut:
    facts = HeldOutFacts(
        wanted=9,
        seed=0,
        modalities=tuple(Modality),
        num=len(ids),
        num_available=len(ids),
        num_seen=0,
        num_lacking=0,
        num_repeats=0,
        listed=True,
        num_not_in_store=0,
        ids_sha256="0" * 64,
    )
    return HeldOut(ids, np.array([store.row_of(id) for id in ids]), facts)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Three proteins of ten residues, of which an encoder read the first six."""
    folder = tmp_path_factory.mktemp("sites") / "store.zarr"
    proteins = []
    for n in range(3):
        features = {
            SEQ: Encoded(np.ones((6, 4), np.float32), None, np.zeros(4, np.float32)),
            STR: Encoded(np.ones((6, 4), np.float32), np.arange(6, dtype=np.int32), None),
            FUNC: Encoded(np.ones((2, 4), np.float32), np.zeros(2, np.int32), np.zeros(4, np.float32)),
        }
        proteins.append(ProteinArrays(f"P{n}", "ACDEFGHIKL", features))
    write_store(
        folder, proteins, widths=dict.fromkeys(Modality, 4), fingerprint={"seq": {"encoder": "t"}}, random_weights=True
    )
    return FeatureStore(folder)


def write(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join(row.replace(" ", "\t") + "\n" for row in rows))
    return path


def test_rows_that_are_no_sites_of_the_store_are_counted_apart(store: FeatureStore, tmp_path: Path) -> None:
    rows = ("P0 2 3 BINDING", "P0 5 5 ACT_SITE", "P1 9 12 BINDING", "P2 x 4 BINDING", "other 1 1 BINDING")
    found = annotated_sites(write(tmp_path / "s.tsv", *rows), store, ("ACT_SITE", "BINDING"))
    assert {id: residues.tolist() for id, residues in found.residues.items()} == {"P0": [1, 2, 4]}
    facts = found.facts
    assert (facts.num_proteins, facts.num_elsewhere, facts.num_rejected) == (1, 1, 2)
    assert facts.reasons[0].startswith("row 3, P1: residue 12 of a sequence of 10")
    only = annotated_sites(write(tmp_path / "s.tsv", *rows), store, ("ACT_SITE",))
    assert only.residues["P0"].tolist() == [4]


def test_a_table_without_a_site_of_the_kinds_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no protein of .* has a site of kind ACT_SITE"):
        annotated_sites(write(tmp_path / "s.tsv", "P0 2 3 BINDING"), store, ("ACT_SITE",))


def test_annotations_beyond_what_was_encoded_are_no_misses_but_counted(store: FeatureStore, tmp_path: Path) -> None:
    rows = ("P0 6 8 BINDING", "P1 1 2 BINDING", "P2 7 9 BINDING")
    sites = annotated_sites(write(tmp_path / "s.tsv", *rows), store, ("BINDING",))
    chosen = choose(store, held_out(store, "P0", "P1", "P2"), sites)
    assert [(of.id, of.num_annotated, of.num_beyond) for of in chosen.proteins] == [("P0", 1, 2), ("P1", 2, 0)]
    assert [(of.id, of.reason) for of in chosen.left_out] == [("P2", "0 of its 6 residues with a token are annotated")]
    with pytest.raises(InputError, match="1 of 2 held-out proteins can be looked at, at least 2 are needed"):
        choose(store, held_out(store, "P0", "P2"), sites)
