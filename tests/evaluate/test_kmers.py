import numpy as np
import pytest

from amma.evaluate.controls.kmers import KmerIndex, kmers_of, nearest_neighbour_scores

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


def sequences(seed: int, number: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(LETTERS[:6], size=rng.integers(0, 40))) for _ in range(number)]


def brute_force(one: str, other: str) -> float:
    first, second = ({text[n : n + 3] for n in range(len(text) - 2)} for text in (one, other))
    return len(first & second) / len(first | second) if first | second else 0.0


def test_similarity_is_the_jaccard_index_of_3_mers() -> None:
    train = sequences(0, 40)
    index = KmerIndex(train)
    for asked in sequences(1, 40):
        expected = [brute_force(asked, other) for other in train]
        np.testing.assert_allclose(index.similarity(asked), expected, atol=1e-15)


def test_a_sequence_is_like_itself_and_not_like_one_that_shares_nothing() -> None:
    index = KmerIndex(["ACDEFG", "WWWWYY", "AC"])
    assert index.similarity("ACDEFG").tolist() == [1.0, 0.0, 0.0]
    assert index.similarity("AC").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("strange", ["XXXXX", "AC-DE", "", "A", "é€日本語"])
def test_unknown_residues_and_short_sequences_are_like_nothing(strange: str) -> None:
    assert not len(kmers_of(strange))
    assert not KmerIndex([strange, "ACDEF"]).similarity(strange).any()


def test_the_score_of_a_term_is_the_similarity_of_the_nearest_that_has_it() -> None:
    train, asked = sequences(2, 30), sequences(3, 9)
    target_NK = np.random.default_rng(4).random((30, 5)) < 0.3
    target_NK[:, 4] = False  # a term that no training protein has
    score_MK = nearest_neighbour_scores(train, target_NK, asked)
    for place, sequence in enumerate(asked):
        for term in range(5):
            have = [brute_force(sequence, train[row]) for row in np.flatnonzero(target_NK[:, term])]
            assert score_MK[place, term] == np.float32(max(have, default=0.0))
