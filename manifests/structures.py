"""From a manifest's row to the Cα of its protein, in sequence order.

Reading a file is `chains`, finding its residues in the sequence is `placement`; their names are given here too.
"""

import hashlib
import os
from pathlib import Path

from amma.manifests.archives import opened_archive, split_location
from amma.manifests.chains import MAX_STRUCTURE_BYTES, RawChain, read_chains, select_chain, structure_stem
from amma.manifests.errors import InputError
from amma.manifests.placement import Chain, place
from amma.manifests.quarantine import RecordError
from amma.manifests.table import Manifest, Protein
from amma.manifests.textfile import irregular

__all__ = [
    "Chain",
    "RawChain",
    "load_chain",
    "place",
    "read_chains",
    "read_structure",
    "select_chain",
    "structure_stem",
]


def read_structure(path: Path) -> bytes:
    """The bytes of a structure file, as they are on disk; `models.tar::P00720.pdb.gz` is a member of an archive.

    Raises `RecordError`: `E_FILE` if it cannot be read, `E_INPUT` if it is no regular file, `E_BOMB` if it is too long.
    """
    archive, member = split_location(path)
    if member is not None:
        try:
            return opened_archive(archive).read(member)
        except (InputError, OSError) as error:
            raise RecordError("E_FILE", f"{path}: {error}", "Put the archive back as it was.") from error
    try:
        # Opening a pipe would wait for a writer, but for O_NONBLOCK.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
            status = os.fstat(handle.fileno())
            if (other := irregular(status.st_mode)) is not None:
                raise RecordError("E_INPUT", f"{path}: {other}, not a regular file", "Give the file itself.")
            if status.st_size > MAX_STRUCTURE_BYTES:
                reason = f"{path}: {status.st_size:,} bytes, more than the {MAX_STRUCTURE_BYTES:,} of any structure"
                raise RecordError("E_BOMB", reason, "Leave it out.")
            return handle.read()
    except OSError as error:
        raise RecordError("E_FILE", f"{path}: {error.strerror}", "Check the file and its rights.") from error


def load_chain(manifest: Manifest, protein: Protein) -> Chain:
    """Read the structure of a manifest's protein again, exactly as it was when the manifest was built.

    Raises `RecordError`: `E_CHANGED` if the file, or what it gives, is not what the manifest says; otherwise as
    `read_structure`, `read_chains`, `select_chain` and `place`.
    """
    path = manifest.structure_path(protein)
    data = read_structure(path)
    rebuild = "Build the manifest again."
    if hashlib.sha256(data).hexdigest() != protein.structure_sha256:
        raise RecordError("E_CHANGED", f"{path} is not the file the manifest was built from", rebuild)
    chain, unresolved = place(select_chain(read_chains(data, path.name), protein.chain, protein.id), protein.sequence)
    if unresolved != protein.unresolved:
        raise RecordError("E_CHANGED", f"{path} gives other residues than the manifest says", rebuild)
    return chain
