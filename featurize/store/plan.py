"""Which rows every protein will have, before any encoder runs.

The plan is a pure function of the proteins' lengths, what they are, and the settings: proteins are permuted once by
the seed, then packed in that order into units that each fill at most one shard of every array. It knows nothing
about files.

Legend: N proteins in plan order, U units.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from jaxtyping import Int32, Int64

from amma.featurize.store.settings import StoreSettings
from amma.manifests.errors import InputError, StoreError
from amma.manifests.settings import canonical_json
from amma.manifests.table import MODALITIES, Modality, Protein

Measure = Callable[[Sequence[Protein]], dict[Modality, list[int]]]
_SURVEY_BATCH = 1024
_WINDOW = 1 << 18


@dataclass(frozen=True)
class Survey:
    """What planning needs to know of the proteins, in the order of their manifest (hence no N of the legend).

    `lengths` is the rows each has in each modality, 0 where it has none; `content_sha256` is of all that decides
    what the encoders see, and of nothing else (no paths, no accessions).
    """

    lengths: dict[Modality, Int32[np.ndarray, " M"]]
    content_sha256: str

    def __len__(self) -> int:
        return len(self.lengths[Modality.SEQ])


def survey(proteins: Iterable[Protein], measure: Measure, *, source: str) -> Survey:
    """Stream over `proteins` once; `measure` gives the rows of a batch in each modality.

    Raises `InputError` if there is none, or if an id occurs twice.
    """
    digest = hashlib.sha256()
    ids = bytearray()
    parts = {modality: array("i") for modality in MODALITIES}
    batch: list[Protein] = []

    def flush() -> None:
        lengths = measure(batch)
        for modality in MODALITIES:
            parts[modality].extend(lengths[modality])
        digest.update("".join(_content(protein) for protein in batch).encode())
        for protein in batch:
            ids.extend(hashlib.blake2b(protein.id.encode(), digest_size=16).digest())
        batch.clear()

    for protein in proteins:
        batch.append(protein)
        if len(batch) == _SURVEY_BATCH:
            flush()
    if batch:
        flush()
    if not ids:
        raise InputError(f"{source}: no protein in it; there is nothing to featurize")
    _refuse_duplicates(ids, source)
    return Survey(
        {modality: np.frombuffer(parts[modality], dtype=np.int32) for modality in MODALITIES}, digest.hexdigest()
    )


def _content(protein: Protein) -> str:
    has_structure = protein.structure is not None
    seen = (protein.id, protein.sequence, has_structure, protein.structure_sha256, protein.chain, protein.unresolved)
    return canonical_json([*seen, *protein.text]) + "\n"


def _refuse_duplicates(digests: bytearray, source: str) -> None:
    pairs = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    # One half of each hash is sorted, the other only looked at where two are equal: a third of the memory.
    order = np.argsort(pairs[:, 0], kind="stable")
    half = pairs[:, 0][order]
    alike = np.flatnonzero(half[1:] == half[:-1])
    repeated = alike[pairs[order[alike], 1] == pairs[order[alike + 1], 1]]
    if len(repeated):
        first, second = sorted((int(order[repeated[0]]), int(order[repeated[0] + 1])))
        raise InputError(
            f"{source}: proteins {first + 1} and {second + 1} have the same id, "
            f"{len(repeated)} ids occur more than once in all. Every protein needs an id of its own.",
            code="E_DUP",
        )


@dataclass(frozen=True)
class Plan:
    """Which protein is stored where.

    `order` is the manifest row of each protein; `length` its rows; `offset` where these begin in its unit; `first`
    the plan position at which each unit begins (and, last, N).
    """

    settings: StoreSettings
    content_sha256: str
    order: Int64[np.ndarray, " N"]
    length: dict[Modality, Int32[np.ndarray, " N"]]
    offset: dict[Modality, Int32[np.ndarray, " N"]]
    first: Int64[np.ndarray, " U_plus_1"]

    @property
    def num_proteins(self) -> int:
        """N."""
        return len(self.order)

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.first) - 1

    def positions(self, unit: int) -> range:
        """The plan positions of a unit's proteins."""
        return range(int(self.first[unit]), int(self.first[unit + 1]))

    def rows(self, unit: int, modality: Modality) -> int:
        """Rows that `unit` uses in an array of `modality`."""
        last = int(self.first[unit + 1]) - 1
        return int(self.offset[modality][last]) + int(self.length[modality][last])

    def start(self, unit: int, modality: Modality) -> Int64[np.ndarray, " n"]:
        """The row of the whole array at which each protein of `unit` begins."""
        positions = self.positions(unit)
        offset = self.offset[modality][positions.start : positions.stop].astype(np.int64)
        return offset + unit * self.settings.shard_rows

    def total_rows(self, modality: Modality) -> int:
        """Rows of all proteins."""
        return int(self.length[modality].sum(dtype=np.int64))

    @cached_property
    def sha256(self) -> str:
        """Hash of the settings, the content and the placement of every protein."""
        digest = hashlib.sha256(canonical_json([self.settings.model_dump(), self.content_sha256]).encode())
        for values in (self.order, self.first, *(self.length[modality] for modality in MODALITIES)):
            digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
        return digest.hexdigest()


def make_plan(surveyed: Survey, settings: StoreSettings, name_of: Callable[[int], str]) -> Plan:
    """Permute the proteins by the seed and pack them into units.

    A protein without rows in any modality keeps its place in the order, so that it can be said why. `name_of` gives
    the id of a manifest row, for the `StoreError` raised when a protein does not fit into a shard, and the
    `InputError` when none has rows.
    """
    lengths = surveyed.lengths
    total = len(surveyed)
    longest = reduce(np.maximum, [lengths[modality] for modality in MODALITIES])
    if int(longest.max()) > settings.shard_rows:
        row = int(longest.argmax())
        raise StoreError(
            f"protein {name_of(row)!r} has {int(longest[row])} rows, a shard holds {settings.shard_rows}. "
            "Begin the store with a larger --shard-rows.",
            code="E_LONG",
        )
    if int(longest.max()) == 0:
        raise InputError(
            f"none of {total} proteins has anything to encode ({name_of(0)!r} is the first). "
            "Give proteins that the sequence encoder takes; --max-residues and --long decide what it skips."
        )
    order = np.random.Generator(np.random.PCG64(settings.seed)).permutation(total).astype(np.int64, copy=False)
    length = {modality: lengths[modality][order] for modality in MODALITIES}
    offset, first = _pack(length, settings.shard_rows)
    return Plan(settings, surveyed.content_sha256, order, length, offset, first)


def _pack(
    length: Mapping[Modality, Int32[np.ndarray, " N"]], shard_rows: int
) -> tuple[dict[Modality, Int32[np.ndarray, " N"]], Int64[np.ndarray, " U_plus_1"]]:
    """Fill units in order; a unit closes when the next protein would exceed its shard in any modality."""
    total = len(length[Modality.SEQ])
    offset = {modality: np.empty(total, dtype=np.int32) for modality in MODALITIES}
    first = [0]
    # Rows are summed over a window of proteins at a time: sums over all of them would be the most of the memory.
    base, size = 0, _WINDOW
    end = _sums(length, base, size)
    while first[-1] < total:
        begin = first[-1]
        before = {modality: int(end[modality][begin - base - 1]) if begin > base else 0 for modality in MODALITIES}
        # `end` never decreases, so the first protein that does not fit is found by bisection, not by walking.
        stop = base + min(
            int(np.searchsorted(end[modality], before[modality] + shard_rows, side="right")) for modality in MODALITIES
        )
        if stop == base + size < total:  # the unit may go on beyond the window
            size = 2 * size if begin == base else _WINDOW
            end.clear()
            base, end = begin, _sums(length, begin, size)
            continue
        for modality in MODALITIES:
            begins = end[modality][begin - base : stop - base] - length[modality][begin:stop]
            offset[modality][begin:stop] = begins - before[modality]
        first.append(stop)
    return offset, np.array(first, dtype=np.int64)


def _sums(
    length: Mapping[Modality, Int32[np.ndarray, " N"]], begin: int, size: int
) -> dict[Modality, Int64[np.ndarray, " window"]]:
    return {m: np.cumsum(length[m][begin : begin + size], dtype=np.int64) for m in MODALITIES}
