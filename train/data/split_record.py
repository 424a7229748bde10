"""The validation split that a run was begun with, so that it goes on with that one and no other.

    RUN_DIR/split.json    the ids of the validation proteins, where their clusters came from, and the ids of the
                          triplets that were trained on where these are a subset

How sequences are clustered depends on what is installed; a run must not depend on it once it has begun. It also spares
the clustering when a run goes on.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from amma.manifests.errors import InputError
from amma.manifests.files import write_json_atomically

FORMAT_VERSION = "1.1"


@dataclass(frozen=True)
class SplitRecord:
    """What is known of a run's split: where its clusters came from (None without validation), and who is in it.

    `validation` is None where the ids were not kept or cannot be read: then the split has to be made again, the same
    way. `subset` is a record for others, and never read back: it follows from the settings.
    """

    origin: str | None
    validation: tuple[str, ...] | None
    subset: tuple[str, ...] | None = None

    def write(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
        record = {"clusters_from": self.origin, "validation": self.validation, "subset": self.subset}
        write_json_atomically(path, {"format": "amma-split", "version": FORMAT_VERSION, **record})

    @staticmethod
    def read(path: Path) -> "SplitRecord":
        """Read the file; raises `InputError` if it is missing, damaged, or (`E_VERSION`) of another version."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            kind, version = record["format"], str(record["version"])
            origin, validation = record["clusters_from"], tuple(map(str, record["validation"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the split of a run ({error}).") from error
        if kind != "amma-split" or version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
            raise InputError(
                f"{path}: {kind} of version {version}, this program reads amma-split {FORMAT_VERSION}. Update amma.",
                code="E_VERSION",
            )
        return SplitRecord(origin, validation)
