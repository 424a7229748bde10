"""Every file of a sealed store with the size and hash that it must have, from the seal down."""

from collections.abc import Iterator
from functools import cached_property

from amma.featurize.store.catalogue import checked_file
from amma.featurize.store.digests import Digests
from amma.featurize.store.documents import parse_document
from amma.featurize.store.files import Files
from amma.featurize.store.header import Header, parse_header
from amma.featurize.store.layout import LEDGER_GROUP, PLAN_FILE, SEAL_FILE, digest_file, ledger_file
from amma.featurize.store.ledger import LedgerEntry
from amma.featurize.store.seal import Seal, parse_seal
from amma.featurize.store.shard import FileRecord
from amma.manifests.errors import CorruptStoreError, StoreError


class Contents:
    """What a sealed store consists of, wherever it is; nothing is believed before its hash was checked.

    Raises `StoreError` `E_UNSEALED` if it is not sealed; everything here raises `CorruptStoreError` for a file that is
    not what it should be.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        if not files.exists(SEAL_FILE):
            raise StoreError(
                f"{files.where}: not sealed, so not whole. Finish it with the command that began it.", code="E_UNSEALED"
            )
        self.seal_bytes = files.read(SEAL_FILE)
        self.seal: Seal = parse_seal(self.seal_bytes, f"{files.where}/{SEAL_FILE}")
        plan = checked_file(files, PLAN_FILE, self.seal.files.get(PLAN_FILE))
        self.header: Header = parse_header(plan, f"{files.where}/{PLAN_FILE}")

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The files of each group that has a table in `digests`."""
        return self.header.layout.groups()

    def group(self, name: str) -> list[tuple[str, FileRecord]]:
        """The files of a group."""
        table = Digests(checked_file(self._files, digest_file(name), self.seal.files.get(digest_file(name))))
        if len(table) != len(self.groups[name]):
            raise CorruptStoreError(f"{self._files.where}/{digest_file(name)}: is of another plan.")
        return [(file, table[number]) for number, file in enumerate(self.groups[name])]

    @cached_property
    def ledger(self) -> list[tuple[str, FileRecord]]:
        """The ledger's entries, by unit."""
        return self.group(LEDGER_GROUP)

    def entry(self, unit: int) -> LedgerEntry:
        """The ledger entry of a unit, which lists the unit's files."""
        data = checked_file(self._files, ledger_file(unit), self.ledger[unit][1])
        return LedgerEntry.from_json(parse_document(data, f"{self._files.where}/{ledger_file(unit)}"))

    def everything(self) -> Iterator[tuple[str, FileRecord]]:
        """Every file but the seal; `plan.json` first."""
        yield PLAN_FILE, self.seal.files[PLAN_FILE]
        yield from ((name, record) for name, record in self.seal.files.items() if name != PLAN_FILE)
        for name in self.groups:
            yield from self.ledger if name == LEDGER_GROUP else self.group(name)
        for unit in range(self.header.num_units):
            yield from self.entry(unit).files.items()
