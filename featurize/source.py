"""What `amma-featurize run` is given: a manifest, or the files one is built from."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amma.manifests.build import build_manifest
from amma.manifests.console import say
from amma.manifests.errors import InputError, UsageError
from amma.manifests.table import Manifest


@contextmanager
def opened_manifest(
    source: Path, store: Path, *, structures: Path | None, descriptions: Path | None, dry_run: bool
) -> Iterator[tuple[Manifest, int]]:
    """Give the manifest `source` is, or one built of it, and how many records were quarantined in building.

    A `.parquet` file is a manifest; a folder holds structures; any other file holds sequences (FASTA). A manifest that
    is built lies beside the store as `<stem>.manifest.parquet`; with `dry_run` it is gone afterwards.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder. Expected a manifest (.parquet), FASTA, or a PDB folder.")
    if source.suffix == ".parquet":
        if structures is not None or descriptions is not None:
            raise UsageError(f"{source} is a manifest and names its structures and texts; leave the options out.")
        yield Manifest(source), 0
        return
    if source.is_dir() and structures is not None:
        raise UsageError(f"{source} is a folder of structures already; leave --structures out.")
    with tempfile.TemporaryDirectory() as folder:
        beside = store.parent / f"{store.stem}.manifest.parquet"
        out = Path(folder) / beside.name if dry_run else beside
        report = build_manifest(
            sequences=None if source.is_dir() else source,
            structures=source if source.is_dir() else structures,
            descriptions=descriptions,
            out=out,
        )
        for line in report.lines():
            say(line)
        yield Manifest(out), len(report.rejections)
