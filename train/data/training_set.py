"""Which proteins a run trains on, which it validates on, and which it leaves alone.

Legend: N proteins of the corpus, T those trained on.
"""

import hashlib
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from jaxtyping import Bool, Int8, Int64, UInt64

from amma.featurize.store.ids import KIND_NAMES
from amma.manifests.console import progress, say
from amma.manifests.files import sha256_of_file
from amma.manifests.table import Modality
from amma.train.data.corpus import Corpus
from amma.train.data.exclusion import exclude
from amma.train.data.seen import WITH, WITHOUT, Seen
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.data.split_record import SplitRecord
from amma.train.data.streams import NUMBERS, STREAMS, Draw, Mix, Portion, Stream
from amma.train.data.subset import choose_subset
from amma.train.data.validation_split import choose_validation, find_clusters, read_clusters
from amma.train.model.config import SMALLEST_BATCH
from amma.train.model.masking import generator_for
from amma.train.run.config import RunConfig

SPLIT_COUNTER = -1
"""Random numbers of the split are `generator_for(seed, SPLIT_COUNTER)`: apart from all masks."""
VALIDATION_EPOCH = -1
"""Masks of validation proteins are those of an epoch that training never has: the same at every validation."""


@dataclass(frozen=True)
class TrainingSet:
    """The corpus with its division; `validation` is a fixed list of homogeneous batches."""

    corpus: Corpus
    mix: Mix
    validation: tuple[Portion, ...]
    seen: Seen
    """The sequences of the training proteins, by hash, and which of them have text."""
    counts: dict[str, Any]
    """What became of every protein, for logs and reports."""
    inputs: dict[str, Any]
    """Hashes of everything that was read: equal inputs make the same run."""
    split: SplitRecord
    """Who is validated on, for the run to go on with."""

    @property
    def proteins_T(self) -> Int64[np.ndarray, " T"]:
        """The training proteins of all streams, ascending."""
        return np.sort(np.concatenate([stream.proteins_N for stream in self.mix.streams]))


def prepare_training_set(config: RunConfig, record: SplitRecord | None = None) -> TrainingSet:
    """Open the stores, leave out what is excluded, set the validation clusters aside, and form the streams.

    `record` is the split of the run that goes on: it is taken as it is, or made again as it was made. Raises
    `StoreError`, `FingerprintError`, `InputError`; each says what to do.
    """
    corpus = Corpus.open(config.stores)
    hashes_N = sequence_hashes(corpus.sequences())
    exclusion = exclude(config.exclude, corpus.ids, hashes_N)
    if config.exclude:
        say(exclusion.describe())
    codes = {str(name): number for name, number in NUMBERS.items()}
    kind_N = np.array([codes.get(kind, -1) for kind in KIND_NAMES], dtype=np.int8)[corpus.kind_codes()]
    wanted = [NUMBERS[name] for name in STREAMS if config.mix.weight(name) > 0]
    candidate_N = np.isin(kind_N, wanted) & ~exclusion.excluded
    held_out_N, origin = _hold_out(config, corpus, candidate_N, hashes_N, record)
    trained_N = candidate_N & ~held_out_N
    available_N = trained_N
    if config.subset is not None:
        triplet_N = available_N & (kind_N == NUMBERS["triplet"])
        subset_N = choose_subset(triplet_N, hashes_N, corpus.ids, count=config.subset, seed=config.subset_seed)
        trained_N = subset_N | (available_N & ~triplet_N)
    # All hashes together are the most of the memory: what is kept of them comes before anything else is made.
    text_T = np.where(_has_text(kind_N[trained_N]), WITH, WITHOUT).astype(np.uint8)
    seen = Seen.of(hashes_N[trained_N], text_T)
    del hashes_N
    blocks = corpus.first_of_units()[:: config.mix.shuffle_block] if config.mix.shuffle_block else None
    streams = [
        Stream(name, np.flatnonzero(trained_N & (kind_N == NUMBERS[name])), seed=config.seed, blocks=blocks)
        for name in STREAMS
    ]
    counts = {
        "proteins": corpus.num_proteins,
        "excluded": int(exclusion.excluded.sum()),
        "excluded_listed": exclusion.listed,
        "excluded_by_sequence": exclusion.by_sequence,
        "excluded_unknown_ids": exclusion.unknown,
        "not_in_a_stream": int((~candidate_N & ~exclusion.excluded).sum()),
        "validation": int(held_out_N.sum()),
        "validation_clusters_from": origin,
        "not_in_subset": int((available_N & ~trained_N).sum()),
        "streams": {str(stream.name): len(stream) for stream in streams},
    }
    inputs = {
        "root_hashes": corpus.root_hashes,
        "fingerprint": corpus.fingerprint,
        "exclude": sorted(sha256_of_file(path) for path in config.exclude),
        "clusters": sha256_of_file(config.clusters) if config.clusters else None,
        "validation": _digest(held_out_N),
    }
    subset = None
    if config.subset is not None:
        inputs["subset"] = _digest(subset_N)
        subset = _ids(corpus, subset_N)
    return TrainingSet(
        corpus,
        Mix(streams, config.mix),
        _validation_batches(kind_N, held_out_N, config.mix.batch_size, SMALLEST_BATCH.get(config.model.family, 1)),
        seen,
        counts,
        inputs,
        SplitRecord(origin, _ids(corpus, held_out_N), subset),
    )


def _digest(chosen_N: Bool[np.ndarray, " N"]) -> str:
    return hashlib.sha256(np.flatnonzero(chosen_N).astype("<i8").tobytes()).hexdigest()


def _ids(corpus: Corpus, chosen_N: Bool[np.ndarray, " N"]) -> tuple[str, ...]:
    return tuple(corpus.ids[int(protein)] for protein in np.flatnonzero(chosen_N))


def _has_text(kind_N: Int8[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    return np.isin(kind_N, [NUMBERS[name] for name, has in STREAMS.items() if Modality.FUNC in has])


def _hold_out(
    config: RunConfig,
    corpus: Corpus,
    candidate_N: Bool[np.ndarray, " N"],
    hashes_N: UInt64[np.ndarray, " N"],
    record: SplitRecord | None,
) -> tuple[Bool[np.ndarray, " N"], str | None]:
    """True for the validation proteins, and where the clusters came from."""
    held_out_N = np.zeros_like(candidate_N)
    candidates = np.flatnonzero(candidate_N)
    if record is not None and record.validation is not None:
        # Whether stores and exclusions are still those of the run is for the run's folder to say.
        before = set(record.validation)
        known_N = np.fromiter((name in before for name in corpus.ids), dtype=bool, count=corpus.num_proteins)
        return known_N & candidate_N, record.origin
    if not config.validation_fraction or not len(candidates):
        return held_out_N, None
    if config.clusters is not None:
        clusters = read_clusters(config.clusters, compress(corpus.ids, candidate_N))
    else:
        sequences = [
            sequence for sequence, takes_part in zip(corpus.sequences(), candidate_N, strict=True) if takes_part
        ]
        with progress("clustering sequences", len(sequences), unit="proteins") as advance:
            like = record.origin if record is not None else None
            clusters = find_clusters(sequences, like=like, threads=config.threads, advance=advance)
        say(f"validation split by clusters of {clusters.origin}")
    rng = generator_for(config.seed, SPLIT_COUNTER)
    chosen = choose_validation(clusters, hashes_N[candidates], fraction=config.validation_fraction, rng=rng)
    held_out_N[candidates[chosen]] = True
    return held_out_N, clusters.origin


def _validation_batches(
    kind_N: Int8[np.ndarray, " N"], held_out_N: Bool[np.ndarray, " N"], batch_size: int, smallest: int
) -> tuple[Portion, ...]:
    """Every validation protein once, stream by stream.

    A last batch of fewer than `smallest` proteins goes with the one before; where there is none, nothing can be
    measured on it, which is said.
    """
    portions: list[Portion] = []
    for name in STREAMS:
        proteins = np.flatnonzero(held_out_N & (kind_N == NUMBERS[name]))
        draws = [Draw(int(protein), VALIDATION_EPOCH, place) for place, protein in enumerate(proteins)]
        if len(draws) < smallest:
            if draws:
                few = f"{len(draws)}, of at least {smallest}"
                say(f"nothing is measured on the validation proteins of stream {name}: there are {few}")
            continue
        starts = list(range(0, len(draws), batch_size))
        if len(starts) > 1 and len(draws) - starts[-1] < smallest:
            starts.pop()
        ends = [*starts[1:], len(draws)]
        portions.extend(Portion(name, 1.0, tuple(draws[start:end])) for start, end in zip(starts, ends, strict=True))
    return tuple(portions)
