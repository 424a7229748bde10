"""Encode a unit again as it was encoded when its ledger entry was made, to the bit.

A protein's features may round otherwise in another company, and one that once was too large for the memory, or made
an encoder fail, may not be so today. So the encoders are made to fail as they did then, and `encoding.py` goes the
same way again: late rejects are given again in the words of the ledger, and batches are cut where they were cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from amma.featurize.encoders.protocol import Encoded, Encoder, EncoderInput
from amma.featurize.encoding import EncoderOrigin, Encoders, batches
from amma.featurize.store.filling import Advance
from amma.featurize.store.unit import Past, UnitContents
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.table import MODALITIES, Manifest, Modality, Protein

_TOO_LARGE = RecordError("E_OOM", "did not fit into memory when the unit was encoded first", "")
_HAS_A_REJECT = RecordError("E_CRASH", "failed when the unit was encoded first", "")


class _ReplayedEncoder:
    """An encoder that fails where it failed before; see `Encoder` for the members."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name = encoder.name
        self.modality = encoder.modality
        self.width = encoder.width
        self.random_weights = encoder.random_weights
        self.remember({}, {}, {})

    def remember(
        self,
        batch_of: Mapping[str, int],
        sizes: Mapping[int, tuple[int, ...]],
        rejected: Mapping[str, RecordError],
    ) -> None:
        """What happened to the unit that comes: the batch of each id, how batches were cut, what was left out."""
        self._batch_of = batch_of
        self._sizes = sizes
        self._rejected = rejected
        self._part_of: dict[int, dict[str, int]] = {}

    def fingerprint(self) -> Mapping[str, Any]:
        return self._encoder.fingerprint()

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        return self._encoder.lengths(proteins)

    def cost(self, rows: int) -> int:
        return self._encoder.cost(rows)

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        ids = [item.protein.id for item in batch]
        number = self._batch_of.get(ids[0], -1)
        if number in self._sizes:
            if number not in self._part_of:  # the first attempt is at the whole batch
                parts = [part for part, size in enumerate(self._sizes[number]) for _ in range(size)]
                self._part_of[number] = dict(zip(ids, parts, strict=False))
            if len({self._part_of[number].get(id) for id in ids}) > 1:
                raise _TOO_LARGE
        rejected = [id for id in ids if id in self._rejected]
        if rejected:
            raise self._rejected[rejected[0]] if len(ids) == 1 else _HAS_A_REJECT
        return self._encoder.encode(batch)


class _ReplayedEncoders:
    def __init__(self, encoders: Encoders) -> None:
        self._encoders = encoders
        self.replayed = {modality: _ReplayedEncoder(encoders[modality]) for modality in MODALITIES}

    @property
    def random_weights(self) -> bool:
        return self._encoders.random_weights

    def __getitem__(self, modality: Modality) -> Encoder:
        return self.replayed[modality]

    def fingerprint(self) -> Mapping[Any, Any]:
        return self._encoders.fingerprint()


class ReplayOrigin(EncoderOrigin):
    """As `EncoderOrigin`, and able to go the way again that a unit once took."""

    def __init__(self, manifest: Manifest, encoders: Encoders) -> None:
        replayed = _ReplayedEncoders(encoders)
        super().__init__(manifest, replayed)
        self._replayed = replayed.replayed

    def refill(self, contents: UnitContents, past: Past, advance: Advance) -> None:
        """Fill a unit of which the late rejects and cut batches are known."""
        proteins = self._inputs.proteins(contents.plan, contents.positions)
        for modality, encoder in self._replayed.items():
            cut = enumerate(batches(contents, modality, encoder))
            of_modality = [each for each in past.rejections if each.reason.startswith(f"{modality}: ")]
            encoder.remember(
                {proteins[slot].id: number for number, batch in cut for slot in batch},
                {split.batch: split.sizes for split in past.splits if split.modality is modality},
                {each.id: _without_modality(each) for each in of_modality},
            )
        self.fill(contents, advance)


def _without_modality(rejection: Rejection) -> RecordError:
    """The error that became this line; its reason was given the modality in front."""
    return RecordError(rejection.code, rejection.reason.partition(": ")[2], rejection.hint)
