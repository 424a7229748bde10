import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.controls.identity import Search
from amma.evaluate.controls.leakage import find_leakage
from amma.evaluate.report.results import Leakage
from amma.evaluate.tasks.task import Split
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.table import Modality
from amma.train.data.mmseqs import Mmseqs
from amma.train.data.seen import NOT_RECORDED, WITH, WITHOUT, Seen
from amma.train.data.sequence_hash import sequence_hashes

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
FOUNDER, OTHER, STRANGER = ("".join(random.Random(seed).choices(LETTERS, k=120)) for seed in (1, 2, 3))


def changed(sequence: str, equal: float) -> str:
    """A relative with this share of equal residues."""
    rng = random.Random(9)
    places = set(rng.sample(range(len(sequence)), round(len(sequence) * (1 - equal))))
    return "".join(
        rng.choice([other for other in LETTERS if other != letter]) if place in places else letter
        for place, letter in enumerate(sequence)
    )


SEQUENCES = {
    "founder": FOUNDER,
    "founder again": FOUNDER,
    "near": changed(FOUNDER, 0.97),
    "half": changed(FOUNDER, 0.6),
    "other": OTHER,
    "far": changed(OTHER, 0.4),
    "stranger": STRANGER,
}
TEST = ("far", "founder again", "half", "near", "stranger")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    path = tmp_path_factory.mktemp("leakage") / "store.zarr"
    rows = np.ones((120, 4), np.float32)
    write_store(
        path,
        [
            ProteinArrays(name, sequence, {Modality.SEQ: Encoded(rows, None, rows[0])})
            for name, sequence in SEQUENCES.items()
        ],
        widths={Modality.SEQ: 4, Modality.STR: 4, Modality.FUNC: 4},
        fingerprint={"seq": {"encoder": "test"}},
        random_weights=True,
    )
    with FeatureStore(path) as opened:
        yield opened


def seen_with(text: dict[str, int], *, elsewhere: int = 0) -> Seen:
    """These sequences of the store, and as many of another."""
    hashes = sequence_hashes([*(SEQUENCES[name] for name in text), *(f"MKV{n}" for n in range(elsewhere))])
    return Seen.of(hashes, np.array([*text.values(), *[WITHOUT] * elsewhere], dtype=np.uint8))


def leakage(store: FeatureStore, seen: Seen, search: Search = Search(None)) -> Leakage:  # noqa: B008
    rows = np.array([store.row_of(name) for name in TEST])
    test = Split(TEST, rows, np.zeros((len(TEST), 1), dtype=bool), (), 0)
    return find_leakage(test, store, seen, search=search)


def counts(found: Leakage) -> dict[float, tuple[int, int | None]]:
    return {each.at_least: (each.num, each.num_with_text) for each in found.by_identity.bins}


def test_test_proteins_that_were_seen_are_counted_with_and_without_their_text(store: FeatureStore) -> None:
    found = leakage(store, seen_with({"founder": WITH, "half": WITHOUT, "far": NOT_RECORDED, "other": WITH}))
    assert found.seen == ("far", "founder again", "half")  # by sequence, whatever the id
    numbers = (found.num_seen_with_text, found.num_seen_without_text, found.num_seen_text_not_recorded)
    assert (found.num_test, found.num_seen, numbers) == (5, 3, (1, 1, 1))


def check_relatives(found: Leakage) -> None:
    assert counts(found) == {0.3: (4, 3), 0.5: (3, 3), 0.95: (2, 2)}
    nearest = {each.id: each for each in found.by_identity.nearest}
    expected = {"founder again": 1.0, "near": 0.97, "half": 0.6, "far": 0.4}
    for name, identity in expected.items():
        assert nearest[name].identity == pytest.approx(identity, abs=0.03)
        assert SEQUENCES[nearest[name].seen] == (OTHER if name == "far" else FOUNDER)
    assert "stranger" not in nearest or nearest["stranger"].identity < 0.25
    assert found.by_identity.num_seen_sequences == 5
    assert found.by_identity.num_at_hand == 2


def test_relatives_of_what_was_seen_are_counted_by_identity(store: FeatureStore) -> None:
    found = leakage(store, seen_with({"founder": WITH, "other": WITHOUT}, elsewhere=3))
    check_relatives(found)
    assert found.num_seen == 1
    assert found.by_identity.method.startswith("local alignments")


def test_mmseqs_finds_the_same_relatives(store: FeatureStore, installed_mmseqs: Mmseqs | None) -> None:
    if installed_mmseqs is None:
        pytest.skip("MMseqs2 is not installed")
    seen = seen_with({"founder": WITH, "other": WITHOUT}, elsewhere=3)
    found = leakage(store, seen, Search(installed_mmseqs))
    check_relatives(found)
    assert found.by_identity.method == f"MMseqs2 {installed_mmseqs.version}"
    assert leakage(store, seen, Search(installed_mmseqs)) == found


def test_relatives_seen_without_text_are_told_from_those_with(store: FeatureStore) -> None:
    found = leakage(store, seen_with({"founder": WITHOUT, "half": WITH}))
    assert counts(found) == {0.3: (3, 3), 0.5: (3, 3), 0.95: (3, 1)}


def test_where_text_was_not_recorded_no_number_is_made_up(store: FeatureStore) -> None:
    found = leakage(store, seen_with({"founder": NOT_RECORDED, "other": WITH}))
    assert counts(found) == {0.3: (4, None), 0.5: (3, None), 0.95: (2, None)}


def test_without_a_seen_sequence_at_hand_nothing_is_said_by_identity(store: FeatureStore) -> None:
    found = leakage(store, seen_with({}, elsewhere=4))
    assert (found.num_seen, found.by_identity.num_seen_sequences, found.by_identity.num_at_hand) == (0, 4, 0)
    assert found.by_identity.bins == found.by_identity.nearest == ()


@pytest.fixture
def path_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("path_without_the_program")
def test_the_fallback_needs_no_program(store: FeatureStore) -> None:
    check_relatives(leakage(store, seen_with({"founder": WITH, "other": WITHOUT}, elsewhere=3), Search.installed()))
