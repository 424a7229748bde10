"""Make a manifest of sequences, structures and descriptions: triplets, pairs, and what had to be left out.

The roster, the source that says which proteins there are, is streamed twice: once for its ids, so that a repeated id
is found before anything is parsed, once to join structures and text. Structures are parsed one at a time.
"""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from amma.manifests.chains import RawChain, read_chains, select_chain
from amma.manifests.console import progress
from amma.manifests.descriptions import NO_TEXT, Texts, read_described_sequences
from amma.manifests.errors import InputError, UsageError
from amma.manifests.files import write_json_atomically
from amma.manifests.placement import num_left_out, place
from amma.manifests.quarantine import RecordError, Rejection, write_quarantine
from amma.manifests.report import BuildReport, Duplicate
from amma.manifests.sequences import SequenceRecord, clean_id, clean_sequence, read_sequences
from amma.manifests.structure_files import StructureFiles, alphafold_accession
from amma.manifests.structures import read_structure
from amma.manifests.table import Manifest, ManifestWriter, Protein

Roster = Callable[[], Iterator[SequenceRecord | Rejection]]
"""Gives the records anew each time it is called."""


def build_manifest(
    *,
    sequences: Path | None = None,
    structures: Path | None = None,
    descriptions: Path | None = None,
    out: Path,
    dry_run: bool = False,
) -> BuildReport:
    """Write the manifest `out`, and beside it `<stem>.quarantine.jsonl` and `<stem>.report.json`; give the report.

    The proteins are those of `sequences` (FASTA); without it those of `structures` (a folder or one file; ids are file
    names without suffixes, sequences the chains' residues); without it those of `descriptions` (ProtDescribe table;
    ids are `EntryName`). A structure that fails is quarantined and its protein kept as what is left. `dry_run` does
    all of the work and writes nothing.

    Raises `UsageError` without any input, if `out` is not named `.parquet`, or is there and no manifest; `InputError`
    for a source that cannot be read, for one id with two sequences (`E_DUP`), if no protein is left, and if `out`
    cannot be written (`E_OUTPUT`, `E_DISK`).
    """
    if not (sequences or structures or descriptions):
        raise UsageError("nothing to build from: give --sequences, --structures or --descriptions.")
    _check_output(out)
    files = StructureFiles(structures) if structures else None
    build = _Build(out=out, files=files)
    roster: Roster
    if sequences:
        kind, source, roster = "sequences", sequences, partial(read_sequences, sequences)
    elif files and structures:
        kind, source, roster = "structures", structures, partial(build.structure_records, files)
    elif descriptions:
        kind, source, roster = "descriptions", descriptions, partial(read_described_sequences, descriptions)
    survey = _Survey.of_files(files) if files and kind == "structures" else _Survey.of_records(roster(), source)
    texts = Texts.load(descriptions, survey.first) if descriptions else None
    with ExitStack() as stack:
        stack.enter_context(_unwritable_is_said(out))
        if not dry_run:
            out.parent.mkdir(parents=True, exist_ok=True)
        advance = stack.enter_context(progress("building", survey.read, unit="records"))
        writer = None if dry_run else stack.enter_context(ManifestWriter(out))
        for record in roster():
            advance(1)
            protein = build.protein(record, survey, texts, source)
            if protein is not None and writer is not None:
                writer.write(protein)
        report = build.report(survey, texts, kind, source)
        report.check()
        if not report.records["stored"]:
            first = f": {report.rejections[0].code}: {report.rejections[0].reason}" if report.rejections else ""
            raise InputError(f"{source}: none of its {survey.read} records can be used{first}.")
        if not dry_run:
            write_quarantine(out.with_name(f"{out.stem}.quarantine.jsonl"), report.rejections)
            write_json_atomically(out.with_name(f"{out.stem}.report.json"), report.to_json())
    return report


def _check_output(out: Path) -> None:
    """Refuse to write over anything but an earlier manifest."""
    if out.suffix != ".parquet":
        raise UsageError(f"{out}: the name of a manifest ends in .parquet. OUT comes last: amma-manifest build … OUT.")
    if out.exists():
        try:
            Manifest(out)
        except InputError as error:
            raise UsageError(f"{out} is there and is no manifest; it was not touched. Give another OUT.") from error


@contextmanager
def _unwritable_is_said(out: Path) -> Iterator[None]:
    """Turn a full disk into `InputError` `E_DISK`, a folder without the right to write into `E_OUTPUT`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{out}: the disk is full. Make room and build again.", code="E_DISK") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"{out}: cannot be written ({os.strerror(error.errno)}). Give an OUT in a folder of yours.",
                code="E_OUTPUT",
            ) from error
        raise


@dataclass
class _Survey:
    """What one pass over a roster tells: how many records, and where each id occurs first."""

    read: int = 0
    first: dict[str, int] = field(default_factory=dict)
    duplicates: list[Duplicate] = field(default_factory=list)

    @classmethod
    def of_records(cls, records: Iterator[SequenceRecord | Rejection], source: Path) -> "_Survey":
        survey = cls()
        digests: dict[str, bytes] = {}
        for record in records:
            survey.read += 1
            if isinstance(record, Rejection):
                continue
            digest = hashlib.blake2b(record.sequence.encode(), digest_size=16).digest()
            if record.id not in survey.first:
                survey.first[record.id] = record.position
                digests[record.id] = digest
            elif digests[record.id] == digest:
                survey.duplicates.append(Duplicate(record.id, record.position, survey.first[record.id]))
            else:
                raise InputError(
                    f"{source}: records {survey.first[record.id]} and {record.position} are both called {record.id!r} "
                    "but have different sequences. Ids must tell proteins apart: rename one.",
                    code="E_DUP",
                )
        return survey

    @classmethod
    def of_files(cls, files: StructureFiles) -> "_Survey":
        """As `of_records`, without parsing: file names are ids, and no two are equal."""
        return cls(read=len(files), first={stem: position for position, stem in enumerate(files, start=1)})


@dataclass
class _Build:
    """The state of one build: the sets and counts that the report is made of."""

    out: Path
    files: StructureFiles | None
    rejections: list[Rejection] = field(default_factory=list)
    rejected_records: int = 0
    duplicates: int = 0
    used: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    residues: int = 0
    unresolved: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)

    def protein(
        self, record: SequenceRecord | Rejection, survey: _Survey, texts: Texts | None, source: Path
    ) -> Protein | None:
        """The manifest row of a roster record; None if it is rejected or repeats an earlier one."""
        if isinstance(record, Rejection):
            self.rejections.append(record)
            self.rejected_records += 1
            return None
        if survey.first[record.id] != record.position:
            self.duplicates += 1
            return None
        found = self._structure(record)
        name, function, location, similarity = texts.take(record.id, record.sequence) if texts else NO_TEXT
        protein = Protein(
            id=record.id,
            sequence=record.sequence,
            structure=found.path if found else None,
            structure_sha256=found.sha256 if found else None,
            chain=found.chain if found else None,
            unresolved=found.unresolved if found else (),
            name=name,
            function=function,
            location=location,
            similarity=similarity,
            accession=record.accession,
            source=source.name,
        )
        self.kinds[protein.kind] += 1
        self.residues += len(protein.sequence)
        self.unresolved["proteins"] += bool(protein.unresolved)
        self.unresolved["residues"] += len(protein.unresolved)
        return protein

    def _structure(self, record: SequenceRecord) -> "_Structure | None":
        """The structure of a record; None if there is none, or if it fails (then it is quarantined)."""
        stem = self.files.find(record.id, record.accession) if self.files else None
        if self.files is None or stem is None:
            return None
        path = self.files.path(stem)
        try:
            data, chain = _read_chain(path, record.id)
            placed, unresolved = place(chain, record.sequence)
        except RecordError as error:
            self.rejections.append(error.rejection(id=record.id, source=str(path), position=None))
            self.failed.add(stem)
            return None
        self.used.add(stem)
        tag = num_left_out(chain, placed)
        self.tags["proteins"] += tag > 0
        self.tags["residues"] += tag
        # abspath keeps links as the user named them; the folder is resolved because Manifest.folder is.
        relative = os.path.relpath(os.path.abspath(path), self.out.resolve().parent)  # noqa: PTH100
        return _Structure(Path(relative).as_posix(), hashlib.sha256(data).hexdigest(), chain.name, unresolved)

    def structure_records(self, files: StructureFiles) -> Iterator[SequenceRecord | Rejection]:
        """The structure files as a roster: id is the file's name, the sequence that of its chain's residues."""
        yield from files.rejections
        for position, stem in enumerate(files, start=1):
            path = files.path(stem)
            try:
                _, chain = _read_chain(path, clean_id(stem))
                record = SequenceRecord(stem, clean_sequence(chain.letters), alphafold_accession(stem), position)
            except RecordError as error:
                self.failed.add(stem)
                yield error.rejection(id=stem, source=str(path), position=None)
            else:
                yield record

    def report(self, survey: _Survey, texts: Texts | None, roster: str, source: Path) -> BuildReport:
        """All that was counted, with every rejection: those of the roster and its structures first."""
        rejections = list(self.rejections)
        structures: dict[str, int] = {}
        if self.files is not None:
            rejections += [] if roster == "structures" else self.files.rejections
            structures = {
                "found": len(self.files),
                "used": len(self.used),
                "quarantined": len(self.failed - self.used) + len(self.files.rejections),
                "unmatched": sum(stem not in self.used and stem not in self.failed for stem in self.files),
            }
        rows: dict[str, int] = {}
        if texts is not None:
            rejections += [] if roster == "descriptions" else texts.rejections
            rows = texts.counts()
        return BuildReport(
            roster=str(source),
            records={
                "read": survey.read,
                "stored": sum(self.kinds.values()),
                "quarantined": self.rejected_records,
                "duplicates": self.duplicates,
            },
            structures=structures,
            descriptions=rows,
            kinds=dict(sorted(self.kinds.items())),
            residues=self.residues,
            unresolved={key: self.unresolved[key] for key in ("proteins", "residues")},
            tags={key: self.tags[key] for key in ("proteins", "residues")},
            other_sequence=texts.other_sequence if texts else 0,
            duplicates=tuple(survey.duplicates),
            conflicts=tuple(texts.conflicts) if texts else (),
            rejections=tuple(rejections),
        )


@dataclass(frozen=True, slots=True)
class _Structure:
    """The structure columns of a manifest row."""

    path: str
    sha256: str
    chain: str
    unresolved: tuple[int, ...]


@lru_cache(maxsize=1)
def _read_chain(path: Path, protein_id: str) -> tuple[bytes, RawChain]:
    """The bytes of a structure file and its protein's chain; the last one is kept, as a roster of files asks twice."""
    data = read_structure(path)
    return data, select_chain(read_chains(data, path.name), None, protein_id)
