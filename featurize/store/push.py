"""Copy a sealed store into a bucket, so that whoever reads there sees all of it or no store at all.

`plan.json` goes first and claims the prefix for this store; the seal goes last, when every other object was compared
with its hash. What is there already, whole, is not sent again.
"""

from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amma.featurize.store.bucket import Bucket, sha256_if_intact
from amma.featurize.store.contents import Contents
from amma.featurize.store.disk import human
from amma.featurize.store.files import LocalFiles
from amma.featurize.store.filling import Progress
from amma.featurize.store.layout import PLAN_FILE, SEAL_FILE
from amma.featurize.store.seal import parse_seal
from amma.featurize.store.shard import FileRecord
from amma.manifests.errors import CorruptStoreError, StoreError

THREADS = 4
"""Objects under way at a time; each is in memory meanwhile."""

Named = tuple[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was, or would be, sent: `sent` and `there` are objects, the seal among them; `sent_bytes` of those sent."""

    store: str
    address: str
    root: str
    sent: int
    sent_bytes: int
    there: int
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        verb = "would be sent" if self.dry_run else "sent and compared"
        return [
            f"{self.address}: {self.sent} objects ({human(self.sent_bytes)}) {verb}, {self.there} were there",
            f"root   {self.root}",
        ]


def push_store(
    store: Path,
    address: str,
    *,
    dry_run: bool = False,
    progress: Progress = lambda total: nullcontext(lambda done: None),
) -> Pushed:
    """Copy the sealed store to `s3://BUCKET/PREFIX`, or go on with that.

    Raises `StoreError` if it is not sealed (`E_UNSEALED`), if the prefix holds something else, if the server cannot be
    reached or refuses (`E_REMOTE`), or if what it keeps is not what was sent; `CorruptStoreError` for a damaged file.
    Killed at any moment, it leaves no seal there.
    """
    contents = Contents(LocalFiles(store))
    bucket = Bucket(address)
    there = bucket.sizes()
    wanted = list(contents.everything())
    _refuse_another(bucket, contents, there, {name for name, _ in wanted})
    seal = FileRecord.of(contents.seal_bytes)

    def is_there(named: Named) -> bool:
        name, record = named
        return bucket.holds(name, record, sha256_if_intact(store / name, record))

    pool = ThreadPoolExecutor(THREADS)
    try:
        same = [named for named in wanted if there.get(named[0]) == named[1].size]
        sound = {named for named, holds in zip(same, pool.map(is_there, same), strict=True) if holds}
        todo = [named for named in wanted if named not in sound]
        sealed = there.get(SEAL_FILE) == seal.size and bucket.read(SEAL_FILE) == contents.seal_bytes
        to_send = [*todo, *([] if sealed and not todo else [(SEAL_FILE, seal)])]
        result = Pushed(
            store=str(store),
            address=bucket.address,
            root=contents.seal.root,
            sent=len(to_send),
            sent_bytes=sum(record.size for _, record in to_send),
            there=len(wanted) + 1 - len(to_send),
            dry_run=dry_run,
        )
        if dry_run or not to_send:
            return result
        if SEAL_FILE in there:
            bucket.remove(SEAL_FILE)  # nobody may believe it before all is whole again
        with progress(result.sent_bytes) as advance:

            def send(named: Named) -> None:
                name, record = named
                sha256 = bucket.put(store / name, name, record)
                if not bucket.holds(name, record, sha256):
                    raise StoreError(
                        f"{bucket.address}/{name}: the server keeps something else than was sent. It is not sealed; "
                        "run the same command again.",
                        code="E_REMOTE",
                    )
                advance(record.size)

            # The plan goes before all others, the seal after them.
            first = [named for named in todo if named[0] == PLAN_FILE]
            for batch in (first, [named for named in todo if named[0] != PLAN_FILE], [(SEAL_FILE, seal)]):
                for sending in [pool.submit(send, named) for named in batch]:
                    sending.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return result


def _refuse_another(bucket: Bucket, contents: Contents, there: Mapping[str, int], names: Set[str]) -> None:
    """Raise `StoreError` unless what is at the prefix is this store, or the beginning of it."""
    found = None
    strangers = sorted(there.keys() - names - {SEAL_FILE})
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        found = f"holds what is no part of this store ({strangers[0]}{more})"
    elif SEAL_FILE in there:
        with suppress(CorruptStoreError):  # a damaged seal is sent again
            root = parse_seal(bucket.read(SEAL_FILE), f"{bucket.address}/{SEAL_FILE}").root
            if root != contents.seal.root:
                found = f"holds another store (root {root[:12]}, not {contents.seal.root[:12]})"
    elif there.get(PLAN_FILE) is not None and not bucket.holds(PLAN_FILE, contents.seal.files[PLAN_FILE], None):
        found = "holds the beginning of another store"
    if found is not None:
        raise StoreError(f"{bucket.address}: {found}. Give another prefix, or empty this one first.")
