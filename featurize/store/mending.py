"""Put files in their places in a damaged store, whatever stands there now."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from amma.featurize.store.documents import open_regular
from amma.featurize.store.ledger import REPAIR_FOLDER, entries_below
from amma.featurize.store.lock import StoreLock
from amma.featurize.store.shard import FileRecord, make_folder
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.files import fsync_directory, write_atomically


class Mending:
    """Replaces files of the store at `path`, only while `lock` is held; `replaced` says which."""

    def __init__(self, path: Path, lock: StoreLock) -> None:
        self._path = path
        self._lock = lock
        self.scratch = path / REPAIR_FOLDER
        """Where files are made that are then moved into place."""
        self.replaced: list[str] = []

    def unlink_links(self, names: Iterable[str]) -> None:
        """Remove symbolic links that stand for a file of these names or a folder above one; never their targets."""
        links = [Path(entry.path) for entry in entries_below(self._path) if entry.is_symlink()]
        if links:
            own = {path.as_posix() for name in names for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
            for link in links:
                if link.relative_to(self._path).as_posix() in own:
                    link.unlink()

    def record(self, name: str) -> FileRecord | None:
        """Size and hash of a file as it is; None if it is missing or cannot be read."""
        try:
            handle = open_regular(self._path / name)
        except CorruptStoreError:
            return None
        with handle:
            return FileRecord.read(handle)

    def put(self, name: str, data: bytes) -> None:
        """Write a file, in place of whatever is there."""
        self.clear(name)
        write_atomically(self._path / name, data)
        self.replaced.append(name)

    def move(self, name: str) -> None:
        """Move a file from `scratch`, where it was made durable, to its place."""
        self.clear(name)
        (self.scratch / name).replace(self._path / name)
        fsync_directory((self._path / name).parent)
        self.replaced.append(name)

    def clear(self, name: str) -> None:
        """Make the folders of a file, and room for it where something else has its name or theirs."""
        self._lock.check()
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            folder = self._path / parent
            if folder.exists() and not folder.is_dir():
                folder.unlink()
        path = self._path / name
        make_folder(path.parent)
        if path.is_dir() and not path.is_symlink():
            try:
                path.rmdir()
            except OSError as error:
                raise StoreError(
                    f"{path}: is a folder with things in it, where a file of the store belongs. Move it away, then "
                    "run the same command again.",
                    code="E_REPAIR",
                ) from error
