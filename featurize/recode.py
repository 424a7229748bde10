"""Make an int8 store of a sealed one: the library behind `amma-featurize recode --int8`.

A pass over the source says what each channel spans, another how far its codes are off; only then is anything written.
Units, places and order are those of the source.

Legend: R rows, D channels, N proteins in plan order.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from amma.featurize.passes import Shown, repair_shown, silent
from amma.featurize.store.affine import (
    FINGERPRINT_KEY,
    Affine,
    Affines,
    affine_files,
    affines_sha256,
    read_affines,
    relative,
)
from amma.featurize.store.disk import human
from amma.featurize.store.documents import is_sealed, read_regular
from amma.featurize.store.filling import Advance, fill_store, preview
from amma.featurize.store.fingerprint import check_fingerprint
from amma.featurize.store.header import Header, read_header
from amma.featurize.store.layout import Layout
from amma.featurize.store.moments import no_rows
from amma.featurize.store.packed import RowBuffers
from amma.featurize.store.plan import Survey
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.repair import Repair
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import make_folder
from amma.featurize.store.unit import Past, UnitContents
from amma.manifests.errors import CorruptStoreError, StoreError, UsageError
from amma.manifests.files import write_atomically
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES, Modality

MAX_ERROR = 0.05
"""RMS of the error of a channel in units of its σ: that of a channel whose range is 44 σ. Without outliers it is 0.01;
bfloat16 has 0.03 in the outlier channels of sequence encoders."""
_AT_ONCE = 16
"""Proteins of one read: a part of what decides the last bits of the errors, so a constant."""

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Recoded:
    """What was, or would be, made. `error` is of each modality: the RMS over its channels, and of the worst channel."""

    store: str
    source: str
    root: str | None
    proteins: int
    bytes: int
    error: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        made = "not written" if self.root is None else f"sealed, root {self.root}"
        errors = [
            f"{modality:5}error/σ   {each['rms']:.4f}, worst channel {each['worst']:.4f} (number {each['channel']:.0f})"
            for modality, each in self.error.items()
        ]
        return [f"{self.store}: {self.proteins} proteins as int8, {human(self.bytes)}; {made}", *errors]


def recode_store(
    source: FeatureStore,
    out: Path,
    *,
    like: FeatureStore | None = None,
    max_error: float = MAX_ERROR,
    dry_run: bool = False,
    threads: int = 2,
    show: Shown = silent,
) -> Recoded:
    """Write the int8 store of `source` to `out`, or go on with it; killed anywhere, it ends in the same bytes.

    With `like`, an int8 store of the same encoders, its scales are taken: the two can be read as one, and a model that
    was trained on the one evaluated on the other.

    Raises `StoreError` `E_INT8` if the error of a channel is above `max_error`, and as `fill_store`; nothing is written
    then. `UsageError` if `source` is int8 already or not sealed, or `like` is not int8 or of other widths.
    """
    affines = _with_errors(source, _maps(source, out, like) or _spanning(source, threads, show), threads, show)
    _refuse_large_errors(source, affines, max_error)
    origin = _RecodedOrigin(source, affines, threads)
    settings = _settings(source)
    error = {str(modality): _summary(affines[modality]) for modality in MODALITIES}
    if dry_run:
        needed = preview(out, origin, settings).needed
        return Recoded(str(out), str(source.path), None, source.num_proteins, needed, error)
    outcome = fill_store(
        out,
        origin,
        settings,
        progress=lambda rows: show("recode", rows),
        prepare=lambda path, header: _write_maps(path, header.layout, affines),
    )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Recoded(str(out), str(source.path), outcome.root, source.num_proteins, size, error)


def repair_recoded(
    source: FeatureStore,
    out: Path,
    *,
    like: FeatureStore | None = None,
    dry_run: bool = False,
    threads: int = 2,
    show: Shown = silent,
) -> Repair:
    """Make what is damaged in the int8 store at `out` again from its source; raises as `repair_store`."""
    affines = _with_errors(source, _maps(source, out, like) or _spanning(source, threads, show), threads, show)
    origin, settings = _RecodedOrigin(source, affines, threads), _settings(source)
    header = _header(out)
    if header is not None:
        check_fingerprint(header.fingerprint, {**origin.fingerprint(), "dtype": "int8"}, where=str(out))
    if not dry_run and (header is not None or is_sealed(out)):
        _write_maps(out, source.layout, affines)
    return repair_shown(out, origin, settings, dry_run=dry_run, show=show)


class _RecodedOrigin:
    """The proteins of a sealed store, in its own order, as codes."""

    def __init__(self, source: FeatureStore, affines: Affines, threads: int) -> None:
        self.widths = dict(source.widths)
        self.random_weights = source.random_weights
        self._source = source
        self._affines = affines
        self._threads = threads
        # The plan draws this permutation: proteins are handed to it so that they come out in the source's order.
        generator = np.random.Generator(np.random.PCG64(source.header.settings.seed))
        self._order: Int64[np.ndarray, " N"] = generator.permutation(source.num_proteins).astype(np.int64)
        self._position = np.empty_like(self._order)
        self._position[self._order] = np.arange(source.num_proteins)

    def fingerprint(self) -> dict[str, Any]:
        """That of the source, and what its numbers were turned into."""
        before = {key: value for key, value in self._source.fingerprint.items() if key != "dtype"}
        return {**before, FINGERPRINT_KEY: {"from": self._source.dtype.name, "maps": affines_sha256(self._affines)}}

    def survey(self) -> Survey:
        """The planned lengths; the content is the source, by its root."""
        lengths = {}
        planned = [self._source.unit(number).length for number in range(self._source.header.num_units)]
        for modality in MODALITIES:
            length = np.zeros(self._source.num_proteins, dtype=np.int32)
            length[self._order] = np.concatenate([unit[modality] for unit in planned])
            lengths[modality] = length
        return Survey(lengths, _content(self._source))

    def identities(self, rows: Int64[np.ndarray, " n"]) -> tuple[list[str], list[str]]:
        """Ids and sequences of rows of the survey."""
        places = self._position[rows].tolist()
        return list(self._source.entries(places).ids), self._source.sequences().take(places)

    def fill(self, contents: UnitContents, advance: Advance) -> None:
        """Put the codes of every protein that the source has, and what it says of the others."""
        facts, members = self._source.unit(contents.unit), contents.positions
        same = [np.array_equal(contents.length[modality], facts.length[modality]) for modality in MODALITIES]
        span = slice(members.start, members.stop)
        if not all(same) or not np.array_equal(contents.plan.order[span], self._order[span]):
            raise StoreError(
                f"{self._source.path}: this version of amma places its proteins otherwise. "
                "Recode it with the version that wrote it, or featurize again."
            )
        contents.ids[:] = self._source.entries(members).ids
        contents.rejections.extend(facts.past.rejections)
        contents.splits.extend(facts.past.splits)

        def put(modality: Modality, slots: Sequence[int]) -> int:
            proteins = [members[slot] for slot in slots]
            found = self._source.read_many(proteins, [modality]).rows[modality]
            for place, slot in enumerate(slots):
                span = slice(*found.offsets[place : place + 2].tolist())
                contents.take(
                    modality,
                    slot,
                    self._affines[modality].codes(found.features[span]),
                    None if found.index is None else found.index[span],
                    facts.cls[modality][slot] if modality in facts.cls else None,
                )
            return len(found.features)

        for modality in MODALITIES:
            slots = np.flatnonzero(facts.present[modality]).tolist()
            blocks = [slots[begin : begin + _AT_ONCE] for begin in range(0, len(slots), _AT_ONCE)]
            with ThreadPoolExecutor(self._threads) as pool:
                for rows in pool.map(lambda block, modality=modality: put(modality, block), blocks):
                    advance(rows)

    def refill(self, contents: UnitContents, past: Past, advance: Advance) -> None:
        """As `fill`; what happened when the source was filled is known from there."""
        self.fill(contents, advance)


def _spanning(source: FeatureStore, threads: int, show: Shown) -> dict[Modality, Affine]:
    """Maps over what each channel holds anywhere in the source."""
    maps = {}
    for modality in MODALITIES:
        width = source.widths[modality]
        least_D, most_D = np.full(width, np.inf), np.full(width, -np.inf)
        ends = _passed(source, modality, threads, show, lambda rows: (rows.min(axis=0), rows.max(axis=0)))
        for low_D, high_D in ends:
            np.minimum(least_D, low_D, out=least_D)
            np.maximum(most_D, high_D, out=most_D)
        if not source.present(modality).any():
            least_D[:] = most_D[:] = 0
        maps[modality] = Affine.spanning(least_D, most_D)
    return maps


def _with_errors(source: FeatureStore, maps: Affines, threads: int, show: Shown) -> dict[Modality, Affine]:
    """The maps with the error that each channel has over all rows."""
    moments = {modality: no_rows(source.widths[modality]) for modality in MODALITIES}
    for facts in source.units():
        moments = {modality: moments[modality].merged(facts.moments[modality]) for modality in MODALITIES}
    measured = {}
    for modality in MODALITIES:
        affine, of = maps[modality], moments[modality]
        total_D = np.zeros(source.widths[modality])
        for part_D in _passed(source, modality, threads, show, partial(_squares, affine)):
            total_D += part_D
        error_D = relative(np.sqrt(total_D / max(of.count, 1)), of.sigma)
        measured[modality] = Affine(affine.scale_D, affine.offset_D, error_D)
    return measured


def _squares(affine: Affine, rows_RD: Float32[np.ndarray, "R D"]) -> Float64[np.ndarray, " D"]:
    """The sum of the squared errors of each channel."""
    wrong_RD = affine.numbers(affine.codes(rows_RD)) - rows_RD
    total_D: Float64[np.ndarray, " D"] = np.einsum("rd,rd->d", wrong_RD, wrong_RD, dtype=np.float64)
    return total_D


def _passed(
    source: FeatureStore, modality: Modality, threads: int, show: Shown, measure: Callable[[np.ndarray], Part]
) -> Iterator[Part]:
    """What `measure` gives for the rows of each protein, in order; reading is checked as always."""
    proteins = np.flatnonzero(source.present(modality)).tolist()
    total = int(source.length(modality).sum(dtype=np.int64))

    def block(begin: int) -> tuple[list[Part], int]:
        found = source.read_many(proteins[begin : begin + _AT_ONCE], [modality], RowBuffers()).rows[modality]
        offsets = found.offsets.tolist()
        rows = [found.features[start:end].astype(np.float32) for start, end in pairwise(offsets)]
        return [measure(each) for each in rows], len(found.features)

    begins = range(0, len(proteins), _AT_ONCE)
    with show(f"measure {modality}", total) as advance, ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(begins), 4 * threads):  # what is measured ahead of the sum stays small
            for parts, rows in pool.map(block, begins[first : first + 4 * threads]):
                yield from parts
                advance(rows)


def _refuse_large_errors(source: FeatureStore, affines: Affines, max_error: float) -> None:
    for modality in MODALITIES:
        affine = affines[modality]
        channel = int(affine.error_D.argmax()) if len(affine.error_D) else 0
        if len(affine.error_D) and not affine.error_D[channel] <= max_error:
            reach = float(affine.scale_D[channel]) * 127
            middle, error = float(affine.offset_D[channel]), float(affine.error_D[channel])
            raise StoreError(
                f"{source.path}: as int8, {modality} channel {channel} would be off by {error:.4f} of "
                f"its σ (RMS), the bound is {max_error:g}: its numbers reach from {middle - reach:.4g} to "
                f"{middle + reach:.4g}. Keep the store as it is, or raise --max-error; nothing was written.",
                code="E_INT8",
            )


def _settings(source: FeatureStore) -> StoreSettings:
    return StoreSettings.parse({**source.header.settings.model_dump(), "dtype": "int8"}, source="recode")


def _maps(source: FeatureStore, out: Path, like: FeatureStore | None) -> Affines | None:
    """The scales and offsets to take: those of `like`, or that a store begun at `out` has; None: find them (again)."""
    if source.layout.is_coded or not source.is_sealed:
        raise UsageError(f"{source.path}: is {'int8 already' if source.is_sealed else 'not sealed'}.")
    if like is not None:
        if not like.layout.is_coded or like.widths != source.widths:
            raise UsageError(f"{like.path}: is not an int8 store of the same encoders as {source.path}.")
        return like.affines
    header = _header(out)
    # What is of another source or no int8 store is refused in a moment, with both hashes.
    if header is None or header.widths != source.widths or header.content_sha256 != _content(source):
        return None
    try:
        expected = header.fingerprint[FINGERPRINT_KEY]["maps"]
        return read_affines(header.layout, lambda name: read_regular(out / name), expected, str(out))
    except (CorruptStoreError, KeyError):
        return None  # killed before they were written, or damaged


def _header(out: Path) -> Header | None:
    try:
        return read_header(out)
    except CorruptStoreError:
        return None


def _content(source: FeatureStore) -> str:
    return sha256_of_json({"recoded": source.root_hash})


def _write_maps(path: Path, layout: Layout, affines: Affines) -> None:
    for name, data in affine_files(replace(layout, dtype=np.dtype(np.int8)), affines).items():
        if not (path / name).exists() or (path / name).read_bytes() != data:
            make_folder((path / name).parent)
            write_atomically(path / name, data)


def _summary(affine: Affine) -> dict[str, float]:
    error_D = affine.error_D.astype(np.float64)
    if not len(error_D):
        return {"rms": 0.0, "worst": 0.0, "channel": 0}
    return {"rms": float(np.sqrt(np.mean(error_D**2))), "worst": float(error_D.max()), "channel": int(error_D.argmax())}
