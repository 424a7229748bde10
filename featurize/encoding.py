"""Fill a unit with what the frozen encoders give, and set aside single proteins that cannot be encoded.

Batches are a pure function of the plan: within a unit and a modality, longest first, as many as the token budget
allows. A batch that fails is taken apart: what fails alone is rejected, the rest runs again without it. A batch that
does not fit into memory is halved, and its halves are, until they fit; how it was cut is noted in the unit's ledger
entry, since sums may round otherwise in another company (`replay.py` reads it).
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from amma.featurize.encoders.protocol import Encoded, Encoder, EncoderInput
from amma.featurize.inputs import PlannedInputs
from amma.featurize.loaded import loaded_module
from amma.featurize.store.filling import Advance
from amma.featurize.store.plan import Plan, Survey, survey
from amma.featurize.store.unit import Split, UnitContents
from amma.manifests.errors import AmmaError, InputError, StoreError
from amma.manifests.quarantine import RecordError
from amma.manifests.structures import load_chain
from amma.manifests.table import MODALITIES, Manifest, Modality, Protein

log = logging.getLogger(__name__)

FAILURES_OF_AN_ENCODER = 4
"""When at least so many proteins of a unit fail in a modality, and none succeeds, the encoder is at fault."""

SET_ASIDE = (
    "E_KILLED",
    "set aside: it ends the process that encodes it, or is named by --quarantine",
    "Look at this protein's input, and at the memory it needs.",
)
"""Code, reason and hint of a protein that is not encoded; the same whoever found out, as they stand in the store."""


@runtime_checkable
class Encoders(Protocol):
    """One encoder for each modality."""

    @property
    def random_weights(self) -> bool:
        """True when any of them has random weights."""

    def __getitem__(self, modality: Modality) -> Encoder: ...

    def fingerprint(self) -> Mapping[Any, Any]:
        """The fingerprints by modality."""


class EncoderOrigin:
    """The proteins of a manifest, as frozen encoders see them.

    Proteins whose ids are `set_aside` are not encoded, but rejected in the words of `SET_ASIDE`.
    """

    def __init__(self, manifest: Manifest, encoders: Encoders, *, set_aside: Collection[str] = ()) -> None:
        self._manifest = manifest
        self._encoders = encoders
        self._inputs = PlannedInputs(manifest)
        self.set_aside = frozenset(set_aside)
        self.widths = {modality: encoders[modality].width for modality in MODALITIES}
        self.random_weights = bool(encoders.random_weights)

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprints of the three encoders."""
        return dict(self._encoders.fingerprint())

    def survey(self) -> Survey:
        """One pass over the manifest; no encoder runs. Raises `InputError` if it lacks a protein that is set aside."""
        unseen = set(self.set_aside)

        def noted() -> Iterator[Protein]:
            for protein in self._manifest:
                unseen.discard(protein.id)
                yield protein

        surveyed = survey(noted(), self._measure, source=str(self._manifest.path))
        if unseen:
            raise InputError(
                f"{self._manifest.path}: has no protein {min(unseen)!r}, which is to be set aside "
                f"({len(unseen)} such ids). Give ids of this manifest, one a line."
            )
        return surveyed

    def _measure(self, batch: Sequence[Protein]) -> dict[Modality, list[int]]:
        rows = {}
        for modality in MODALITIES:
            having = [number for number, protein in enumerate(batch) if modality in protein.modalities]
            rows[modality] = [0] * len(batch)
            lengths = self._encoders[modality].lengths([batch[number] for number in having])
            for number, length in zip(having, lengths, strict=True):
                rows[modality][number] = length
        for number, length in enumerate(rows[Modality.SEQ]):
            if not length:
                # Left out whole, with no rows in any array; `fill` says why.
                for modality in MODALITIES:
                    rows[modality][number] = 0
        return rows

    def identities(self, rows: Int64[np.ndarray, " n"]) -> tuple[list[str], list[str]]:
        """The ids and sequences of some manifest rows."""
        table = self._inputs.table(rows, ["id", "sequence"])
        return table.column("id").to_pylist(), table.column("sequence").to_pylist()

    def proteins(self, plan: Plan, positions: range) -> list[Protein]:
        """The proteins of consecutive plan positions."""
        return self._inputs.proteins(plan, positions)

    def fill(self, contents: UnitContents, advance: Advance) -> None:
        """Encode one unit; the sequence first, since a protein without it is left out whole."""
        _limit_threads(contents.plan.settings.threads)
        proteins = self.proteins(contents.plan, contents.positions)
        self._reject_unplanned(contents, proteins)
        left_out: set[int] = set()
        for modality in MODALITIES:
            crashed = succeeded = 0
            encoder = self._encoders[modality]
            for number, batch in enumerate(batches(contents, modality, encoder)):
                slots = [slot for slot in batch if slot not in left_out]
                results, sizes = self._encode(modality, encoder, [proteins[slot] for slot in slots])
                if len(sizes) > 1:
                    contents.splits.append(Split(modality, number, sizes))
                for slot, result in zip(slots, results, strict=True):
                    error = self._take(contents, modality, slot, proteins[slot], result)
                    succeeded += error is None
                    crashed += error is not None and error.code in (_CRASH, _OUT_OF_MEMORY)
                    if error is not None and modality is Modality.SEQ:
                        left_out.add(slot)
                advance(sum(int(contents.length[modality][slot]) for slot in batch))
            if crashed >= FAILURES_OF_AN_ENCODER and not succeeded:
                raise StoreError(
                    f"the {modality} encoder {encoder.name} failed on each of {crashed} proteins of unit "
                    f"{contents.unit}; that is not the proteins' fault. See the messages above, or use --debug.",
                    code="E_ENCODER",
                )

    def _reject_unplanned(self, contents: UnitContents, proteins: Sequence[Protein]) -> None:
        """Have the sequence encoder say why it gives a protein no rows: without them it has no place in any array."""
        unplanned = np.flatnonzero(contents.length[Modality.SEQ] == 0).tolist()
        for slot in unplanned:
            (result,), _ = self._encode(Modality.SEQ, self._encoders[Modality.SEQ], [proteins[slot]])
            if not isinstance(result, RecordError):
                reason = f"the encoder gave {len(result.features)} rows, planned were none"
                result = RecordError("E_LENGTH", reason, "Report it: lengths must be known before encoding.")
            self._reject(contents, Modality.SEQ, slot, proteins[slot], result)
        if unplanned:
            log.info("unit %d: %d proteins left out as planned", contents.unit, len(unplanned))

    def _take(
        self, contents: UnitContents, modality: Modality, slot: int, protein: Protein, result: Encoded | RecordError
    ) -> RecordError | None:
        """Put a result into the unit, or note why not; gives the reason."""
        try:
            if isinstance(result, RecordError):
                raise result
            contents.put(modality, slot, protein.id, result)
        except RecordError as error:
            self._reject(contents, modality, slot, protein, error)
            log.warning("%r left out: %s", protein.id, error.reason)
            return error
        return None

    def _reject(
        self, contents: UnitContents, modality: Modality, slot: int, protein: Protein, error: RecordError
    ) -> None:
        row = int(contents.plan.order[contents.positions.start + slot])
        # Paths in a reason are shortened to what the manifest says: no machine's folders in the store.
        error.reason = f"{modality}: {error.reason}".replace(f"{self._manifest.folder}/", "")
        contents.reject(modality, slot, error.rejection(id=protein.id, source="manifest", position=row + 1))

    def _encode(
        self, modality: Modality, encoder: Encoder, proteins: list[Protein]
    ) -> tuple[list[Encoded | RecordError], tuple[int, ...]]:
        """The features of each protein or why it has none, and the sizes of the parts that memory allowed."""
        results: dict[int, Encoded | RecordError] = {}
        inputs: dict[int, EncoderInput] = {}
        for number, protein in enumerate(proteins):
            try:
                if protein.id in self.set_aside:
                    raise RecordError(*SET_ASIDE)
                chain = load_chain(self._manifest, protein) if modality is Modality.STR else None
                inputs[number] = EncoderInput(protein, chain)
            except RecordError as error:
                results[number] = error
        encoded, sizes = _encode_in_parts(encoder, list(inputs.values()))
        results |= dict(zip(inputs, encoded, strict=True))
        return [results[number] for number in range(len(proteins))], sizes


def batches(contents: UnitContents, modality: Modality, encoder: Encoder) -> list[list[int]]:
    """The slots of a unit cut into batches: longest first, each within the token budget or a single protein."""
    budget = contents.plan.settings.token_budget
    length = contents.length[modality]
    result: list[list[int]] = []
    left = 0
    for slot in sorted(contents.planned(modality), key=lambda slot: (-int(length[slot]), slot)):
        cost = encoder.cost(int(length[slot]))
        if cost > left:
            result.append([])
            left = budget
        result[-1].append(slot)
        left -= cost
    return result


_CRASH = "E_CRASH"
_OUT_OF_MEMORY = "E_OOM"


def _encode_in_parts(
    encoder: Encoder, items: Sequence[EncoderInput]
) -> tuple[list[Encoded | RecordError], tuple[int, ...]]:
    """Encode a batch whole, or in halves of halves as memory allows; also gives the sizes of the parts, in order."""
    if not items:
        return [], ()
    first = _attempt(encoder, items)
    if not isinstance(first, RecordError):
        return list(first), (len(items),)
    if len(items) == 1:
        return [first], (1,)
    if first.code == _OUT_OF_MEMORY:
        _give_memory_back()
        half = (len(items) + 1) // 2
        head, head_sizes = _encode_in_parts(encoder, items[:half])
        tail, tail_sizes = _encode_in_parts(encoder, items[half:])
        return head + tail, head_sizes + tail_sizes
    return _isolate(encoder, items)


def _isolate(encoder: Encoder, items: Sequence[EncoderInput]) -> tuple[list[Encoded | RecordError], tuple[int, ...]]:
    """Find out which items of a batch fail alone, and encode the others together, if only they can be."""
    alone: list[Encoded | RecordError] = []
    for item in items:
        result = _attempt(encoder, [item])
        alone += [result] if isinstance(result, RecordError) else result
    healthy = [number for number, result in enumerate(alone) if not isinstance(result, RecordError)]
    if len(healthy) < 2:
        return alone, (len(items),)
    together = _attempt(encoder, [items[number] for number in healthy]) if len(healthy) < len(items) else None
    if together is None or isinstance(together, RecordError):
        return alone, (1,) * len(items)  # they fail in company only
    for number, encoded in zip(healthy, together, strict=True):
        alone[number] = encoded
    return alone, (len(items),)


def _attempt(encoder: Encoder, items: Sequence[EncoderInput]) -> Sequence[Encoded] | RecordError:
    """Encode a batch; a failure of any kind that may lie in one of its proteins comes back as a `RecordError`."""
    try:
        results = encoder.encode(items)
    except AmmaError:
        raise
    except RecordError as error:
        return error
    except Exception as error:
        out_of_memory = is_out_of_memory(error)
        log.debug("%s encoder", encoder.modality, exc_info=True)
        log.warning("%s encoder failed on %d proteins: %s", encoder.modality, len(items), str(error).split("\n")[0])
        # The message itself may hold addresses or sizes of this machine; the store must not.
        reason = f"the encoder failed on it alone ({type(error).__name__})"
        return RecordError(_OUT_OF_MEMORY if out_of_memory else _CRASH, reason, "Look at this protein's input.")
    if len(results) != len(items):
        raise StoreError(f"the {encoder.modality} encoder gave {len(results)} results for {len(items)} proteins")
    if not all(_is_finite(result) for result in results):
        reason = "the encoder gave numbers that are not finite"
        return RecordError("E_NONFINITE", reason, "Look at this protein's input; the rest is not affected.")
    return results


def _is_finite(encoded: Encoded) -> bool:
    return bool(np.isfinite(encoded.features).all() and (encoded.cls is None or np.isfinite(encoded.cls).all()))


def is_out_of_memory(error: Exception) -> bool:
    """Python's, CUDA's and the CPU allocator's way of saying it; the last is told apart by its words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _give_memory_back() -> None:
    """Free what torch keeps of GPU memory for later, so that the halves of a batch find one large piece."""
    torch = loaded_module("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _limit_threads(threads: int | None) -> None:
    """Make torch use as many threads as the plan says; encoders that do not use torch have not loaded it."""
    torch = loaded_module("torch")
    if torch is not None and threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
