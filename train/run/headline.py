"""What a person watching is told at the end of an epoch; the log has the rest."""

from collections.abc import Mapping
from typing import Any

from amma.train.run import agreement
from amma.train.run.validation import ValidationResult


def headline(epoch: int, epochs: int, summary: Mapping[str, Any], result: ValidationResult | None) -> str:
    """Losses and hidden-token errors, those of validation if there is one; on a second line what its vectors show."""
    table = summary["error"] if result is None else result.error
    errors = ", ".join(f"{modality} {parts['hidden']:.3f}" for modality, parts in table.items() if "hidden" in parts)
    where = "training" if result is None else "validation"
    loss = f"loss {summary['loss']:.4f}" + ("" if result is None else f", validation {result.loss:.4f}")
    line = f"epoch {epoch}/{epochs}: {loss}"
    if errors:
        line += f"; hidden-token error on {where} (1 = predicting the mean): {errors}"
    terms, chance = (summary["terms"], summary.get("chance", {})) if result is None else (result.terms, result.chance)
    if chance:
        shown = ", ".join(
            f"{name} {terms[name]:.3f} ({knowing_nothing:.3f})" for name, knowing_nothing in chance.items()
        )
        line += f"; terms on {where} (knowing nothing): {shown}"
    vectors = agreement.describe(result.vectors) if result else ""
    return f"{line}\n  {vectors}" if vectors else line
