"""Stream the records of a FASTA file, each checked before anything downstream sees it.

Ids are data: they are kept as they are and never used as a path. The alphabet is checked here, once, because
tokenizers are lenient in dangerous ways (fair-esm 2.0 reads `<eos>` in a sequence line as a special token).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.textfile import is_clean, is_utf8, open_text

ALPHABET = "ACDEFGHIKLMNPQRSTVWYUOBZX"
"""The 20 amino acids, selenocysteine, pyrrolysine, and the ambiguous B, Z and X."""

MAX_HEADER = 64 << 10
"""Characters in a header line."""
MAX_SHOWN = 200
"""Characters of an id in `quarantine.jsonl`."""

_OTHER = re.compile(f"[^{ALPHABET}{ALPHABET.lower()}]")
# https://www.uniprot.org/help/accession_numbers
_ACCESSION = re.compile(r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}")


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """One protein of a roster: `position` is the record's number in its source (1-based)."""

    id: str
    sequence: str
    accession: str | None
    position: int


def read_sequences(path: Path) -> Iterator[SequenceRecord | Rejection]:
    """Yield the records of a FASTA file (plain or gzip) in order; one that cannot be used comes as a `Rejection`.

    The id is the header's first word; the accession its second, or the middle of `sp|P00720|…`, where that looks like
    one of UniProt's. Raises `InputError` if the file is no FASTA file, or is a damaged gzip file (`E_GZIP`; then no
    record is yielded).
    """
    from biotite.sequence.io.fasta import FastaFile

    _require_header(path)
    with open_text(path) as handle:
        for position, (header, letters) in enumerate(FastaFile.read_iter(handle), start=1):
            words = header.split(maxsplit=2)
            protein_id = words[0] if words else ""
            try:
                if len(header) > MAX_HEADER:
                    reason = f"a header of {len(header):,} characters"
                    raise RecordError("E_HEADER", reason, f"Shorten it to {MAX_HEADER:,}.")
                yield SequenceRecord(
                    clean_id(protein_id), clean_sequence(letters), find_accession(*words[:2]), position
                )
            except RecordError as error:
                yield error.rejection(id=protein_id[:MAX_SHOWN], source=str(path), position=position)


def clean_id(protein_id: str) -> str:
    """`protein_id` itself; raises `RecordError`: `E_UTF8`, or `E_ID` if it is empty or holds control characters."""
    if not protein_id:
        raise RecordError("E_ID", "a record without an id", "Begin its header with a name.")
    if not is_utf8(protein_id):
        raise RecordError("E_UTF8", f"id {protein_id!a} is not UTF-8", "Save the file as UTF-8, or rename the record.")
    if not is_clean(protein_id):
        raise RecordError("E_ID", f"id {protein_id!a} has control characters", "Rename the record.")
    return protein_id


def clean_sequence(letters: str) -> str:
    """The residues in capitals, without a final `*`.

    Raises `RecordError`: `E_EMPTY`, `E_GAP` (`-` or `.`), `E_ALPHABET` (anything but `ALPHABET`; the reason names the
    first such character and its place, counted from 1).
    """
    residues = letters.strip().removesuffix("*")
    if not residues:
        raise RecordError("E_EMPTY", "no residues", "Give a sequence, or leave the record out.")
    # Searched before upper(): capitals of some letters are two letters ("ß"), which would shift places.
    other = _OTHER.search(residues)
    if other is None:
        return residues.upper()
    where = f"{other.group()!a} at residue {other.start() + 1}"
    if other.group() in "-.":
        raise RecordError("E_GAP", f"a gap, {where}", "Give the sequence without alignment gaps.")
    raise RecordError("E_ALPHABET", f"{where} is no amino acid", f"Use {ALPHABET}; X stands for unknown.")


def find_accession(protein_id: str = "", second: str = "") -> str | None:
    """The UniProt accession in a header's first two words: `sp|P00720|LYS_BPT4`, or a second word that is one."""
    parts = protein_id.split("|")
    for candidate in (parts[1] if len(parts) == 3 and parts[0] in ("sp", "tr") else "", second):
        if _ACCESSION.fullmatch(candidate):
            return candidate
    return None


def _require_header(path: Path) -> None:
    """FASTA readers pass over what stands before the first header; a file of another kind would give no record."""
    with open_text(path) as handle:
        for line in handle:
            if line.strip() and not line.startswith(";"):
                if line.startswith(">"):
                    return
                raise InputError(f"{path}: not a FASTA file; it begins with {line[:30].strip()!r} instead of '>'.")
    raise InputError(f"{path}: a FASTA file without a record.")
