"""The features of one unit in memory, and what is kept of its proteins beside them.

Slots number the proteins of a unit from 0. Rows of a protein that could not be encoded stay zeros.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from awscrt.checksums import crc32c
from jaxtyping import Bool, Float, Int32, Int64, UInt32

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.layout import CLS_MODALITIES, COLUMNS, INDEX_ARRAYS, ArraySpec, Layout
from amma.featurize.store.moments import ChannelMoments, moments_of
from amma.featurize.store.plan import Plan
from amma.manifests.errors import StoreError
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.settings import canonical_json
from amma.manifests.table import MODALITIES, Modality

_PAST = "past"
"""What the metadata of a side file calls it."""


def checksum(features: np.ndarray, index: np.ndarray | None) -> int:
    """crc32c of a protein's feature rows, extended by its index rows where there are any."""
    value: int = crc32c(features)
    return value if index is None else int(crc32c(index, value))


@dataclass(frozen=True, slots=True)
class Split:
    """How batch number `batch` of a modality was cut because memory ran out: the sizes of its parts, in order."""

    modality: Modality
    batch: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Past:
    """What happened when a unit was encoded: its late rejects, and the batches that were cut."""

    rejections: tuple[Rejection, ...] = ()
    splits: tuple[Split, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it stands in a ledger entry; without a word of splits where there were none."""
        splits = {"splits": [asdict(split) for split in self.splits]} if self.splits else {}
        return {"rejections": [asdict(rejection) for rejection in self.rejections], **splits}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Past":
        """Read what `as_json` gave, whatever else is in `value`."""
        rejections = tuple(Rejection(**rejection) for rejection in value["rejections"])
        splits = tuple(
            Split(Modality(split["modality"]), split["batch"], tuple(split["sizes"]))
            for split in value.get("splits", ())
        )
        return cls(rejections, splits)


@dataclass(frozen=True, slots=True)
class Measured:
    """What takes time to tell of a unit's n proteins in one modality."""

    crc32c: UInt32[np.ndarray, " n"]
    moments: ChannelMoments


class UnitContents:
    """Fill it with `put` and `reject`, one call a protein and modality; then the writer takes it."""

    def __init__(self, plan: Plan, layout: Layout, unit: int) -> None:
        self.plan = plan
        self.layout = layout
        self.unit = unit
        self.positions = plan.positions(unit)
        self.rejections: list[Rejection] = []
        self.splits: list[Split] = []
        self.ids: list[str] = [""] * len(self.positions)
        span = slice(self.positions.start, self.positions.stop)
        self.length = {modality: plan.length[modality][span] for modality in MODALITIES}
        self.offset = {modality: plan.offset[modality][span] for modality in MODALITIES}
        self.present = {modality: np.zeros(len(self.positions), dtype=np.bool_) for modality in MODALITIES}
        self.cls = {
            modality: np.zeros((len(self.positions), layout.widths[modality]), dtype=layout.cls(modality).dtype)
            for modality in CLS_MODALITIES
        }
        self.rows: dict[str, np.ndarray] = {}
        for modality in MODALITIES:
            used = plan.rows(unit, modality)
            for spec in layout.row_arrays(modality):
                padded = layout.used_chunks(used) * layout.chunk_rows
                self.rows[spec.path] = np.full((padded, *spec.row_shape), spec.fill, dtype=spec.dtype)
                self.rows[spec.path][:used] = 0

    @property
    def past(self) -> Past:
        """What happened so far."""
        return Past(tuple(self.rejections), tuple(self.splits))

    def planned(self, modality: Modality) -> list[int]:
        """The slots that have rows in a modality."""
        return [int(slot) for slot in np.flatnonzero(self.length[modality])]

    def put(self, modality: Modality, slot: int, protein_id: str, encoded: Encoded) -> None:
        """Store the features of one protein.

        Raises `RecordError` `E_LENGTH` or `E_NONFINITE` if they cannot be used, after which its rows are zeros
        again; `StoreError` if they do not fit the store's dtype or are not of its widths.
        """
        self.ids[slot] = protein_id
        if self.layout.is_coded:
            raise StoreError("an int8 store is made of a finished one: write float16, then amma-featurize recode")
        width, rows = self.layout.widths[modality], int(self.length[modality][slot])
        if encoded.features.shape[1] != width:
            raise StoreError(f"the {modality} encoder gave rows of {encoded.features.shape[1]}, promised {width}")
        if len(encoded.features) != rows:
            reason = f"the encoder gave {len(encoded.features)} rows, planned were {rows}"
            raise RecordError("E_LENGTH", reason, "Report it: lengths must be known before encoding.")
        span = self._span(modality, slot)
        try:
            self._cast(encoded.features, self._features(modality)[span], modality, protein_id)
            if modality in CLS_MODALITIES:
                if encoded.cls is None:
                    raise StoreError(f"the {modality} encoder gave no special-token row for {protein_id!r}")
                self._cast(encoded.cls, self.cls[modality][slot], modality, protein_id)
        except RecordError:
            self._clear(modality, slot)
            raise
        if (spec := INDEX_ARRAYS.get(modality)) is not None:
            self.rows[spec.path][span] = _checked_index(encoded, spec, modality, protein_id)
        self.present[modality][slot] = True

    def take(
        self, modality: Modality, slot: int, stored: np.ndarray, index: np.ndarray | None, cls: np.ndarray | None
    ) -> None:
        """Store the rows of one protein as they are in another store, features in this one's dtype already."""
        span = self._span(modality, slot)
        self._features(modality)[span] = stored
        if (spec := INDEX_ARRAYS.get(modality)) is not None:
            self.rows[spec.path][span] = index
        if modality in CLS_MODALITIES:
            self.cls[modality][slot] = cls
        self.present[modality][slot] = True

    def reject(self, modality: Modality, slot: int, rejection: Rejection) -> None:
        """Note that a protein has no features in a modality after all; without a sequence it has none in any."""
        self.ids[slot] = rejection.id
        self.rejections.append(rejection)
        for affected in MODALITIES if modality is Modality.SEQ else (modality,):
            self._clear(affected, slot)

    def facts(self) -> "UnitFacts":
        """What is kept of the unit beside its shards."""
        return self.facts_from({modality: self.measured(modality) for modality in MODALITIES})

    def facts_from(self, measured: Mapping[Modality, "Measured"]) -> "UnitFacts":
        """As `facts`, of what `measured` gave, perhaps in several threads."""
        start = {modality: self.plan.start(self.unit, modality) for modality in MODALITIES}
        crc32c = {modality: measured[modality].crc32c for modality in MODALITIES}
        moments = {modality: measured[modality].moments for modality in MODALITIES}
        return UnitFacts(start, dict(self.length), crc32c, dict(self.present), dict(self.cls), moments, self.past)

    def measured(self, modality: Modality) -> "Measured":
        """The checksums of all proteins in a modality, and the moments of their rows."""
        spans = [self._span(modality, slot) for slot in range(len(self.positions))]
        features, index = self._features(modality), INDEX_ARRAYS.get(modality)
        values = [checksum(features[span], None if index is None else self.rows[index.path][span]) for span in spans]
        row_present = np.zeros(len(features), dtype=np.bool_)
        for span, present in zip(spans, self.present[modality], strict=True):
            row_present[span] = present
        return Measured(np.array(values, dtype=np.uint32), moments_of(features, row_present))

    def _features(self, modality: Modality) -> np.ndarray:
        return self.rows[self.layout.features(modality).path]

    def _span(self, modality: Modality, slot: int) -> slice:
        begin = int(self.offset[modality][slot])
        return slice(begin, begin + int(self.length[modality][slot]))

    def _clear(self, modality: Modality, slot: int) -> None:
        for spec in self.layout.row_arrays(modality):
            self.rows[spec.path][self._span(modality, slot)] = 0
        if modality in CLS_MODALITIES:
            self.cls[modality][slot] = 0
        self.present[modality][slot] = False

    def _cast(self, values: np.ndarray, target: np.ndarray, modality: Modality, protein_id: str) -> None:
        with np.errstate(over="ignore"):
            target[...] = values
        if np.isfinite(target).all():
            return
        if not np.isfinite(values).all():
            reason = "the encoder gave numbers that are not finite"
            raise RecordError("E_NONFINITE", reason, "Look at this protein's input; the rest is not affected.")
        largest = float(np.abs(values).max())
        raise StoreError(
            f"protein {protein_id!r}, {modality} features: {largest:.6g} does not fit {self.layout.dtype.name} "
            f"(at most {float(np.finfo(self.layout.dtype).max):.6g}). Write to a new path with --dtype float32.",
            code="E_FP16",
        )


def _checked_index(encoded: Encoded, spec: ArraySpec, modality: Modality, protein_id: str) -> np.ndarray:
    index = encoded.index
    limits = np.iinfo(spec.dtype)
    if index is None or len(index) != len(encoded.features):
        raise StoreError(f"the {modality} encoder did not say where each row of {protein_id!r} comes from")
    if index.min() < 0 or index.max() > limits.max:
        raise StoreError(f"the {modality} encoder's {spec.path} of {protein_id!r} leaves 0 to {limits.max}")
    return index


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """Per-protein entries of one unit (n proteins, in slot order), and the moments of its present rows.

    `length` is the planned one also where `present` is False; `past` stands here too so that it survives a lost ledger.
    """

    start: dict[Modality, Int64[np.ndarray, " n"]]
    length: dict[Modality, Int32[np.ndarray, " n"]]
    crc32c: dict[Modality, UInt32[np.ndarray, " n"]]
    present: dict[Modality, Bool[np.ndarray, " n"]]
    cls: dict[Modality, Float[np.ndarray, "n width"]]
    moments: dict[Modality, ChannelMoments]
    past: Past

    def column(self, modality: Modality, name: str) -> np.ndarray:
        """The entries of one per-protein array, by its name in `layout.COLUMNS` or `cls`."""
        columns: dict[str, dict[Modality, Any]] = {
            "start": self.start,
            "length": self.length,
            "crc32c": self.crc32c,
            "present": self.present,
            "cls": self.cls,
        }
        values: np.ndarray = columns[name][modality]
        return values

    def to_bytes(self) -> bytes:
        """As safetensors: the same facts give the same bytes."""
        from safetensors.numpy import save

        tensors: dict[str, np.ndarray] = {}
        for modality in MODALITIES:
            for name in COLUMNS:
                tensors[f"{modality}/{name}"] = np.ascontiguousarray(self.column(modality, name))
            if modality in CLS_MODALITIES:
                tensors[f"{modality}/cls"] = self.cls[modality]
            moments = self.moments[modality]
            tensors[f"{modality}/count"] = np.array([moments.count], dtype=np.int64)
            tensors[f"{modality}/sum"] = moments.total
            tensors[f"{modality}/m2"] = moments.m2
        data: bytes = save(tensors, metadata={_PAST: canonical_json(self.past.as_json())})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "UnitFacts":
        """Read what `to_bytes` gave; whoever calls has checked the hash."""
        from safetensors.numpy import load

        tensors = load(data)
        columns: dict[str, dict[Modality, Any]] = {
            name: {modality: tensors[f"{modality}/{name}"] for modality in MODALITIES} for name in COLUMNS
        }
        moments = {
            modality: ChannelMoments(
                int(tensors[f"{modality}/count"][0]), tensors[f"{modality}/sum"], tensors[f"{modality}/m2"]
            )
            for modality in MODALITIES
        }
        special = {modality: tensors[f"{modality}/cls"] for modality in CLS_MODALITIES}
        return cls(**columns, cls=special, moments=moments, past=past_in(data))


def past_in(data: bytes) -> Past:
    """The `past` in the bytes of a side file; raises `ValueError`, `KeyError` or `TypeError` if these are damaged."""
    size = int.from_bytes(data[:8], "little")
    return Past.from_json(json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_PAST]))
