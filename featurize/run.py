"""Featurize a manifest: the library behind `amma-featurize run`."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from amma.featurize.encoding import EncoderOrigin, Encoders
from amma.featurize.store.filling import (
    Advance,
    Outcome,
    Preview,
    Progress,
    WriteUnits,
    fill_store,
    preview,
    write_here,
)
from amma.featurize.store.header import read_header
from amma.featurize.store.parts import Part
from amma.featurize.store.settings import StoreSettings
from amma.featurize.workers.part import PartOutcome, fill_part
from amma.manifests.console import progress
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import Manifest, Modality


def featurize(
    manifest: Manifest,
    store: Path,
    encoders: Encoders,
    settings: StoreSettings | None = None,
    *,
    set_aside: Collection[str] = (),
    write_units: WriteUnits = write_here,
    show_progress: bool = False,
) -> Outcome:
    """Begin the store at `store`, or go on with it, until it is sealed.

    The same manifest, encoders and settings give the same bytes, however often the run was killed on the way, and
    whoever writes its units (`workers.cluster.ClusterWriter`). Proteins with an id that is `set_aside` are not
    encoded. Raises as `filling.fill_store`; `settings` left out are the defaults, or those the store was begun with.
    """
    origin = EncoderOrigin(manifest, encoders, set_aside=set_aside)
    return fill_store(
        store, origin, settings or StoreSettings(), progress=_shown(show_progress), write_units=write_units
    )


def featurize_part(
    manifest: Manifest,
    store: Path,
    encoders: Encoders,
    part: Part,
    settings: StoreSettings | None = None,
    *,
    set_aside: Collection[str] = (),
    write_units: WriteUnits = write_here,
    show_progress: bool = False,
) -> PartOutcome:
    """As `featurize`, for one share of the units, and without the seal (`workers.part.seal_parts`)."""
    origin = EncoderOrigin(manifest, encoders, set_aside=set_aside)
    return fill_part(
        store, origin, settings or StoreSettings(), part, progress=_shown(show_progress), write_units=write_units
    )


def _shown(show: bool) -> Progress:
    def shown(rows: int) -> AbstractContextManager[Advance]:
        return progress("featurize", rows, unit="residues and tokens") if show else nullcontext(lambda n: None)

    return shown


def preview_run(
    manifest: Manifest,
    store: Path,
    encoders: Encoders,
    settings: StoreSettings | None = None,
    *,
    set_aside: Collection[str] = (),
) -> Preview:
    """What `featurize` would do; writes nothing and runs no encoder."""
    return preview(store, EncoderOrigin(manifest, encoders, set_aside=set_aside), settings or StoreSettings())


def recorded_precision(store: Path) -> str | None:
    """What the encoders of a begun store computed in, so that it goes on alike on another device.

    None: not begun, or not legible any more, which whoever needs the plan will say.
    """
    try:
        header = read_header(store)
    except CorruptStoreError:
        return None
    if header is None:
        return None
    dtype = header.fingerprint.get(str(Modality.SEQ), {}).get("dtype")
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(dtype)
