"""Remember the hash of published weights where they are first used, and refuse other ones under their name later.

Few publishers say what their files' hashes are. So the first one that is seen counts: `pins.json` in the user's cache
holds it by name of the weights and of the file, and weights that changed since are refused until they are accepted.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from amma.featurize.encoders.weights import TEXT_FILES, cache_folder, find_weights, sha256_of_weights
from amma.manifests.console import say
from amma.manifests.errors import WeightsError
from amma.manifests.files import write_json_atomically
from amma.manifests.known_weights import KnownWeights

VERSION = 1


def pins_file() -> Path:
    """Where hashes are remembered."""
    return cache_folder() / "pins.json"


def read_pins() -> dict[str, dict[str, str]]:
    """Hex sha256 by name of the weights, then by file; `WeightsError` for a damaged document."""
    path = pins_file()
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: the hashes of known weights cannot be read ({type(error).__name__}). "
            "Restore the file, or remove it: then hashes are pinned anew as they are seen."
        ) from error
    if not isinstance(document, dict) or document.get("version") != VERSION or "weights" not in document:
        raise WeightsError(
            f"{path}: not the hashes of known weights, or those of another version of amma (expected {VERSION}). "
            "Remove it: then hashes are pinned anew as they are seen."
        )
    weights: dict[str, dict[str, str]] = document["weights"]
    return weights


def hashes_of(path: Path) -> dict[str, str]:
    """Hex sha256 by name of a weights file, or of the files of a Hugging Face folder that decide the numbers."""
    if path.is_file():
        return {path.name: sha256_of_weights(path)}
    return {file.name: sha256_of_weights(file) for file in decisive_files(path)}


def decisive_files(folder: Path) -> list[Path]:
    """Configuration, tokenizer and weights of a Hugging Face folder; of several formats safetensors, as is loaded."""
    files = [folder / name for name in TEXT_FILES if (folder / name).is_file()]
    for pattern in ("model*.safetensors*", "pytorch_model*.bin*"):
        weights = sorted(file for file in folder.glob(pattern) if file.is_file())
        if weights:
            return files + weights
    return files


def check_hashes(known: KnownWeights, found: dict[str, str], *, source: str, accept: bool = False) -> None:
    """Compare hashes of `known` (as of `hashes_of`) with what its publisher states and with what was seen first.

    Raises `WeightsError`: `E_WEIGHTS` for the former, which `accept` does not change, `E_PINNED` for the latter.
    """
    if known.sha256 is not None and found.get(known.file) != known.sha256:
        raise WeightsError(
            f"{source}: sha256 is {found.get(known.file)}, its publisher states {known.sha256}: damaged, or not the "
            f"published file. Get it from {known.address} again."
        )
    pinned = read_pins().get(known.name)
    if pinned is not None and pinned != found and not accept:
        raise _changed(known, pinned, found, source)


def write_pin(known: KnownWeights, found: dict[str, str], *, source: str, accept: bool = False) -> None:
    """Remember hashes as those of `known`; `accept` puts them into the place of others, else `E_PINNED`."""
    path = pins_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            pins = read_pins()
            other = pins.get(known.name)
            if other == found:
                return
            # Another process may have seen other weights since they were compared.
            if other is not None and not accept:
                raise _changed(known, other, found, source)
            write_json_atomically(path, {"version": VERSION, "weights": {**pins, known.name: found}})
    except OSError as error:
        # A cache that cannot be written must not stop a run whose weights are fine.
        say(f"{path}: cannot be written ({error.strerror}); the hash of {known.name} is not remembered")


@contextmanager
def trusted_weights(known: KnownWeights, folder: Path | None) -> Iterator[Path]:
    """The path of published weights, as `find_weights`, if they are those that were used before.

    What was never used before is pinned when the block ends without an error: a file that cannot be loaded is not.
    """
    path = find_weights(known, folder)
    found = hashes_of(path)
    check_hashes(known, found, source=str(path))
    yield path
    write_pin(known, found, source=str(path))


def _changed(known: KnownWeights, pinned: dict[str, str], found: dict[str, str], source: str) -> WeightsError:
    file = next(name for name in sorted({*pinned, *found}) if pinned.get(name) != found.get(name))
    return WeightsError(
        f"{source}: {file} is not what was used as {known.name} before: sha256 is {found.get(file, 'absent')}, pinned "
        f"is {pinned.get(file, 'absent')}. If that is right, repeat the command that fetched it with --accept, or run "
        f"`amma-featurize weights {known.name} --accept` for a file that is there; else get the earlier one again.",
        code="E_PINNED",
    )
