"""The maps between numbers and the int8 codes that a recoded store has in their place: one line for each channel.

Codes run from -127 to 127; -128, the fill value, stands for "not there". The maps are small arrays of the store,
`<m>/scale`, `<m>/offset` and `<m>/error`; the fingerprint has a hash over scales and offsets, so that stores that share
them are read as one.

Legend: R rows, D channels.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int8

from amma.featurize.store.layout import Layout
from amma.featurize.store.moments import ChannelMoments
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import MODALITIES, Modality

LARGEST_CODE = 127
FINGERPRINT_KEY = "int8"
"""Under this the fingerprint of a recoded store says what its numbers were (`from`), and the hash of its `maps`."""


@dataclass(frozen=True, slots=True)
class Affine:
    """number = code · `scale` + `offset`; a channel that holds one value has scale 0, so it is exact.

    `error` is what was measured over all rows: the RMS of the error in units of the channel's σ.
    """

    scale_D: Float32[np.ndarray, " D"]
    offset_D: Float32[np.ndarray, " D"]
    error_D: Float32[np.ndarray, " D"]

    @classmethod
    def spanning(cls, least_D: Float[np.ndarray, " D"], most_D: Float[np.ndarray, " D"]) -> "Affine":
        """The map whose codes span these ranges; its error is not measured yet."""
        least_D, most_D = least_D.astype(np.float64), most_D.astype(np.float64)
        scale_D = ((most_D - least_D) / (2 * LARGEST_CODE)).astype(np.float32)
        offset_D = ((most_D + least_D) / 2).astype(np.float32)
        return cls(scale_D, offset_D, np.zeros(len(scale_D), dtype=np.float32))

    def codes(self, rows_RD: Float[np.ndarray, "R D"]) -> Int8[np.ndarray, "R D"]:
        """The nearest code of each number."""
        steps_RD = rows_RD.astype(np.float32)
        steps_RD -= self.offset_D
        steps_RD /= np.where(self.scale_D > 0, self.scale_D, np.float32(1))
        np.rint(steps_RD, out=steps_RD)
        np.clip(steps_RD, -LARGEST_CODE, LARGEST_CODE, out=steps_RD)
        codes_RD: Int8[np.ndarray, "R D"] = steps_RD.astype(np.int8)
        return codes_RD

    def numbers(self, codes_RD: Int8[np.ndarray, "R D"]) -> Float32[np.ndarray, "R D"]:
        """The numbers that codes stand for."""
        numbers_RD: Float32[np.ndarray, "R D"] = codes_RD.astype(np.float32)
        numbers_RD *= self.scale_D
        numbers_RD += self.offset_D
        return numbers_RD

    def moments(self, codes: ChannelMoments) -> ChannelMoments:
        """The moments of the numbers, from those of their codes."""
        scale_D, offset_D = self.scale_D.astype(np.float64), self.offset_D.astype(np.float64)
        return ChannelMoments(codes.count, codes.total * scale_D + codes.count * offset_D, codes.m2 * scale_D**2)

    def arrays(self) -> tuple[Float32[np.ndarray, " D"], ...]:
        """In the order of `Layout.channel_arrays`."""
        return self.scale_D, self.offset_D, self.error_D


Affines = Mapping[Modality, Affine]


def relative(error_D: Float64[np.ndarray, " D"], sigma_D: Float64[np.ndarray, " D"]) -> Float32[np.ndarray, " D"]:
    """Errors in units of σ; 0 where there is none, infinite where a channel that does not vary has one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_D: Float32[np.ndarray, " D"] = np.where(error_D == 0, 0.0, error_D / sigma_D).astype(np.float32)
    return ratio_D


def affine_files(layout: Layout, affines: Affines) -> dict[str, bytes]:
    """The arrays' files, by name."""
    return {
        spec.chunk_file(0): np.ascontiguousarray(array, dtype=spec.dtype).tobytes()
        for modality in MODALITIES
        for spec, array in zip(layout.channel_arrays(modality), affines[modality].arrays(), strict=True)
    }


def affines_sha256(affines: Affines) -> str:
    """The hash over all scales and offsets that goes into the fingerprint."""
    arrays = [array for modality in MODALITIES for array in affines[modality].arrays()[:2]]
    return _sha256(array.astype("<f4").tobytes() for array in arrays)


def _sha256(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def read_affines(layout: Layout, read: Callable[[str], bytes], expected: str, where: str) -> dict[Modality, Affine]:
    """The maps of a store; raises `CorruptStoreError` if they are not those of its fingerprint."""
    data = {m: [read(spec.chunk_file(0)) for spec in layout.channel_arrays(m)] for m in MODALITIES}
    whole = all(len(part) == 4 * layout.widths[m] for m in MODALITIES for part in data[m])
    if not whole or _sha256(part for m in MODALITIES for part in data[m][:2]) != expected:
        raise CorruptStoreError(f"{where}: its scales are not those that it was written with. Recode the store again.")
    return {m: Affine(*(np.frombuffer(part, dtype="<f4").astype(np.float32) for part in data[m])) for m in MODALITIES}
