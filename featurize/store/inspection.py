"""What is in a store: sizes, lengths, kinds, encoders, and how its channels are distributed."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from amma.featurize.store.location import Location
from amma.featurize.store.moments import ChannelMoments, no_rows
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, Modality


@dataclass(frozen=True, slots=True)
class ModalityReport:
    """One modality: how many proteins have it, how long they are, and the channels' means and σ over all rows."""

    width: int
    proteins: int
    rows: int
    length: dict[str, float]
    channel_mean: dict[str, float]
    channel_sigma: dict[str, float]
    constant_channels: int
    int8_error: dict[str, float]
    """RMS of the error of each channel in units of its σ; empty where numbers are not int8."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The whole store; `root` is None while it is not sealed."""

    store: str
    sealed: bool
    root: str | None
    random_encoders: bool
    dtype: str
    proteins: int
    units: int
    kinds: dict[str, int]
    modalities: dict[str, ModalityReport]
    fingerprint: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        encoders = "random encoders" if self.random_encoders else "published weights"
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        result = [
            f"{self.store}: {self.proteins} proteins in {self.units} units, {self.dtype}, {encoders}",
            f"root   {self.root or '(not sealed)'}",
            f"kinds  {kinds}",
        ]
        for name, part in self.modalities.items():
            result.append(f"{name}: width {part.width}, {part.proteins} proteins, {part.rows} rows")
            if part.rows:
                for label, values in (
                    ("length", part.length),
                    ("channel mean", part.channel_mean),
                    ("channel σ", part.channel_sigma),
                ):
                    result.append(f"  {label:13}" + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
                if part.int8_error:
                    spread = "  ".join(f"{key} {value:.4g}" for key, value in part.int8_error.items())
                    result.append(f"  {'int8 error/σ':13}{spread}")
                result.append(f"  {'constant':13}{part.constant_channels} channels")
            encoder = self.fingerprint.get(name, {})
            if isinstance(encoder, dict) and encoder:
                result.append("  encoder      " + ", ".join(f"{key} {_short(encoder[key])}" for key in sorted(encoder)))
        return result


def inspect_store(path: Location) -> StoreReport:
    """Describe a store, sealed or not; raises as `FeatureStore`."""
    with FeatureStore(path, partial=True) as store:
        moments = _moments(store)
        return StoreReport(
            store=str(path),
            sealed=store.is_sealed,
            root=store.root_hash or None,
            random_encoders=store.random_weights,
            dtype=store.dtype.name,
            proteins=store.num_proteins,
            units=store.header.num_units,
            kinds=dict(Counter(store.kinds())),
            modalities={str(modality): _modality(store, modality, moments[modality]) for modality in MODALITIES},
            fingerprint=store.fingerprint,
        )


def _moments(store: FeatureStore) -> dict[Modality, ChannelMoments]:
    """The moments of all committed units, merged in unit order."""
    merged = {modality: no_rows(store.widths[modality]) for modality in MODALITIES}
    for facts in store.units():
        merged = {modality: merged[modality].merged(facts.moments[modality]) for modality in MODALITIES}
    return merged


def _modality(store: FeatureStore, modality: Modality, moments: ChannelMoments) -> ModalityReport:
    lengths = store.length(modality)[store.present(modality)]
    affine = store.affines.get(modality)
    moments = moments if affine is None else affine.moments(moments)
    return ModalityReport(
        width=store.widths[modality],
        proteins=len(lengths),
        rows=int(lengths.sum(dtype=np.int64)),
        length=_spread(lengths),
        channel_mean=_spread(moments.mean),
        channel_sigma=_spread(moments.sigma),
        constant_channels=int((moments.m2 == 0).sum()),
        int8_error={} if affine is None else _spread(affine.error_D),
    )


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    ends = {"min": float(values.min()), "5%": low, "median": median, "mean": float(values.mean())}
    return {**ends, "95%": high, "max": float(values.max())}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
