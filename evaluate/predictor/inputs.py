"""What `amma-eval predict` is given, as a sealed store: encoded here, or as it is.

Conservation holds for all of it: records read = proteins with features + quarantined + duplicates.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amma.evaluate.predictor.encoders import EncoderSettings, build_recorded
from amma.evaluate.predictor.loaded import Predictor
from amma.evaluate.predictor.results import Kind
from amma.evaluate.tasks.task import INPUTS
from amma.featurize.run import featurize, preview_run
from amma.featurize.store.disk import human
from amma.featurize.store.layout import PLAN_FILE, QUARANTINE_FILE
from amma.featurize.store.location import is_address, parse_location
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.manifests.archives import is_archive
from amma.manifests.build import build_manifest
from amma.manifests.chains import structure_stem
from amma.manifests.console import say
from amma.manifests.errors import FingerprintError, InputError, UsageError
from amma.manifests.every_chain import build_of_chains
from amma.manifests.files import TEMPORARY_SUFFIX
from amma.manifests.quarantine import RecordError, Rejection, read_quarantine
from amma.manifests.report import BuildReport
from amma.manifests.table import Manifest

STORED = ("float16", "float32")


@dataclass(frozen=True)
class Asked:
    """What a user asks predictions for. `keep` is where the features shall stay; None: they are gone afterwards."""

    source: str
    structures: Path | None = None
    chain: str | None = None
    keep: Path | None = None
    encoders: EncoderSettings = field(default_factory=EncoderSettings)
    token_budget: int | None = None
    threads: int | None = None

    @property
    def kind(self) -> Kind:
        """`store`, `manifest`, `structures` or `sequences`. Raises `InputError` if there is nothing of that name."""
        place = parse_location(self.source)
        if is_address(place):
            return "store"
        path = Path(place)
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder. Expected FASTA, a PDB/mmCIF file or a folder of them, a manifest "
                "(.parquet), or a sealed store."
            )
        if path.is_dir():
            return "store" if (path / PLAN_FILE).is_file() else "structures"
        if path.suffix == ".parquet":
            return "manifest"
        return "structures" if structure_stem(path.name) is not None or is_archive(path.name) else "sequences"

    def check(self) -> Kind:
        """The kind; raises `UsageError` for options that would have no effect on it."""
        kind = self.kind
        wrong: dict[str, Any] = {}
        if kind != "structures":
            wrong["--chain"] = self.chain
        if kind != "sequences":
            wrong["--structures"] = self.structures
        if kind == "store":
            wrong |= {"--keep-store": self.keep, "--token-budget": self.token_budget}
            given = self.encoders.model_dump(exclude={"device"})
            wrong |= {f"--{name.replace('_', '-')}": value for name, value in given.items()}
        for option, value in wrong.items():
            if value is not None:
                raise UsageError(f"{option} has no effect on {self.source}, which is {_WHAT[kind]}. Leave it out.")
        return kind


_WHAT: dict[Kind, str] = {
    "store": "a sealed store: its proteins are encoded already",
    "manifest": "a manifest: it says itself which structures and chains",
    "structures": "structures: the sequences are theirs",
    "sequences": "a file of sequences",
}


@dataclass(frozen=True)
class Prepared:
    """Proteins with features, in the order of the input.

    Of `num_read` records of the input `num_quarantined` are not among `ids`, and `num_duplicates` repeat another one.
    `rejections` say why of the former, and of proteins of which only a part could be used.
    """

    store: FeatureStore
    ids: list[str]
    rows: list[int]
    num_read: int
    num_quarantined: int
    num_duplicates: int
    rejections: tuple[Rejection, ...]


@contextmanager
def prepared(asked: Asked, predictor: Predictor, out: Path) -> Iterator[Prepared]:
    """The features of what is asked for; encoded in a folder within `out` that is gone afterwards, or kept."""
    if asked.check() == "store":
        with FeatureStore(parse_location(asked.source)) as store:
            predictor.check_features(store.fingerprint, source=asked.source)
            yield _of_store(store)
        return
    with _workplace(asked, out) as path:
        manifest, report = _manifest(asked, path)
        encoders, settings = _encoders(asked, predictor)
        outcome = featurize(manifest, path, encoders, settings, show_progress=True)
        say(f"{path}: {'was sealed already' if outcome.was_sealed else 'encoded'}")
        with FeatureStore(path) as store:
            predictor.check_features(store.fingerprint, source=str(path))
            yield _of_manifest(store, manifest, report)


def planned(asked: Asked, predictor: Predictor) -> dict[str, Any]:
    """What `prepared` would do, as plain values; reads and checks the inputs, and writes nothing that stays."""
    if asked.check() == "store":
        with FeatureStore(parse_location(asked.source)) as store:
            predictor.check_features(store.fingerprint, source=asked.source)
            found = _of_store(store)
            return {"records": found.num_read, "proteins": len(found.ids), "quarantined": found.num_quarantined}
    with tempfile.TemporaryDirectory() as folder:
        path = asked.keep or Path(folder) / "features.zarr"
        manifest, report = _manifest(asked, Path(folder) / "features.zarr")
        encoders, settings = _encoders(asked, predictor)
        plan = preview_run(manifest, path, encoders, settings)
        return {
            "records": report.records["read"] if report else len(manifest),
            "proteins": len(manifest),
            "quarantined": report.records["quarantined"] if report else 0,
            "kinds": dict(sorted(plan.header.kinds.items())),
            "rows": {str(modality): rows for modality, rows in plan.header.rows.items()},
            "features": f"{human(plan.needed)} to be written, {human(plan.free)} are free",
        }


@contextmanager
def _workplace(asked: Asked, out: Path) -> Iterator[Path]:
    """Where the features go."""
    if asked.keep is not None:
        if asked.keep.suffix != ".zarr":
            raise UsageError(f"--keep-store {asked.keep}: the name of a store ends in .zarr.")
        asked.keep.parent.mkdir(parents=True, exist_ok=True)
        yield asked.keep
        return
    # Not in the system's folder for temporary files, which may be small: features take more room than what they are of.
    folder = out / f"features{TEMPORARY_SUFFIX}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / "features.zarr"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _manifest(asked: Asked, store: Path) -> tuple[Manifest, BuildReport | None]:
    source, kind = Path(asked.source), asked.kind
    if kind == "manifest":
        return Manifest(source), None
    out = store.parent / f"{store.stem}.manifest.parquet"
    if kind == "structures":
        report = build_of_chains(source, out, chain=asked.chain)
    else:
        report = build_manifest(sequences=source, structures=asked.structures, out=out)
    for line in report.lines():
        say(line)
    return Manifest(out), report


def _encoders(asked: Asked, predictor: Predictor) -> tuple[Any, StoreSettings]:
    facts = predictor.facts
    dtype = facts.encoders.get("dtype")
    if dtype not in STORED:
        raise FingerprintError(
            f"{predictor.folder} was tuned on features stored as {dtype}, which encoding does not give. Featurize "
            "these proteins, bring them to its scales (amma-featurize recode --int8 --like STORE), and predict of that "
            "store."
        )
    encoders = build_recorded(facts.encoders, facts.widths, asked.encoders)
    fingerprints = {str(modality): value for modality, value in encoders.fingerprint().items()}
    predictor.check_features({**facts.encoders, **fingerprints}, source="the encoders chosen here")
    given = {"dtype": dtype, "token_budget": asked.token_budget, "threads": asked.threads}
    settings = {name: value for name, value in given.items() if value is not None}
    return encoders, StoreSettings.parse(settings, source="the options")


def _of_manifest(store: FeatureStore, manifest: Manifest, report: BuildReport | None) -> Prepared:
    ids = [protein.id for protein in manifest]
    found, late = _present(store, [(name, store.row_of(name)) for name in ids])
    return Prepared(
        store=store,
        ids=[name for name, _ in found],
        rows=[row for _, row in found],
        num_read=report.records["read"] if report else len(ids),
        num_quarantined=len(ids) - len(found) + (report.records["quarantined"] if report else 0),
        num_duplicates=report.records["duplicates"] if report else 0,
        rejections=(*(report.rejections if report else ()), *late),
    )


def _of_store(store: FeatureStore) -> Prepared:
    found, late = _present(store, [(name, row) for row, name in enumerate(store.ids)])
    ids, rows = [name for name, _ in found], [row for _, row in found]
    return Prepared(store, ids, rows, store.num_proteins, store.num_proteins - len(ids), 0, late)


def _present(
    store: FeatureStore, proteins: list[tuple[str, int]]
) -> tuple[list[tuple[str, int]], tuple[Rejection, ...]]:
    """Those of `proteins` (ids and numbers) with features of residues; why others, or parts of them, have none."""
    has = np.any([store.length(modality) > 0 for modality in INPUTS], axis=0)
    known = _late_rejections(store)
    said = {rejection.id for rejection in known}
    unsaid = [
        RecordError(
            "E_ABSENT", "no features of sequence or structure", "See what was said when its store was made."
        ).rejection(id=name, source=str(store.path), position=row + 1)
        for name, row in proteins
        if not has[row] and name not in said
    ]
    return [(name, row) for name, row in proteins if has[row]], (*known, *unsaid)


def _late_rejections(store: FeatureStore) -> tuple[Rejection, ...]:
    path = store.path / QUARANTINE_FILE if isinstance(store.path, Path) else None
    return tuple(read_quarantine(path)) if path is not None and path.is_file() else ()
