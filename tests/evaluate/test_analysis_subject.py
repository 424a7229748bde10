from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.analyses.subject import AnalysisSubject, choose_held_out, open_analysis
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import FingerprintError, InputError
from amma.manifests.table import Modality

SEEN = {"P000", "P001", "P130"}
WITHOUT_STRUCTURE = {f"P{n:03d}" for n in range(0, 160, 7)}


@pytest.fixture(scope="module")
def subject(planted) -> AnalysisSubject:
    return open_analysis(planted.run, str(planted.store))


def test_only_triplets_that_pretraining_did_not_see_are_drawn(subject: AnalysisSubject) -> None:
    held_out = choose_held_out(subject, number=1000)
    store = subject.store
    expected = {
        name
        for row, name in enumerate(store.ids)
        if name not in SEEN and all(store.length(modality)[row] for modality in Modality)
    }
    assert set(held_out.ids) == expected
    assert not expected & WITHOUT_STRUCTURE
    assert [store.ids[row] for row in held_out.rows.tolist()] == list(held_out.ids)
    facts = held_out.facts
    assert (facts.num, facts.num_available, facts.num_seen, facts.wanted) == (len(expected), len(expected), 2, 1000)
    assert facts.num_lacking == store.num_proteins - len(expected) - 2
    assert "(1,000 were asked for)" in facts.sentence()
    assert "2 that pretraining was trained on" in facts.sentence()


def test_the_draw_depends_on_ids_and_seed_and_on_no_order_in_the_store(
    subject: AnalysisSubject, planted, tmp_path: Path
) -> None:
    drawn = choose_held_out(subject, number=20, seed=3)
    assert choose_held_out(subject, number=20, seed=3).ids == drawn.ids
    assert choose_held_out(subject, number=20, seed=4).ids != drawn.ids
    assert choose_held_out(subject, number=10, seed=3).ids == drawn.ids[:10]
    listed = choose_held_out(subject, number=20, seed=3, ids=sorted(subject.store.ids, reverse=True))
    assert listed.ids == drawn.ids


def test_a_list_restricts_the_draw_and_what_is_left_out_is_counted(subject: AnalysisSubject) -> None:
    ids = ["P002", "P001", "P002", "P003", "P007", "stranger"]
    facts = choose_held_out(subject, number=9, ids=ids)
    assert sorted(facts.ids) == ["P002", "P003"]
    counted = facts.facts
    assert (counted.num_seen, counted.num_lacking, counted.num_not_in_store) == (1, 1, 1)
    assert set(choose_held_out(subject, number=9, ids=ids, modalities=[Modality.SEQ]).ids) == {"P002", "P003", "P007"}
    with pytest.raises(InputError, match=r"2 held-out proteins .* at least 3 are needed .*--exclude"):
        choose_held_out(subject, number=9, ids=ids, at_least=3)
    with pytest.raises(InputError, match="0 held-out"):
        choose_held_out(subject, number=9, ids=["stranger"])


def test_of_equal_sequences_one_is_drawn(subject: AnalysisSubject, proteins, tmp_path: Path) -> None:
    first, second, third = (protein for protein in proteins if Modality.STR in protein.features)
    twins = [ProteinArrays("B", first.sequence, first.features), ProteinArrays("A", first.sequence, first.features)]
    write_store(
        tmp_path / "twins.zarr",
        [*twins, second, third],
        widths=subject.store.widths,
        fingerprint=subject.store.fingerprint,
        random_weights=True,
    )
    with FeatureStore(tmp_path / "twins.zarr") as store:
        held_out = choose_held_out(AnalysisSubject(subject.trained, store), number=9)
    assert sorted(held_out.ids) == sorted(["A", second.id, third.id])
    assert held_out.facts.num_repeats == 1


def test_a_store_of_other_encoders_is_refused(planted, proteins, tmp_path: Path) -> None:
    widths = {modality: features.features.shape[1] for modality, features in proteins[1].features.items()}
    write_store(tmp_path / "other.zarr", proteins, widths=widths, fingerprint={"seq": "other"}, random_weights=True)
    with pytest.raises(FingerprintError, match="not written with the encoders"):
        open_analysis(planted.run, str(tmp_path / "other.zarr"))


def test_random_encoders_are_known(subject: AnalysisSubject) -> None:
    assert subject.random_encoders
    assert isinstance(choose_held_out(subject, number=3).rows, np.ndarray)
