"""Find, load and fill encoder weights; every fault becomes a `WeightsError` that says what to do.

Files from the internet are read as data only: `torch.load(weights_only=True)`, with no classes allowed but those an
official format needs. Nothing here downloads (`download.py` does), and what is found need not be what was seen before
(`pins.py`).
"""

import hashlib
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amma.manifests.errors import WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.known_weights import KnownWeights

TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
"""What belongs to a text encoder beside its weights, as far as its repository has them."""

ZIP = b"PK\x03\x04"
"""How the files of today's torch begin; older ones cannot be mapped."""


def cache_folder() -> Path:
    """What AMMA keeps for a user: `$AMMA_CACHE`, else `~/.cache/amma`."""
    cache = os.environ.get("AMMA_CACHE")
    return Path(cache) if cache else Path.home() / ".cache" / "amma"


def default_folder() -> Path:
    """Where weights lie unless a folder is given: `$AMMA_CACHE/weights`, else `~/.cache/amma/weights`."""
    return cache_folder() / "weights"


def find_weights(known: KnownWeights, folder: Path | None) -> Path:
    """The path of published weights in `folder` (None: the default folder), or in the Hugging Face cache.

    Raises `WeightsError` if they are in neither; nothing is downloaded.
    """
    path = look_for_weights(known, folder)
    if path is not None:
        return path
    searched = folder or default_folder()
    elsewhere = " or the Hugging Face cache" if known.huggingface is not None else ""
    into = f" --weights {folder}" if folder else ""
    raise WeightsError(
        f"{known.file}: weights not found in {searched}{elsewhere}. Fetch them with "
        f"`amma-featurize weights {known.name} --download{into}`, or get them from {known.address} "
        f"(licence: {known.licence}) and put them into {searched}; --weights names another folder, and preset 'tiny' "
        "needs none."
    )


def look_for_weights(known: KnownWeights, folder: Path | None) -> Path | None:
    """As `find_weights`, but None where they are missing."""
    here = (folder or default_folder()) / known.file
    if here.exists():
        return here
    if known.huggingface is None:
        return None
    pinned = find_in_huggingface_cache(known.huggingface, known.revision) if known.revision else None
    return pinned or find_in_huggingface_cache(known.huggingface)


def find_in_huggingface_cache(repository: str, revision: str | None = None) -> Path | None:
    """The folder of a Hugging Face repository's files on this machine, or None; the network is not used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # A repository may also hold weights for other libraries: that those are not there does not matter.
        found = snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=[TEXT_FILES[0]])
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return Path(found)


def sha256_of_weights(path: Path) -> str:
    """Hex sha256 of a file; gigabytes that did not change are read once a process."""
    now = path.stat()
    return _sha256_of(path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, *_: int) -> str:
    return sha256_of_file(path)


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The contents of a weights file and the sha256 of its bytes."""

    path: Path
    data: Any
    sha256: str


def load_torch_file(path: Path, *, allowed: Sequence[type] = ()) -> LoadedFile:
    """Read a `.pt` or `.pth` file to the CPU as data: tensors, containers and the `allowed` classes, nothing else.

    Raises `WeightsError` for a file that is missing, cut short, no torch file, or that carries anything else (code
    above all, which is not run).
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file.")
    sha256 = sha256_of_weights(path)
    with path.open("rb") as handle:
        zipped = handle.read(len(ZIP)) == ZIP
    try:
        with torch.serialization.safe_globals(list(allowed)):
            # Files may also hold what only training needs; mapped, that takes no memory.
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # Torch's own message advises to trust the file; only the name of what it asked for is of use.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError(
            f"{path}: holds something other than weights ({f'it asks for {asked[1]}' if asked else 'or is damaged'}); "
            "it was refused and nothing in it was run. Get the file from its official address again."
        ) from error
    # What a hostile or cut file makes torch's reader raise is not one class: EOFError, KeyError, IndexError, …
    except Exception as error:
        raise WeightsError(
            f"{path}: cannot be read as a torch file, it is probably cut short ({one_line(error)}). "
            "Get it from its official address again."
        ) from error
    return LoadedFile(path, data, sha256)


def load_state(module: nn.Module, state: dict[str, Tensor], *, source: str, may_be_missing: Sequence[str] = ()) -> None:
    """Put `state` into `module`: every name and shape must fit, names in `may_be_missing` may be absent.

    Raises `WeightsError` that names the first misfits, before anything is changed.
    """
    check_state(module, state, source=source, may_be_missing=may_be_missing)
    module.load_state_dict(state, strict=False)


def check_state(
    module: nn.Module, state: dict[str, Tensor], *, source: str, may_be_missing: Sequence[str] = ()
) -> None:
    """Raise `WeightsError` unless the names and shapes of `state` are those of `module`, which may be a meta one."""
    expected = module.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in state and name not in may_be_missing]
    faults += [f"{name} is not part of this architecture" for name in state if name not in expected]
    for name in expected.keys() & state.keys():
        found, wanted = tuple(state[name].shape), tuple(expected[name].shape)
        if found != wanted:
            faults.append(f"{name} has shape {found}, expected {wanted}")
    if faults:
        shown = "; ".join(sorted(faults)[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"{source}: these are not weights of this architecture ({type(module).__name__}): {shown}{more}. "
            "Choose the encoder that these weights belong to."
        )


def fill_with_random_numbers(module: nn.Module, seed: int) -> None:
    """Fill every parameter with seeded random numbers, the same on every machine; torch's generators stay untouched.

    Embeddings get variance 1 and other matrices 1 / (number of inputs), so activations keep their scale; norm weights
    lie within 0.1 of 1 and other vectors within 0.1 of 0, so that none of them is without effect.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    owners = dict(module.named_modules())
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            # Uniform numbers are exact arithmetic on random bits; the logarithms of normal ones differ between CPUs.
            noise = torch.from_numpy(generator.random(tuple(parameter.shape), dtype=np.float32) * 2 - 1)
            if parameter.dim() >= 2:
                variance = 1.0 if isinstance(owners[owner], nn.Embedding) else 1 / parameter.shape[-1]
                parameter.copy_(noise * (3 * variance) ** 0.5)
            else:
                parameter.copy_(noise * 0.1 + (1.0 if leaf == "weight" else 0.0))


def sha256_of_state(module: nn.Module) -> str:
    """Hex sha256 over names, shapes and bytes of all parameters and buffers: the identity of weights without a file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """The first line of an error's message, shortened and without terminal escapes; its class if it has none."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "".join(character for character in first if character.isprintable())[:200]
