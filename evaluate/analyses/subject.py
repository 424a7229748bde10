"""What an analysis looks at: a checkpoint, a store of the same encoders, and proteins that pretraining did not see.

Legend: N chosen proteins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from amma.evaluate.subject import open_model_and_store
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.manifests.settings import Settings, sha256_of_json
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.model.masking import generator_for
from amma.train.run.checkpoint import LoadedModel

COUNTER = -3
"""The choice is `generator_for(seed, COUNTER)`: apart from all other random numbers of a seed."""


@dataclass(frozen=True)
class AnalysisSubject:
    """A trained model, and a store that was written with the encoders it was trained on."""

    trained: LoadedModel
    store: FeatureStore

    @property
    def random_encoders(self) -> bool:
        """Whether the features are those of encoders with random weights: then figures show the machinery alone."""
        return self.store.random_weights or self.trained.random_weights


class HeldOutFacts(Settings):
    """Which proteins were looked at, and why not others.

    `num_available` of the store have every modality of `modalities`, were not seen in pretraining (by hash of their
    sequences), and are the only ones of their sequence; `num` of them were drawn with `seed`, for `wanted` were asked
    for. Left out were `num_seen` that pretraining saw, `num_lacking` without one of the modalities, and `num_repeats`
    of sequences that are there already. With a list of ids, all these count ids of the list, and `num_not_in_store`
    of it are not in the store. `ids_sha256` is that of the drawn ids as a JSON list, in their order.
    """

    wanted: int
    seed: int
    modalities: tuple[Modality, ...]
    num: int
    num_available: int
    num_seen: int
    num_lacking: int
    num_repeats: int
    listed: bool
    num_not_in_store: int
    ids_sha256: str

    def sentence(self) -> str:
        """All of it for a reader."""
        short = f" ({self.wanted:,} were asked for)" if self.num < self.wanted else ""
        of = "of the listed ids" if self.listed else "of the store"
        left_out = [
            f"{count:,} {why}"
            for count, why in (
                (self.num_seen, "that pretraining was trained on, by hash of their sequences"),
                (self.num_lacking, f"without {' and '.join(self.modalities)} together"),
                (self.num_repeats, "with the sequence of another one"),
                (self.num_not_in_store, "that the store lacks"),
            )
            if count
        ]
        away = f" Left out were {', '.join(left_out)}." if left_out else ""
        return (
            f"{self.num:,} held-out proteins{short}, drawn with seed {self.seed} from {self.num_available:,} {of}."
            f"{away} Proteins by which pretraining chose its checkpoint count as held out: it was not trained on them."
        )


@dataclass(frozen=True)
class HeldOut:
    """The chosen proteins in the order in which they were drawn; `rows` are their numbers in the store."""

    ids: tuple[str, ...]
    rows: Int64[np.ndarray, " N"]
    facts: HeldOutFacts


def open_analysis(checkpoint: Path, store: str, *, device: str = "cpu") -> AnalysisSubject:
    """Open and check both; raises `FingerprintError` naming each field in which their encoders differ."""
    return AnalysisSubject(*open_model_and_store(checkpoint, store, device=device))


def choose_held_out(
    subject: AnalysisSubject,
    *,
    number: int,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    modalities: Sequence[Modality] = MODALITIES,
    at_least: int = 1,
) -> HeldOut:
    """Draw proteins that pretraining did not see and that have all `modalities`; one for each sequence.

    The draw depends on their ids and the seed, and on nothing else in the store. With `ids` only these can be drawn.
    Raises `InputError` if fewer than `at_least` are there.
    """
    store = subject.store
    known_rows = np.arange(store.num_proteins) if ids is None else _rows_of(store, ids)
    has_all = np.logical_and.reduce([store.length(modality)[known_rows] > 0 for modality in modalities])
    rows = known_rows[has_all]
    hashes = sequence_hashes(store.sequences().take(rows.tolist()))
    seen = subject.trained.seen.among(hashes)
    names = np.array(store.entries(rows[~seen].tolist()).ids, dtype=object)
    by_name = np.argsort(names) if len(names) else np.arange(0)
    unseen_rows, unseen_hashes = rows[~seen][by_name], hashes[~seen][by_name]
    # Of equal sequences the first id: a protein whose twin is there too could not be told from it.
    first = np.sort(np.unique(unseen_hashes, return_index=True)[1])
    drawn = generator_for(seed, COUNTER).permutation(len(first))[:number]
    chosen = unseen_rows[first][drawn].astype(np.int64)
    chosen_ids = store.entries(chosen.tolist()).ids
    facts = HeldOutFacts(
        wanted=number,
        seed=seed,
        modalities=tuple(modalities),
        num=len(chosen),
        num_available=len(first),
        num_seen=int(seen.sum()),
        num_lacking=int((~has_all).sum()),
        num_repeats=len(unseen_rows) - len(first),
        listed=ids is not None,
        num_not_in_store=0 if ids is None else len(set(ids)) - len(known_rows),
        ids_sha256=sha256_of_json(list(chosen_ids)),
    )
    if facts.num < at_least:
        raise InputError(
            f"{store.path}: {facts.num} held-out proteins with {', '.join(modalities)}, at least {at_least} are needed "
            f"({facts.num_seen} were seen in pretraining, {facts.num_lacking} lack a modality, "
            f"{facts.num_not_in_store} listed ids are not in the store). "
            "Pretrain with --exclude to hold proteins out, or give another store."
        )
    return HeldOut(tuple(chosen_ids), chosen, facts)


def _rows_of(store: FeatureStore, ids: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """Rows of those ids that are in the store, each once."""
    rows = []
    for name in dict.fromkeys(ids):
        try:
            rows.append(store.row_of(name))
        except KeyError:
            continue
    return np.array(rows, dtype=np.int64)
