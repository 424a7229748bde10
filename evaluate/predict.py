"""Predict the terms of new proteins: encode them, run every seed of a predictor, write what it says.

Shapes: K terms.
"""

import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amma.evaluate.predictor.folder import FACTS as PREDICTOR_FACTS
from amma.evaluate.predictor.inputs import Asked, Prepared, planned, prepared
from amma.evaluate.predictor.loaded import Predictor
from amma.evaluate.predictor.results import (
    PredictCounts,
    PredictFacts,
    PredictionWriter,
    PredictorUsed,
    PredictProvenance,
    check_out,
)
from amma.manifests.console import progress, say
from amma.manifests.files import sha256_of_file
from amma.manifests.report import ConservationError
from amma.manifests.table import Modality
from amma.train.run.arithmetic import arithmetic

PACKAGES = ("amma", "numpy", "torch", "pyarrow", "gemmi")
PROTEINS_AT_ONCE = 256


def predict(
    checkpoint: Path,
    asked: Asked,
    out: Path,
    *,
    top: int,
    at_least: float,
    device: str,
    cafa: bool = False,
    overwrite: bool = False,
) -> PredictFacts:
    """Write predictions for `asked` to `out`, and give what is in its `predict.json`.

    A protein's probabilities do not depend on the others, and are those that it has in any store of the same encoders.
    Raises `CheckpointError` for what is no predictor, `FingerprintError` for features of other encoders, `UsageError`
    and `InputError` for what was asked.
    """
    started = time.monotonic()
    check_out(out, overwrite=overwrite)
    asked.check()
    predictor = Predictor(checkpoint, device=device)
    facts = predictor.facts
    is_new = not out.exists()
    try:
        with (
            prepared(asked, predictor, out) as found,
            arithmetic(asked.threads, torch.device(device)),
            PredictionWriter(
                out, facts.terms, facts.names, facts.threshold, top=top, at_least=at_least, cafa=cafa
            ) as writer,
            progress("predicting", len(found.ids), unit="proteins") as advance,
        ):
            counts = _counts(found)
            _say_what_is_seen(counts, predictor)
            for start in range(0, len(found.ids), PROTEINS_AT_ONCE):
                block = slice(start, start + PROTEINS_AT_ONCE)
                rows = np.array(found.rows[block], dtype=np.int64)
                writer.write(found.ids[block], predictor.probabilities(found.store, rows))
                advance(len(rows))
            result = PredictFacts(
                kind=asked.kind,
                store_root_hash=found.store.root_hash,
                predictor=_used(predictor),
                counts=counts,
                threshold=facts.threshold,
                top=top,
                at_least=at_least,
                random_encoders=found.store.random_weights or facts.inputs.random_encoders,
                provenance=PredictProvenance(
                    finished=datetime.now(UTC).isoformat(timespec="seconds"),
                    seconds=round(time.monotonic() - started, 1),
                    versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
                    platform=platform.platform(),
                    device=device,
                    predictor=str(predictor.folder),
                    source=asked.source,
                    kept_store=str(asked.keep) if asked.keep else None,
                ),
            )
            writer.finish(found.rejections, result)
    finally:
        if is_new:
            with suppress(OSError):  # of a folder that is not empty
                out.rmdir()
    return result


def plan(checkpoint: Path, asked: Asked, out: Path, *, device: str, overwrite: bool = False) -> dict[str, Any]:
    """What `predict` would do, as plain values, after the same checks; no encoder runs, and nothing is written."""
    check_out(out, overwrite=overwrite)
    asked.check()
    predictor = Predictor(checkpoint, device=device)
    facts = predictor.facts
    return {
        "kind": asked.kind,
        **planned(asked, predictor),
        "task": facts.task,
        "terms": len(facts.terms),
        "seeds": len(facts.members),
        "protocol": facts.config.protocol.value,
        "random_encoders": facts.inputs.random_encoders,
    }


def result_lines(result: PredictFacts, out: Path) -> list[str]:
    """What was done, for a terminal."""
    counts, used = result.counts, result.predictor
    seeds = "1 seed" if len(used.seeds) == 1 else f"the mean of {len(used.seeds)} seeds"
    lines = [
        f"{used.task}, {used.num_terms} terms, protocol {used.protocol}: {seeds}, calibrated on validation",
        f"records      {counts.records}: {counts.predicted} predicted, {counts.quarantined} quarantined, "
        f"{counts.duplicates} duplicates",
    ]
    if not all(used.calibrated):
        lines.append("some seeds could not be calibrated: their scores are taken as they are")
    if result.threshold is None:
        lines.append("threshold    none: validation has no true pair")
    else:
        lines.append(f"threshold    {result.threshold:.4g}, where validation F is largest")
    lines.append(f"predictions  {out}")
    if result.random_encoders:
        lines.append("random encoders: these probabilities show that the pipeline runs, and tell nothing of proteins")
    return lines


def _counts(found: Prepared) -> PredictCounts:
    rows = np.array(found.rows, dtype=np.int64)
    lacking = {m: int((found.store.length(m)[rows] == 0).sum()) for m in (Modality.SEQ, Modality.STR)}
    counts = PredictCounts(
        records=found.num_read,
        predicted=len(found.ids),
        quarantined=found.num_quarantined,
        duplicates=found.num_duplicates,
        without_structure=lacking[Modality.STR],
        without_sequence=lacking[Modality.SEQ],
    )
    if counts.records != counts.predicted + counts.quarantined + counts.duplicates:
        raise ConservationError(f"the records do not add up ({counts}). Nothing was written; please report this.")
    return counts


def _say_what_is_seen(counts: PredictCounts, predictor: Predictor) -> None:
    if not counts.without_structure:
        return
    facts = predictor.facts
    share = facts.num_train_with_structure / facts.num_train
    say(
        f"WARNING: {counts.without_structure} of {counts.predicted} proteins have no structure: the model sees their "
        f"sequence alone. {share:.0%} of the {facts.num_train} proteins it was tuned on had a structure"
        + (", so expect these predictions to be worse, and their probabilities to be off." if share > 0.5 else ".")
    )


def _used(predictor: Predictor) -> PredictorUsed:
    facts = predictor.facts
    return PredictorUsed(
        sha256=sha256_of_file(predictor.folder / PREDICTOR_FACTS),
        task=facts.task,
        num_terms=len(facts.terms),
        protocol=facts.config.protocol,
        readout=facts.config.readout,
        seeds=tuple(member.seed for member in facts.members),
        checkpoint_sha256=facts.inputs.checkpoint_sha256,
        num_train=facts.num_train,
        num_train_with_structure=facts.num_train_with_structure,
        calibrated=tuple(member.calibration.identity_because is None for member in facts.members),
    )
