import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import InputError
from amma.train.data import validation_split
from amma.train.data.mmseqs import Mmseqs
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.data.validation_split import Clusters, choose_validation, find_clusters, kmer_clusters, read_clusters

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def family(rng: random.Random, size: int, identity: float) -> list[str]:
    founder = rng.choices(LETTERS, k=rng.randint(150, 300))
    return [
        "".join(letter if rng.random() < identity else rng.choice(LETTERS) for letter in founder) for _ in range(size)
    ]


def test_relatives_are_found_and_strangers_stay_apart() -> None:
    rng = random.Random(0)
    families = [family(rng, 5, 0.9) for _ in range(20)]
    clusters = kmer_clusters([sequence for members in families for sequence in members])
    number = clusters.number.reshape(20, 5)
    assert all(len(set(members)) == 1 for members in number.tolist())
    assert len(set(number[:, 0].tolist())) == 20


def test_clusters_do_not_depend_on_the_order_of_the_proteins() -> None:
    rng = random.Random(1)
    sequences = [sequence for _ in range(8) for sequence in family(rng, 4, 0.6)]
    order = rng.sample(range(len(sequences)), len(sequences))
    straight = kmer_clusters(sequences).number
    shuffled = kmer_clusters([sequences[row] for row in order]).number
    assert np.array_equal(straight[order], shuffled)


def test_sequences_too_short_for_a_kmer_join_only_their_equals() -> None:
    assert kmer_clusters(["MK", "MK", "MKV", ""]).number.tolist()[:2] == [1, 1]
    assert len(set(kmer_clusters(["MK", "MK", "MKV", ""]).number.tolist())) == 3


class OneCluster:
    """Stands for MMseqs2."""

    version = "1"

    def cluster(self, sequences: list[str], *, identity: float, threads: int | None) -> np.ndarray:
        return np.zeros(len(sequences), dtype=np.int64)


def test_mmseqs_is_used_where_it_is_installed_and_its_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = family(random.Random(0), 3, 0.0)
    told: list[int] = []
    alone = find_clusters(sequences, advance=told.append)
    assert (alone.origin, len(set(alone.number.tolist())), sum(told)) == ("shared 5-mers", 3, 3)
    monkeypatch.setattr(validation_split, "find_mmseqs", OneCluster)
    together = find_clusters(sequences, advance=told.append)
    assert (together.origin, set(together.number.tolist()), sum(told)) == ("MMseqs2 1 at 30% identity", {0}, 6)
    assert np.array_equal(find_clusters(sequences, like="shared 5-mers").number, alone.number)


def test_clusters_that_cannot_be_made_again_the_same_way_are_an_error() -> None:
    with pytest.raises(InputError, match="made by MMseqs2 14 at 30% identity, which is not to be had here"):
        find_clusters(["MKV"], like="MMseqs2 14 at 30% identity")


def test_mmseqs_joins_relatives_that_shared_kmers_miss(
    installed_mmseqs: Mmseqs | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed_mmseqs is None:
        pytest.skip("MMseqs2 is not installed")
    rng = random.Random(2)
    sequences = [sequence for _ in range(5) for sequence in family(rng, 2, 0.64)]  # about 45 % of residues are equal
    assert len(set(find_clusters(sequences).number.tolist())) > 5
    monkeypatch.setattr(validation_split, "find_mmseqs", lambda: installed_mmseqs)
    found = find_clusters(sequences)
    assert found.origin == f"MMseqs2 {installed_mmseqs.version} at 30% identity"
    assert found.number.reshape(5, 2).tolist() == [[n, n] for n in found.number[::2].tolist()]
    assert len(set(found.number.tolist())) == 5


def test_no_cluster_and_no_sequence_is_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    number = rng.integers(0, 40, 300)
    hashes = rng.integers(0, 250, 300).astype(np.uint64)  # some sequences are in several clusters
    held_out = choose_validation(Clusters(number, "test"), hashes, fraction=0.2, rng=np.random.default_rng(1))
    assert not set(number[held_out].tolist()) & set(number[~held_out].tolist())
    assert not set(hashes[held_out].tolist()) & set(hashes[~held_out].tolist())


def test_about_the_fraction_is_set_aside_and_never_more() -> None:
    number = np.repeat(np.arange(200), 5)
    hashes = np.arange(1000).astype(np.uint64)
    for seed in range(5):
        held_out = choose_validation(Clusters(number, ""), hashes, fraction=0.1, rng=np.random.default_rng(seed))
        assert 95 <= held_out.sum() <= 100


def test_one_giant_family_does_not_become_the_validation_set() -> None:
    number = np.array([0] * 90 + list(range(1, 11)))
    hashes = np.arange(100).astype(np.uint64)
    for seed in range(10):
        held_out = choose_validation(Clusters(number, ""), hashes, fraction=0.05, rng=np.random.default_rng(seed))
        assert held_out.sum() == 5
        assert not held_out[:90].any()


def test_a_fraction_of_zero_or_a_single_cluster_sets_nothing_aside() -> None:
    hashes = np.arange(10).astype(np.uint64)
    rng = np.random.default_rng(0)
    assert not choose_validation(Clusters(np.arange(10), ""), hashes, fraction=0.0, rng=rng).any()
    assert not choose_validation(Clusters(np.zeros(10, int), ""), hashes, fraction=0.5, rng=rng).any()


def test_at_least_one_cluster_is_set_aside_where_there_are_two() -> None:
    hashes = sequence_hashes(["A", "B", "C"])
    clusters = Clusters(np.array([0, 0, 1]), "")
    held_out = choose_validation(clusters, hashes, fraction=0.01, rng=np.random.default_rng(0))
    assert held_out.tolist() == [False, False, True]


def test_a_table_of_clusters_is_read_and_what_it_lacks_stands_alone(tmp_path: Path) -> None:
    table = tmp_path / "clusters.tsv"
    table.write_bytes(b"\xef\xbb\xbfP1\tc1\r\nP2\tc1\r\nP3\tP4\r\n\r\n")
    clusters = read_clusters(table, ["P1", "P2", "P3", "P4"])
    assert clusters.number[0] == clusters.number[1]
    assert len(set(clusters.number.tolist())) == 3
    assert clusters.origin == "clusters.tsv, 1 proteins not in it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P1 c1\n", ":1: expected an id, a tab"),
        ("P1\tc1\nP1\tc2\n", ":2: 'P1' is in 'c1' and in 'c2'"),
        ("c1\tP9\n", "swap the columns"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "clusters.tsv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        read_clusters(table, ["P1"])


def test_clusters_of_a_table_are_numbered_as_they_first_come_and_repeated_lines_say_nothing_new(tmp_path: Path) -> None:
    table = tmp_path / "clusters.tsv"
    table.write_text("a\tx\nb\ty\nc\tx\na\tx\nb\ty\tmore\n")
    clusters = read_clusters(table, iter(["stranger", "b", "a", "x", "c", "b"]))
    assert clusters.number.tolist() == [0, 1, 2, 3, 2, 1]  # a protein called like a cluster is not in it
    assert clusters.origin == "clusters.tsv, 2 proteins not in it"


def test_a_table_of_clusters_takes_few_bytes_a_protein_whatever_its_ids_are_called(tmp_path: Path) -> None:
    table = tmp_path / "clusters.tsv"

    def peak(proteins: int) -> int:
        table.write_text("".join(f"a rather long identifier {n}\tcluster {n // 3}\n" for n in range(proteins)))
        tracemalloc.start()
        clusters = read_clusters(table, (f"a rather long identifier {n}" for n in range(proteins)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert clusters.number.tolist() == [n // 3 for n in range(proteins)]
        return most

    small, large = 70_000, 210_000  # both more than is looked up at a time
    assert (peak(large) - peak(small)) / (large - small) < 64
