"""What a worker does: builds encoders once, then encodes and writes one unit after the other.

These functions run in workers of a dask cluster, in whichever thread; encoders take one unit at a time.
"""

import logging
import secrets
import threading
from dataclasses import dataclass

import amma
from amma.featurize.encoding import EncoderOrigin
from amma.featurize.store.documents import is_sealed
from amma.featurize.store.filling import write_unit
from amma.featurize.store.fingerprint import check_fingerprint, plain
from amma.featurize.store.header import Header, read_header
from amma.featurize.store.layout import UNITS_FOLDER, ledger_file, unit_name
from amma.featurize.store.ledger import remove_folder
from amma.featurize.store.plan import Plan
from amma.featurize.store.shard import StockReader, make_folder
from amma.featurize.store.unit import UnitContents
from amma.featurize.workers.task import Job, Receipt, UnitTask
from amma.manifests.errors import AmmaError, StoreError
from amma.manifests.table import Manifest, Protein

log = logging.getLogger(__name__)
_words = logging.getLogger("amma.featurize.encoding")


class _TaskOrigin(EncoderOrigin):
    """Encodes the proteins of the task in hand."""

    task: UnitTask

    def proteins(self, plan: Plan, positions: range) -> list[Protein]:
        """Those that came with the task: no worker searches the manifest for them."""
        return list(self.task.proteins)

    def take(self, task: UnitTask) -> None:
        """What `fill` fills a unit with from now on."""
        self.task = task
        self.set_aside = task.set_aside


@dataclass(frozen=True)
class _Bench:
    """What a process keeps from one unit to the next."""

    job: Job
    header: Header
    origin: _TaskOrigin
    stock: StockReader
    device: str


_lock = threading.RLock()
"""Held while encoders are built or used: they are not made for several threads."""
_benches: list[_Bench] = []


def prepare(job: Job) -> str:
    """Build the encoders, unless they are there; gives the kind of device they are on.

    Raises `StoreError` `E_CLUSTER` where the store, the manifest or this version of amma is not what the job's
    sender has, and `FingerprintError` where encoders are not.
    """
    with _lock:
        return _bench(job).device


def _bench(job: Job) -> _Bench:
    if _benches and _benches[0].job == job:
        return _benches[0]
    _benches.clear()  # first, so that two models are never in memory
    if amma.__version__ != job.version:
        raise _unlike(f"has amma {amma.__version__}, not {job.version}", "Install the same everywhere.")
    header = read_header(job.store)
    if header is None or header.plan_sha256 != job.plan_sha256:
        found = "does not see the store" if header is None else "sees another store"
        raise _unlike(f"{found} at {job.store}", "Give a path on a file system that all workers share.")
    if not job.manifest.is_file():
        raise _unlike(f"does not see the manifest {job.manifest}", "Give a path that all workers share.")
    origin = _TaskOrigin(Manifest(job.manifest), job.recipe.build())
    fingerprint = {**plain(origin.fingerprint()), "dtype": header.settings.dtype}
    check_fingerprint(header.fingerprint, fingerprint, where=f"{job.store}, on a worker")
    stock = StockReader(header.layout.zarr_documents(sealed=False))
    _benches.append(_Bench(job, header, origin, stock, _device(job)))
    return _benches[0]


def _unlike(what: str, remedy: str) -> StoreError:
    import socket

    return StoreError(f"the worker on {socket.gethostname()} {what}. {remedy}", code="E_CLUSTER")


def _device(job: Job) -> str:
    asked = job.recipe.arguments.get("device")
    if asked is None:
        return "cpu"
    from amma.featurize.encoders.device import resolve_device

    return resolve_device(str(asked)).partition(":")[0]


def _filled(bench: _Bench, task: UnitTask) -> UnitContents:
    contents = UnitContents(task.plan(bench.header), bench.header.layout, task.unit)
    bench.origin.take(task)
    bench.origin.fill(contents, lambda rows: None)
    return contents


def compute(job: Job, task: UnitTask) -> Receipt:
    """Encode and write one unit into a folder of its own in the job's scratch, and give its receipt."""
    with _lock:
        bench = _bench(job)
        contents = _filled(bench, task)
    attempt = job.scratch / f"{unit_name(task.unit)}.{secrets.token_hex(8)}"
    try:
        make_folder(attempt / UNITS_FOLDER)
        entry = write_unit(attempt, contents, bench.stock)
    except BaseException:
        remove_folder(attempt)
        raise
    if is_sealed(job.store) or (job.store / ledger_file(task.unit)).exists():
        remove_folder(attempt)  # another worker was given this unit too, and was faster: nobody waits for this one
    return Receipt(entry, attempt.name, bench.device)


def survives(job: Job, task: UnitTask) -> bool:
    """Encode what is not set aside, and write nothing; whatever is wrong with it, the process lives on to say so."""
    with _lock:
        bench = _bench(job)
        _words.disabled = True  # of those that are not what is tried
        try:
            _filled(bench, task)
        except AmmaError as error:
            log.info("while looking for what ends workers: %s", error)
        finally:
            _words.disabled = False
    return True
