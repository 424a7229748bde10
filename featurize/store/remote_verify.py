"""Check a store in a bucket against its seal: what is there, its sizes and metadata, and if asked to, every hash.

As `verify.py` does in a folder; a damaged object counts for all proteins of its unit.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from amma.featurize.store.bucket import Bucket
from amma.featurize.store.contents import Contents
from amma.featurize.store.files import ZarrFiles
from amma.featurize.store.filling import Advance, Progress
from amma.featurize.store.finding import Finding, Verification
from amma.featurize.store.layout import DIGESTS_FOLDER, LEDGER_GROUP, SEAL_FILE, ledger_file
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.remote import open_remote
from amma.featurize.store.shard import FileRecord
from amma.manifests.errors import CorruptStoreError

THREADS = 8
_LISTED = 1000


def verify_remote(
    address: str, *, quick: bool = False, progress: Progress = lambda total: nullcontext(lambda done: None)
) -> Verification:
    """Check the sealed store at `s3://BUCKET/PREFIX`: every hash, or with `quick` sizes, metadata and ledger only.

    Damage is a finding, a seal that is missing too. Raises `StoreError` `E_REMOTE` if the server cannot be reached.
    """
    return _Verifier(address, quick).run(progress)


class _Verifier:
    def __init__(self, address: str, quick: bool) -> None:
        self.address = address
        self.quick = quick
        self.bucket = Bucket(address)
        self.there = self.bucket.sizes()
        self.known = {SEAL_FILE}
        self.report = Verification(address, full=not quick, bytes=sum(self.there.values()))

    def run(self, progress: Progress) -> Verification:
        if SEAL_FILE not in self.there:
            self._find(SEAL_FILE, None, range(0), "is not there: push the store again")
            return self.report
        try:
            contents = Contents(ZarrFiles(open_remote(self.address)))
        except CorruptStoreError as error:
            self._find(SEAL_FILE, None, range(0), f"nothing can be believed: {error}")
            return self.report
        self.report.sealed, self.report.root, self.report.files = True, contents.seal.root, 1
        with progress(0 if self.quick else self.report.bytes) as advance, ThreadPoolExecutor(THREADS) as pool:
            advance(self.there[SEAL_FILE])
            self._check(contents.seal.files.items(), None, range(contents.header.num_proteins), pool, advance)
            for group, names in contents.groups.items():
                self.known.update(names)
                try:
                    files = contents.group(group)
                except CorruptStoreError:
                    continue  # its table is a finding already
                if group != LEDGER_GROUP:
                    self._check(files, None, range(contents.header.num_proteins), pool, advance)
            for unit in range(contents.header.num_units):
                self._unit(contents, unit, pool, advance)
        for name in sorted(self.there.keys() - self.known):
            self._find(name, None, range(0), "is not an object of this store")
        return self.report

    def _unit(self, contents: Contents, unit: int, pool: ThreadPoolExecutor, advance: Advance) -> None:
        self.report.files += 1
        try:
            entry = contents.entry(unit)
        except CorruptStoreError:
            self.known.update(contents.header.layout.unit_files(unit))
            self._find(ledger_file(unit), unit, range(0), "is damaged: what this unit has cannot be checked")
            return
        advance(self.there[ledger_file(unit)])
        members = range(entry.first, entry.first + entry.proteins)
        self._check(entry.files.items(), unit, members, pool, advance)

    def _check(
        self,
        files: Iterable[tuple[str, FileRecord]],
        unit: int | None,
        hit: range,
        pool: ThreadPoolExecutor,
        advance: Advance,
    ) -> None:
        chosen = list(files)
        self.report.files += len(chosen)
        self.known.update(name for name, _ in chosen)
        for (name, record), wrong in zip(chosen, pool.map(lambda each: self._wrong(*each), chosen), strict=True):
            if wrong is not None:
                self._find(name, unit, hit, wrong)
            advance(record.size)

    def _wrong(self, name: str, record: FileRecord) -> str | None:
        size = self.there.get(name)
        if size is None:
            return "is missing"
        if size != record.size:
            return f"has {size} bytes, should have {record.size}"
        small = name.endswith((".json", ".jsonl")) or name.startswith(f"{DIGESTS_FOLDER}/")
        if (self.quick and not small) or self.bucket.blake3(name, size) == record.blake3:
            return None
        return "its content is not what was written (BLAKE3)"

    def _find(self, name: str, unit: int | None, hit: range, reason: str) -> None:
        names: tuple[str, ...] = ()
        if unit is not None and hit:
            try:
                with FeatureStore(self.address) as store:
                    names = tuple(store.ids[number] for number in hit[:_LISTED])
            except CorruptStoreError:
                names = tuple(f"number {number}" for number in hit[:_LISTED])
        self.report.findings.append(Finding(name, unit, names, reason, len(hit)))
