"""What is intact of a damaged store, called as a witness of what was damaged.

The chain of trust goes from the seal to the ledger to the units. Where a link of it is damaged itself, the next ones
speak for it: nothing is put back that the files which are intact do not bear out.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from amma.featurize.store.digests import render_digests
from amma.featurize.store.documents import MOST_DOCUMENT_BYTES, is_sealed, read_regular, render
from amma.featurize.store.filling import Origin, plan_store
from amma.featurize.store.header import Header, read_header
from amma.featurize.store.layout import (
    LEDGER_GROUP,
    PLAN_FILE,
    QUARANTINE_FILE,
    SEAL_FILE,
    Layout,
    digest_file,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import LedgerEntry, committed_units
from amma.featurize.store.plan import Plan
from amma.featurize.store.seal import Seal, read_seal
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import FileRecord
from amma.featurize.store.unit import Past, past_in
from amma.manifests.errors import ConfigError, CorruptStoreError, StoreError
from amma.manifests.quarantine import read_quarantine

_MOST_THREADS = 256


class Witness:
    """Asked with `demand…`, which raise `StoreError` `E_REPAIR` for what is not as it was.

    `bad` are the files that are damaged; `seal` is None where that is one of them; `listed` is what the seal says.
    """

    def __init__(self, path: Path, bad: set[str]) -> None:
        self._path = path
        self._bad = bad
        self.seal: Seal | None = None
        if is_sealed(path) and SEAL_FILE not in bad:
            self.seal = read_seal(path)
        self.listed: dict[str, FileRecord] = {}
        self.is_contradicted = False
        """Whether the seal is whole in itself, and speaks of other units than the ledger: one of them is not ours."""

    def list(self, layout: Layout) -> None:
        """Read what the seal says of every file, now that the plan is known."""
        self.listed = {} if self.seal is None else self.seal.everything(self._path, layout)
        table, names = digest_file(LEDGER_GROUP), layout.groups()[LEDGER_GROUP]
        if self.seal is None or names[0] in self.listed:
            return
        with suppress(CorruptStoreError):
            records = [FileRecord.of(read_regular(self._path / name)) for name in names]
            if FileRecord.of(render_digests(records)) == self.seal.files.get(table):
                self.listed.update(zip(names, records, strict=True))
                return
        self.is_contradicted = True

    def plan(self, origin: Origin, asked: StoreSettings) -> tuple[Header, Plan]:
        """The plan of the store; where `plan.json` is damaged, the one that intact files name."""
        if PLAN_FILE not in self._bad:
            return plan_store(self._path, origin, asked, read_header(self._path))
        salvaged = _salvage(self._path / PLAN_FILE).get("settings")
        candidates = [asked]
        try:
            recorded = StoreSettings.parse(salvaged, source=PLAN_FILE) if isinstance(salvaged, dict) else None
            if recorded is not None:
                candidates.insert(0, asked.resolved(recorded))
        except (ConfigError, StoreError):
            pass  # damaged in just these, or other settings were asked for
        for settings in candidates:
            header, plan = plan_store(self._path, origin, settings, None)
            for threads in [header.settings.threads, *(() if settings.threads else range(1, _MOST_THREADS))]:
                changed = header.settings.model_copy(update={"threads": threads})
                plan = replace(plan, settings=changed)
                header = replace(header, settings=changed, plan_sha256=plan.sha256)
                if self._is_plan(header):
                    return header, plan
        raise StoreError(
            f"{self._path / PLAN_FILE} is lost, and with these proteins, encoders and settings it would be another. "
            "Give those the store was begun with: manifest, encoders, --shard-rows, --seed, --token-budget, --dtype "
            "and --threads.",
            code="E_REPAIR",
        )

    def _is_plan(self, header: Header) -> bool:
        if self.seal is not None:
            return FileRecord.of(render(header.as_json())) == self.seal.files.get(PLAN_FILE)
        some = [_salvage(self._path / ledger_file(unit)) for unit in committed_units(self._path)[:9]]
        return header.plan_sha256 in [entry.get("plan_sha256") for entry in some]

    def pasts(self, unit: int, ids: Sequence[str]) -> Sequence[Past]:
        """What may have happened to a unit whose ledger entry is lost, as other files tell it; likely ones first."""
        found = []
        with suppress(CorruptStoreError, ValueError, KeyError, TypeError, AttributeError):
            found.append(past_in(read_regular(self._path / side_file(unit))))
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            found.append(Past.from_json(_salvage(self._path / ledger_file(unit))))
        if QUARANTINE_FILE not in self._bad:
            members = set(ids)
            with suppress(OSError, ValueError, TypeError):
                lines = [each for each in read_quarantine(self._path / QUARANTINE_FILE) if each.id in members]
                found.append(Past(tuple(lines)))
        return tuple(dict.fromkeys([*found, Past()]))

    def demand(self, name: str, found: FileRecord, expected: FileRecord | None) -> None:
        """That what was made again for `name` is what was there."""
        if found != expected:
            raise StoreError(
                f"{self._path / name}: made again it is another file than the seal says "
                f"({found.blake3[:12]} of {found.size} bytes); it was not replaced. Use the versions of zarr, pyarrow "
                "and amma that the store was made with.",
                code="E_REPAIR",
            )

    def demand_unit(self, made: LedgerEntry, entry: LedgerEntry | None) -> None:
        """That a unit made again is the one that its ledger entry, or without one the seal, speaks of."""
        expected = self.listed.get(ledger_file(made.unit))
        if entry is not None:
            if made.as_json() == entry.as_json() or (expected is None and self._is_on_disk(made)):
                return
            differing = [name for name in entry.files if made.files.get(name) != entry.files[name]]
            what = f"{differing[0]} is not" if differing else "its late rejects are not"
        else:
            if expected is None or FileRecord.of(render(made.as_json())) == expected:
                return
            what = "its ledger entry is not"
        rejected = ", ".join(sorted({repr(each.id) for each in made.rejections} - _ids_of(entry)))
        now = f" ({rejected} left out now)" if rejected else ""
        raise StoreError(
            f"{self._path}: unit {made.unit} was encoded again, and {what} what it was{now}; nothing of it was "
            "replaced. Another device, other library versions, or an input that changed make other bits: use those "
            "the store was made with.",
            code="E_REPAIR",
        )

    def _is_on_disk(self, made: LedgerEntry) -> bool:
        """Nothing vouches for a ledger entry without a seal; where the files disagree with it too, it is wrong."""
        try:
            return all(
                FileRecord.of(read_regular(self._path / name, size=record.size)) == record
                for name, record in made.files.items()
            )
        except CorruptStoreError:
            return False

    def demand_seal(self, made: Seal) -> None:
        """That nothing which is still legible of a damaged seal speaks against the one that was made again."""
        if SEAL_FILE not in self._bad:
            return
        try:
            text = read_regular(self._path / SEAL_FILE).decode(errors="replace")
        except CorruptStoreError:
            return
        roots = re.findall(r'"root": "([0-9a-f]{64})"', text)
        lines = re.findall(r'"([^"]+)": \{\s*"blake3": "([0-9a-f]{64})",\s*"size": (\d+)\s*\}', text)
        against = [
            name
            for name, blake3, size in lines
            if name in made.files and made.files[name] != FileRecord(int(size), blake3)
        ]
        if made.root not in roots and against:
            raise StoreError(
                f"{self._path / SEAL_FILE} is damaged, and what is legible of it says otherwise of {against[0]} than "
                "would be sealed now; the seal was not replaced. More than the seal is damaged, or zarr, pyarrow or "
                "amma are of other versions than the store was made with.",
                code="E_REPAIR",
            )

    def expected(self, name: str) -> FileRecord | None:
        """What the seal says of a file; None where the seal, or the table of the file's group, is lost."""
        if self.seal is None:
            return None
        return self.seal.files.get(name) or self.listed.get(name)


def same_rows(first: Path, second: Path) -> bool:
    """Whether two Parquet files hold the same table, perhaps written by different versions."""
    try:
        return bool(pq.read_table(first).equals(pq.read_table(second)))
    except (pa.ArrowException, OSError):
        return False


def _ids_of(entry: LedgerEntry | None) -> set[str]:
    return set() if entry is None else {repr(each.id) for each in entry.rejections}


def _salvage(path: Path) -> dict[str, Any]:
    """A JSON object that may be damaged, as far as it can still be read."""
    try:
        data = read_regular(path)
        value = json.loads(data) if len(data) <= MOST_DOCUMENT_BYTES else None
    except (CorruptStoreError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
