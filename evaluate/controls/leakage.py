"""What pretraining saw of the test proteins: by hash of their sequences, and by identity to sequences that it saw.

A checkpoint keeps hashes of what it saw, not the sequences. So identities are to those that can be had: the proteins of
the evaluated store whose hashes the checkpoint knows; how many that are is told. No figure of a report depends on this.

Legend: N test proteins, T seen sequences at hand.
"""

import numpy as np
from jaxtyping import Float64, UInt8

from amma.evaluate.controls.identity import Search, largest
from amma.evaluate.report.results import IdentityBin, Leakage, NearestSeen, SeenByIdentity
from amma.evaluate.tasks.task import Split
from amma.featurize.store.ids import StoredColumn
from amma.featurize.store.reader import FeatureStore
from amma.manifests.console import progress
from amma.train.data.search_program import Hits
from amma.train.data.seen import NOT_RECORDED, WITH, WITHOUT, Seen
from amma.train.data.sequence_hash import sequence_hashes

BOUNDS = (0.3, 0.5, 0.95)
DECIMALS = 4


def find_leakage(
    test: Split, store: FeatureStore, seen: Seen, *, search: Search, threads: int | None = None
) -> Leakage:
    """Look each test protein up among what was seen; raises `InputError` if the search's program fails."""
    sequences = store.sequences()
    hashes = sequence_hashes(sequences)
    was_seen = seen.among(hashes)
    test_rows = test.rows[was_seen[test.rows]]
    text = seen.text_of(hashes[test_rows])
    return Leakage(
        num_test=len(test.ids),
        num_seen=len(test_rows),
        num_seen_with_text=int((text == WITH).sum()),
        num_seen_without_text=int((text == WITHOUT).sum()),
        num_seen_text_not_recorded=int((text == NOT_RECORDED).sum()),
        seen=tuple(identifier for identifier, row in zip(test.ids, test.rows, strict=True) if was_seen[row]),
        by_identity=_by_identity(test, store, sequences, np.flatnonzero(was_seen), seen, search, threads),
    )


def _by_identity(
    test: Split,
    store: FeatureStore,
    sequences: StoredColumn,
    seen_rows: np.ndarray,
    seen: Seen,
    search: Search,
    threads: int | None,
) -> SeenByIdentity:
    first_row: dict[str, int] = {}
    for row, sequence in zip(seen_rows.tolist(), sequences.take(seen_rows.tolist()), strict=True):
        first_row.setdefault(sequence, row)
    targets = list(first_row)
    with progress("nearest seen sequences", len(test.ids), unit="proteins") as advance:
        hits = search.pairs(sequences.take(test.rows.tolist()), targets, threads=threads, advance=advance)
    text_T = seen.text_of(sequence_hashes(targets))
    nearest_N, target_N = largest(len(test.ids), hits)
    with_text = text_T[hits.target] == WITH
    seen_with_text = Hits(hits.query[with_text], hits.target[with_text], hits.identity[with_text])
    text_N, _ = largest(len(test.ids), seen_with_text)
    names = [store.ids[row] for row in first_row.values()]
    return SeenByIdentity(
        method=search.method,
        num_seen_sequences=len(seen.hashes),
        num_at_hand=len(targets),
        bins=tuple(_bin(bound, nearest_N, text_N, text_T) for bound in BOUNDS) if targets else (),
        nearest=tuple(
            NearestSeen(id=identifier, identity=round(float(identity), DECIMALS), seen=names[target])
            for identifier, identity, target in zip(test.ids, nearest_N, target_N, strict=True)
            if target >= 0
        ),
    )


def _bin(
    bound: float,
    nearest_N: Float64[np.ndarray, " N"],
    text_N: Float64[np.ndarray, " N"],
    text_T: UInt8[np.ndarray, " T"],
) -> IdentityBin:
    recorded = not bool((text_T == NOT_RECORDED).any())
    return IdentityBin(
        at_least=bound,
        num=int((nearest_N >= bound).sum()),
        num_with_text=int((text_N >= bound).sum()) if recorded else None,
    )
