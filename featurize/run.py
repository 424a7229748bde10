"""Featurize a manifest: the library behind `amma-featurize run`."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from amma.featurize.encoding import EncoderOrigin, Encoders
from amma.featurize.store.filling import Advance, Outcome, Preview, fill_store, preview
from amma.featurize.store.header import read_header
from amma.featurize.store.settings import StoreSettings
from amma.manifests.console import progress
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import Manifest, Modality


def featurize(
    manifest: Manifest,
    store: Path,
    encoders: Encoders,
    settings: StoreSettings | None = None,
    *,
    show_progress: bool = False,
) -> Outcome:
    """Begin the store at `store`, or go on with it, until it is sealed.

    The same manifest, encoders and settings give the same bytes, however often the run was killed on the way. Raises
    as `filling.fill_store`; `settings` left out are the defaults, or those the store was begun with.
    """

    def show(rows: int) -> AbstractContextManager[Advance]:
        return progress("featurize", rows, unit="residues and tokens") if show_progress else nullcontext(lambda n: None)

    return fill_store(store, EncoderOrigin(manifest, encoders), settings or StoreSettings(), progress=show)


def preview_run(manifest: Manifest, store: Path, encoders: Encoders, settings: StoreSettings | None = None) -> Preview:
    """What `featurize` would do; writes nothing and runs no encoder."""
    return preview(store, EncoderOrigin(manifest, encoders), settings or StoreSettings())


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
