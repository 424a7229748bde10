"""Set aside part of the proteins for validation, whole sequence clusters at a time.

Clusters come from a file (`--clusters`), else from MMseqs2 where it is installed, else from the k-mer clustering below.
Whatever the clusters say, proteins with equal sequences end on the same side.

Legend: N proteins, L lines of a table.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from amma.manifests.errors import InputError
from amma.train.data.mmseqs import find_mmseqs
from amma.train.data.sequence_hash import sequence_hash, sequence_hashes

IDENTITY = 0.3
"""At which MMseqs2 clusters."""
KMER = 5
SHARED_FRACTION = 0.03
"""Of the shorter sequence's distinct 5-mers: two sequences with half of their residues equal share about 0.5^5."""
MINIMUM_SHARED = 3
KMERS = f"shared {KMER}-mers"


@dataclass(frozen=True)
class Clusters:
    """A cluster number for each protein; `origin` says in a few words where they come from."""

    number: Int64[np.ndarray, " N"]
    origin: str


def read_clusters(path: Path, ids: Iterable[str]) -> Clusters:
    """Read a table of two tab-separated columns, id and cluster; a protein that it lacks is a cluster of its own.

    Ids and clusters are known by 64-bit hashes: a few dozen bytes a line, whatever they are called. Raises `InputError`
    for a line without two columns, for an id in two clusters, and if no protein is in the table.
    """
    names, clusters = array("Q"), array("Q")
    for name, cluster, _ in _table_lines(path):
        names.append(sequence_hash(name))
        clusters.append(sequence_hash(f"in {cluster}"))
    name_L = np.frombuffer(names, dtype=np.uint64)
    order = np.argsort(name_L, kind="stable")
    name_L, cluster_L = name_L[order], np.frombuffer(clusters, dtype=np.uint64)[order]
    del names, clusters, order
    again = name_L[1:] == name_L[:-1]
    conflicts = name_L[1:][again & (cluster_L[1:] != cluster_L[:-1])]
    if len(conflicts):
        _refuse_conflicts(path, set(conflicts.tolist()))
    keys = array("Q")
    found = 0
    remaining = iter(ids)
    while batch := list(islice(remaining, 1 << 16)):
        # A protein that the table lacks is named after itself.
        key_N = sequence_hashes(f"alone {name}" for name in batch)
        if len(name_L):
            wanted_N = sequence_hashes(batch)
            place_N = np.searchsorted(name_L, wanted_N).clip(max=len(name_L) - 1)
            known_N = name_L[place_N] == wanted_N
            key_N = np.where(known_N, cluster_L[place_N], key_N)
            found += int(known_N.sum())
        keys.frombytes(key_N.tobytes())
    if not found:
        raise InputError(
            f"{path}: none of its {len(name_L) - int(again.sum())} ids is among the proteins to be clustered. "
            "Ids as in the manifest belong into its first column (mmseqs writes the cluster first: swap the columns)."
        )
    del name_L, cluster_L
    number_N = _in_order_of_appearance(np.frombuffer(keys, dtype=np.uint64))
    return Clusters(number_N, f"{path.name}, {len(keys) - found} proteins not in it")


def _table_lines(path: Path) -> Iterator[tuple[str, str, int]]:
    """Id, cluster and number of each line that is not empty."""
    with path.open(encoding="utf-8-sig") as lines:
        for position, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            columns = line.rstrip("\r\n").split("\t")
            if len(columns) < 2:
                found = line.rstrip("\r\n")
                raise InputError(f"{path}:{position}: expected an id, a tab and a cluster's name, found {found!r}.")
            yield columns[0], columns[1], position


def _refuse_conflicts(path: Path, suspects: set[int]) -> None:
    """Raise `InputError` for the first id that is in two clusters, among those with these hashes."""
    cluster_of: dict[str, str] = {}
    for name, cluster, position in _table_lines(path):
        if sequence_hash(name) in suspects and cluster_of.setdefault(name, cluster) != cluster:
            raise InputError(f"{path}:{position}: {name!r} is in {cluster_of[name]!r} and in {cluster!r}.")


def _in_order_of_appearance(key_N: UInt64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Numbers from 0 for the keys, equal ones the same, in the order in which they first come."""
    _, first, place_N = np.unique(key_N, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    numbers_N: Int64[np.ndarray, " N"] = number[place_N]
    return numbers_N


def find_clusters(
    sequences: Sequence[str],
    *,
    like: str | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Clusters:
    """Cluster by MMseqs2 at 30 % identity if it is installed, else by `kmer_clusters`.

    `like` is the origin of clusters that were made before and have to be made again: the same way, whatever is
    installed now. Raises `InputError` if that cannot be, or if MMseqs2 fails.
    """
    program = None if like == KMERS else find_mmseqs()
    if program is not None:
        number_N = program.cluster(sequences, identity=IDENTITY, threads=threads)
        advance(len(sequences))
        return Clusters(number_N, f"MMseqs2 {program.version} at {IDENTITY:.0%} identity")
    if like not in (None, KMERS):
        raise InputError(
            f"the run's validation split was made by {like}, which is not to be had here. Install MMseqs2, give the "
            "file of clusters again, or begin a new run."
        )
    return kmer_clusters(sequences, advance)


def kmer_clusters(sequences: Sequence[str], advance: Callable[[int], None] = lambda n: None) -> Clusters:
    """Cluster greedily by shared 5-mers, the same way whatever the order of `sequences`.

    From the longest sequence down (ties by text), each joins the founder of a cluster with which it shares most
    distinct 5-mers, if these are at least `MINIMUM_SHARED` and `SHARED_FRACTION` of its own; else it founds one. That
    finds relatives from about 50 % identity up; more distant ones need `--clusters` from a profile or alignment
    search. Time grows with the residues times the founders that share a 5-mer: 16 s for 30,000 proteins of 350
    residues on one core, and more than in proportion from there, so give `--clusters` for hundreds of thousands.
    """
    order = sorted(range(len(sequences)), key=lambda row: (-len(sequences[row]), sequences[row]))
    founders_of: dict[str, array[int]] = {}
    cluster_of_sequence: dict[str, int] = {}
    number_N = np.empty(len(sequences), dtype=np.int64)
    num_clusters = 0
    for row in order:
        sequence = sequences[row]
        cluster = cluster_of_sequence.get(sequence)
        if cluster is None:
            kmers = {sequence[start : start + KMER] for start in range(len(sequence) - KMER + 1)}
            shared: Counter[int] = Counter()
            for kmer in kmers:
                shared.update(founders_of.get(kmer, ()))
            # The most shared 5-mers, of equals the earliest founder.
            best = min(shared, key=lambda founder: (-shared[founder], founder), default=None)
            enough = max(MINIMUM_SHARED, SHARED_FRACTION * len(kmers))
            if best is not None and shared[best] >= enough:
                cluster = best
            else:
                cluster = num_clusters
                num_clusters += 1
                for kmer in kmers:
                    founders_of.setdefault(kmer, array("q")).append(cluster)
            cluster_of_sequence[sequence] = cluster
        number_N[row] = cluster
        advance(1)
    return Clusters(number_N, KMERS)


def choose_validation(
    clusters: Clusters, hashes: UInt64[np.ndarray, " N"], *, fraction: float, rng: np.random.Generator
) -> Bool[np.ndarray, " N"]:
    """True for the proteins set aside: whole clusters, in random order, while they fit into `fraction` of the proteins.

    A cluster that would overshoot is passed over, so one giant family cannot swallow the training set. At least one
    cluster is taken if `fraction` is above 0 and there are two; at least one is left for training. Clusters that share
    an identical sequence count as one.
    """
    number_N = _join_equal_sequences(clusters.number, hashes)
    names, sizes = np.unique(number_N, return_counts=True)
    if fraction <= 0 or len(names) < 2:
        return np.zeros(len(number_N), dtype=bool)
    room = fraction * len(number_N)
    chosen: list[int] = []
    taken = 0
    order = rng.permutation(len(names))
    for which in order:
        if taken + sizes[which] <= room:
            chosen.append(int(names[which]))
            taken += int(sizes[which])
    if not chosen:
        chosen.append(int(names[order[np.argmin(sizes[order])]]))
    return np.isin(number_N, chosen)


def _join_equal_sequences(
    number_N: Int64[np.ndarray, " N"], hashes: UInt64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Give clusters that hold the same sequence the same (lowest) number, until nothing changes."""
    _, sequence_N = np.unique(hashes, return_inverse=True)
    _, joined_N = np.unique(number_N, return_inverse=True)
    joined_N = joined_N.astype(np.int64)
    while True:
        lowest_of_sequence = np.full(sequence_N.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest_of_sequence, sequence_N, joined_N)
        lowest_of_cluster = np.full(joined_N.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest_of_cluster, joined_N, lowest_of_sequence[sequence_N])
        after_N = lowest_of_cluster[joined_N]
        if np.array_equal(after_N, joined_N):
            return joined_N
        joined_N = after_N
