"""Fetch the repository of a text encoder into the Hugging Face cache: one format of weights, at one commit, checked.

The hub's own client finds, resumes and stores files. It compares sizes only; hashes are compared here.
"""

import hashlib
import sys
from pathlib import Path

from amma.featurize.encoders.pins import decisive_files
from amma.featurize.encoders.weights import TEXT_FILES, one_line, sha256_of_weights
from amma.manifests.errors import WeightsError
from amma.manifests.known_weights import KnownWeights

FORMATS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
"""How weights are called, in the order of preference; a sharded model also has an index."""


def download_repository(known: KnownWeights) -> Path:
    """Fetch what an encoder needs of `known`'s repository; the folder it is in.

    Raises `WeightsError`: `E_DOWNLOAD` when it cannot be had, `E_WEIGHTS` for a file that is not what the hub says.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    repository = str(known.huggingface)
    (enable_progress_bars if sys.stderr.isatty() else disable_progress_bars)()
    try:
        wanted = wanted_files(HfApi().list_repo_files(repository, revision=known.revision))
        folder = Path(snapshot_download(repository, revision=known.revision, allow_patterns=wanted))
    # The hub's client and the HTTP library below it have a score of classes, which change with their versions.
    except Exception as error:
        raise WeightsError(
            f"{known.address}: cannot be fetched ({one_line(error)}). Run the same command again to go on, or put the "
            f"repository's files into a folder {known.file} of the weights folder.",
            code="E_DOWNLOAD",
        ) from error
    for name in wanted:
        if not is_what_the_hub_says(folder / name):
            remove_files(folder)
            raise WeightsError(
                f"{folder / name}: damaged on its way, its hash is not the hub's; the files were removed. "
                "Run the same command again."
            )
    return folder


def wanted_files(names: list[str]) -> list[str]:
    """Of a repository's files those of an encoder: configuration, tokenizer, and weights in one format."""
    for start, end in FORMATS:
        weights = [name for name in names if "/" not in name and name.startswith(start) and end in name]
        if weights:
            return [name for name in names if name in TEXT_FILES] + weights
    raise ValueError("it has neither model.safetensors nor pytorch_model.bin")


def is_what_the_hub_says(file: Path) -> bool:
    """Compare a cached file with the hash that the cache names it by: sha256, or git's for a small file."""
    blob = file.resolve()
    name = blob.name
    if len(name) == 64:
        return sha256_of_weights(blob) == name
    if len(name) == 40 and "." not in name:
        data = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == name
    return True  # a cache without links, which does not keep hashes


def remove_files(folder: Path) -> None:
    """Take an encoder's files out of the cache, with what they link to."""
    for file in decisive_files(folder):
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
