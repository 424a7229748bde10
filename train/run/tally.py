"""Sums over an epoch, from which its line in the log is made.

They are part of a checkpoint, so that an epoch that was interrupted ends with the line it would have had.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Literal

from amma.manifests.table import MODALITIES, Modality

Part = Literal["trained", "hidden", "visible", "chance"]
"""What the loss counts; tokens that the encoder did not see, and that it saw; and the loss of knowing nothing."""


class ErrorTally:
    """Errors and over how many things they were summed, by term (a modality where something is rebuilt) and part."""

    def __init__(self) -> None:
        self._total: defaultdict[str, float] = defaultdict(float)
        self._count: Counter[str] = Counter()

    def add(self, term: str, part: Part, total: float, count: int) -> None:
        """Take in the sum of a batch."""
        self._total[f"{term}/{part}"] += total
        self._count[f"{term}/{part}"] += count

    def merge(self, other: "ErrorTally") -> None:
        """Take in another's sums."""
        for key, count in other._count.items():
            self._total[key] += other._total[key]
            self._count[key] += count

    @property
    def loss(self) -> float:
        """Σ over terms of the mean error that is trained on, as if all had been one batch."""
        return sum(self.terms("trained").values())

    def terms(self, part: Part) -> dict[str, float]:
        """The mean error of each term in one part; modalities first, in their order."""
        names = [key.removesuffix(f"/{part}") for key in self._count if key.endswith(f"/{part}")]
        means = {name: self.mean(name, part) for name in sorted(names, key=_place)}
        return {name: mean for name, mean in means.items() if mean is not None}

    def mean(self, term: str, *parts: Part) -> float | None:
        """The mean error over the named parts; None where there was nothing."""
        keys = [f"{term}/{part}" for part in parts]
        count = sum(self._count[key] for key in keys)
        return sum(self._total[key] for key in keys) / count if count else None

    def relative(self, of: "ErrorTally | Mapping[Modality, float]") -> dict[str, dict[str, float]]:
        """By modality the error over all, hidden and visible tokens, divided by that of predicting the mean.

        `of` is the tally of that prediction on the same tokens, or its expected error by modality.
        """
        parts: dict[str, tuple[Part, ...]] = {
            "all": ("hidden", "visible"),
            "hidden": ("hidden",),
            "visible": ("visible",),
        }
        table: dict[str, dict[str, float]] = {}
        for modality in MODALITIES:
            for name, which in parts.items():
                ours = self.mean(modality, *which)
                theirs = of.mean(modality, *which) if isinstance(of, ErrorTally) else of.get(modality)
                if ours is not None and theirs:
                    table.setdefault(str(modality), {})[name] = ours / theirs
        return table

    def as_json(self) -> dict[str, list[int | float]]:
        """Plain values; floats survive JSON to the bit."""
        return {key: [self._total[key], self._count[key]] for key in sorted(self._count)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ErrorTally":
        """What `as_json` gave."""
        tally = cls()
        for key, (total, count) in values.items():
            tally._total[key], tally._count[key] = total, count
        return tally


class EpochTally:
    """What an epoch did: steps, errors, proteins drawn from each stream, tokens and how many of them were visible."""

    def __init__(self) -> None:
        self.errors = ErrorTally()
        self.loss_total = 0.0
        self.counts: Counter[str] = Counter()

    def summary(self, baseline: Mapping[Modality, float]) -> dict[str, Any]:
        """The quantities of the epoch's line in the log."""
        counts = self.counts
        tokens = {str(m): counts[f"tokens/{m}"] for m in MODALITIES if counts[f"proteins/{m}"]}
        return {
            "loss": self.loss_total / counts["steps"] if counts["steps"] else None,
            "terms": self.errors.terms("trained"),
            **chance(self.errors),
            "error": self.errors.relative(baseline),
            "drawn": {key.removeprefix("stream/"): n for key, n in sorted(counts.items()) if key.startswith("stream/")},
            "tokens": tokens,
            "visible_per_protein": {m: counts[f"visible/{m}"] / counts[f"proteins/{m}"] for m in tokens},
        }

    def as_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"errors": self.errors.as_json(), "loss_total": self.loss_total, "counts": dict(self.counts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "EpochTally":
        """What `as_json` gave."""
        tally = cls()
        tally.errors = ErrorTally.from_json(values["errors"])
        tally.loss_total = values["loss_total"]
        tally.counts.update(values["counts"])
        return tally


def chance(errors: ErrorTally) -> dict[str, dict[str, float]]:
    """The terms of knowing nothing, under the key `chance`; empty where an objective has none."""
    terms = errors.terms("chance")
    return {"chance": terms} if terms else {}


def _place(term: str) -> tuple[int, str]:
    """Modalities in the order used everywhere, then other terms by name."""
    return (MODALITIES.index(Modality(term)), "") if term in set(MODALITIES) else (len(MODALITIES), term)
