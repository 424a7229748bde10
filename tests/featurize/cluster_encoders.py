"""Encoders that workers build by name: those of `conftest.py`, some proteins of which end the process."""

import os
import signal
import time
from collections.abc import Sequence

from conftest import FakeEncoders

from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.manifests.table import Modality


def build(fatal: tuple[str, ...] = (), together: int = 0, seconds: float = 0.0, layer: int = 1) -> FakeEncoders:
    """Encoders that are killed by a `fatal` protein, or by so many `together`, and take `seconds` for a batch."""
    encoders = FakeEncoders()
    encoders[Modality.SEQ].layer = layer
    for encoder in encoders.encoders.values():
        encoder.encode = _deadly(encoder.encode, frozenset(fatal), together, seconds)  # type: ignore[method-assign]
    return encoders


def _deadly(encode, fatal, together, seconds):  # type: ignore[no-untyped-def]
    def encode_or_die(batch: Sequence[EncoderInput]) -> list[Encoded]:
        time.sleep(seconds)
        if any(item.protein.id in fatal for item in batch) or 0 < together <= len(batch):
            os.kill(os.getpid(), signal.SIGKILL)
        encoded: list[Encoded] = encode(batch)
        return encoded

    return encode_or_die


def of_another_machine() -> FakeEncoders:
    """Encoders whose library is not installed."""
    from no_such_library import encoders

    return encoders  # type: ignore[no-any-return]
