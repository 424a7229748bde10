import random

import numpy as np
import pytest

from amma.evaluate.controls.identity import CANDIDATES, Search, identity_of
from amma.manifests.errors import InputError
from amma.train.data.mmseqs import Mmseqs
from amma.train.data.search_program import Hits

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def random_sequence(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(LETTERS, k=length))


def changed(rng: random.Random, sequence: str, equal: float) -> str:
    """A relative with exactly this share of equal residues, in random places."""
    places = rng.sample(range(len(sequence)), round(len(sequence) * (1 - equal)))
    letters = list(sequence)
    for place in places:
        letters[place] = rng.choice([letter for letter in LETTERS if letter != letters[place]])
    return "".join(letters)


def best(hits: Hits, queries: int, targets: int) -> np.ndarray:
    table = np.zeros((queries, targets))
    np.maximum.at(table, (hits.query, hits.target), hits.identity)
    return table


@pytest.mark.parametrize("equal", [1.0, 0.9, 0.7, 0.5])
def test_identity_is_the_share_of_equal_residues(equal: float) -> None:
    rng = random.Random(0)
    sequence = random_sequence(rng, 200)
    assert identity_of(sequence, changed(rng, sequence, equal)) == pytest.approx(equal, abs=0.04)


def test_identity_is_over_the_shorter_length_and_the_same_both_ways() -> None:
    rng = random.Random(1)
    whole = random_sequence(rng, 300)
    part = whole[80:180]
    assert identity_of(whole, part) == identity_of(part, whole) == 1.0
    gapped = whole[:100] + whole[103:200]
    assert identity_of(whole, gapped) == pytest.approx(1.0, abs=0.02)


def test_strangers_have_little_in_common_and_unknown_residues_nothing() -> None:
    rng = random.Random(2)
    assert identity_of(random_sequence(rng, 200), random_sequence(rng, 200)) < 0.25
    assert identity_of("X" * 50, "X" * 50) == 0.0
    assert identity_of("", "MKV") == 0.0
    rare = "MKVLUAGITOREBZWW"
    assert identity_of(rare, rare) == 1.0


def test_without_mmseqs_relatives_are_found_among_many_by_3mers() -> None:
    rng = random.Random(3)
    queries = [random_sequence(rng, rng.randint(80, 200)) for _ in range(12)]
    strangers = [random_sequence(rng, rng.randint(60, 900)) for _ in range(150)]
    targets = [changed(rng, query, 0.5) for query in queries] + strangers
    table = best(Search(None).pairs(queries, targets), len(queries), len(targets))
    assert (table.argmax(axis=1) == np.arange(12)).all()
    assert np.diagonal(table) == pytest.approx(np.full(12, 0.5), abs=0.06)
    assert (np.count_nonzero(table, axis=1) <= CANDIDATES).all()


def test_a_domain_within_a_long_sequence_is_found_by_3mers() -> None:
    rng = random.Random(4)
    domain = random_sequence(rng, 120)
    long = random_sequence(rng, 700) + changed(rng, domain, 0.7) + random_sequence(rng, 700)
    targets = [random_sequence(rng, 1000) for _ in range(40)] + [long]
    assert best(Search(None).pairs([domain], targets), 1, 41)[0, 40] == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("number", [0, 3])
def test_equal_sequences_are_found_however_short_or_strange(number: int) -> None:
    hits = Search(None).pairs(["MK", "XXXX", "AAAAAAAA"], ["MK", "XXXX", "AAAAAAAA", "MKV"][: number or 4])
    table = best(hits, 3, 4)
    assert table[[0, 1, 2], [0, 1, 2]].tolist() == [1.0, 1.0, 1.0]


def test_nothing_is_found_where_nothing_is() -> None:
    told: list[int] = []
    assert not len(Search(None).pairs(["MKV"], [], advance=told.append).query)
    assert told == [1]
    assert not len(Search(None).pairs([], ["MKV"]).identity)


def test_the_method_says_which_it_was() -> None:
    assert Search(None).method == "local alignments with the 8 sequences that share most 3-mers"
    assert Search(Mmseqs("/bin/mmseqs", "14")).method == "MMseqs2 14"
    assert Search.installed().program is None  # tests hide it


def test_mmseqs_and_the_alignments_agree_on_relatives(installed_mmseqs: Mmseqs | None) -> None:
    if installed_mmseqs is None:
        pytest.skip("MMseqs2 is not installed")
    rng = random.Random(5)
    queries = [random_sequence(rng, rng.randint(100, 250)) for _ in range(9)]
    targets = [changed(rng, query, equal) for query, equal in zip(queries, [0.95, 0.7, 0.5] * 3, strict=True)]
    targets += ["MK", random_sequence(rng, 200)]
    told: list[int] = []
    ours = best(Search(None).pairs(queries, targets), 9, 11)
    theirs = best(Search(installed_mmseqs).pairs([*queries, "MK"], targets, threads=2, advance=told.append), 10, 11)
    assert np.diagonal(theirs[:9]) == pytest.approx(np.diagonal(ours), abs=0.05)
    assert theirs[9, 9] == 1.0  # too short for the program
    assert sum(told) == 10


def test_a_program_that_fails_stops_the_search() -> None:
    with pytest.raises(InputError, match="cannot be started") as caught:
        Search(Mmseqs("/nowhere/mmseqs", "14")).pairs(["MKV"], ["AAA"])
    assert caught.value.code == "E_MMSEQS"
