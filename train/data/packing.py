"""Turn proteins of a store into packed batches, in memory that is used again once nobody looks at it any more.

Legend: T tokens of one modality over the batch, D width of its features.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from amma.featurize.store.affine import Affine
from amma.featurize.store.packed import Packed, PackedProteins, RowBuffers, fresh
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.corpus import FeatureSource
from amma.train.model.batch import PackedBatch, Tokens

Pack = Callable[[FeatureSource, Sequence[int], Sequence[Modality]], PackedBatch]
"""Reads proteins in some modalities into one batch."""


class Leases:
    """Memory that comes back by itself: a piece is given out again when the last array or tensor on it is gone.

    So nothing that is in use is ever overwritten, whoever keeps it (a batch, a view, a graph that waits for its
    backward pass), and there are never more pieces than were once in use together. Safe for threads without a lock,
    which a piece that comes back during garbage collection could wait for in vain.
    """

    def __init__(self) -> None:
        self._free: dict[str, deque[np.ndarray]] = {}

    def allocate(self, name: str, size: int) -> np.ndarray:
        """`size` bytes as uint8; pieces of one name are of about the same size, and used for each other."""
        free = self._free.setdefault(name, deque())
        memory = None
        while memory is None or len(memory) < size:  # what is too small is let go: it would be too small again
            try:
                memory = free.popleft()
            except IndexError:
                memory = fresh(name, size + size // 2)  # what is never touched takes no memory
        lease: np.ndarray = np.frombuffer(memory.data, dtype=np.uint8)
        # Every view of `lease`, numpy's or torch's, keeps its base alive, and that belongs to this lease alone.
        weakref.finalize(lease.base, free.append, memory).atexit = False
        return lease[:size]

    @property
    def num_free(self) -> int:
        """How many pieces wait to be given out again."""
        return sum(map(len, self._free.values()))


class Packer:
    """Reads proteins into one packed batch on `device`; safe to call from many threads.

    In host memory a batch lies in memory that a later one takes over when nothing refers to it any more. On a GPU the
    stored bytes go through page-locked memory of the calling thread and are copied and converted on a stream of their
    own, beside what the device computes; the batch is complete when the call returns. `dtype` is that of the features,
    None for the stored one. The codes of an int8 store become numbers where the batch ends up: on a GPU half the bytes
    travel.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32) -> None:
        self._device = torch.device(device)
        self._dtype = dtype
        self._leases = Leases()
        self._scratch = threading.local()
        self._maps: dict[Modality, tuple[Affine, Tensor, Tensor]] = {}
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._consumer = torch.cuda.current_stream(self._device)

    def __call__(self, source: FeatureSource, proteins: Sequence[int], modalities: Sequence[Modality]) -> PackedBatch:
        """The rows of `proteins` in each of `modalities`, one after the other without padding.

        A structure row's position is the residue that it belongs to; sequence and text rows are numbered through.
        Every read is checked: raises `CorruptStoreError` with the protein's id; `StoreError` if a protein lacks one
        of the modalities.
        """
        wanted = [modality for modality in MODALITIES if modality in modalities]
        straight = self._stream is None and self._dtype is None
        buffers = RowBuffers(self._leases.allocate) if straight else self._thread_buffers()
        return self.packed(source.read_many([int(protein) for protein in proteins], wanted, buffers))

    def packed(self, found: PackedProteins) -> PackedBatch:
        """The batch of what was read already, for who needs more of it than a model does."""
        if self._stream is not None:
            return self._on_device(found, self._stream)
        return PackedBatch(found.ids, {m: self._on_host(str(m), packed) for m, packed in found.rows.items()})

    def _thread_buffers(self) -> RowBuffers:
        buffers: RowBuffers | None = getattr(self._scratch, "buffers", None)
        if buffers is None:
            buffers = self._scratch.buffers = RowBuffers(fresh if self._stream is None else _page_locked)
        return buffers

    def _on_host(self, name: str, packed: Packed) -> Tokens:
        stored_TD = torch.from_numpy(packed.features)
        offsets, position_T = _places(packed)
        dtype = self._dtype_of(packed)
        if dtype is None:
            return Tokens(stored_TD, offsets, position_T)
        rows, width = stored_TD.shape
        memory = self._leases.allocate(name, rows * width * dtype.itemsize)
        features_TD: Float[Tensor, "T D"] = torch.from_numpy(memory).view(dtype).view(rows, width)
        features_TD.copy_(stored_TD)
        if packed.affine is not None:
            features_TD.mul_(torch.from_numpy(packed.affine.scale_D)).add_(torch.from_numpy(packed.affine.offset_D))
        return Tokens(features_TD, offsets, position_T)

    def _on_device(self, found: PackedProteins, stream: torch.cuda.Stream) -> PackedBatch:
        # Where residues are named is looked at while it is in host memory; the features take no part in that.
        outline = {
            modality: Tokens(torch.empty(len(packed.features), 0), *_places(packed))
            for modality, packed in found.rows.items()
        }
        PackedBatch(found.ids, outline)
        moved = {}
        with torch.cuda.stream(stream):
            for modality, packed in found.rows.items():
                features_TD = torch.from_numpy(packed.features).to(self._device, non_blocking=True)
                features_TD = features_TD.to(self._dtype_of(packed))
                if packed.affine is not None:
                    scale_D, offset_D = self._on_device_once(modality, packed.affine)
                    features_TD = features_TD.mul_(scale_D).add_(offset_D)
                position_T = outline[modality].position_T.to(self._device, non_blocking=True)
                for tensor in (features_TD, position_T):
                    tensor.record_stream(self._consumer)
                moved[modality] = Tokens(features_TD, outline[modality].offsets, position_T)
            copied = stream.record_event()
        copied.synchronize()  # from here on this thread may fill its buffers again
        return PackedBatch(found.ids, moved)

    def _dtype_of(self, packed: Packed) -> torch.dtype | None:
        """What the features are to be; None: as they are stored. Codes are never given as they are."""
        return torch.float32 if self._dtype is None and packed.affine is not None else self._dtype

    def _on_device_once(self, modality: Modality, affine: Affine) -> tuple[Tensor, Tensor]:
        """Scale and offset on the device; a source has one of each for a modality, so they stay there."""
        kept = self._maps.get(modality)
        if kept is None or kept[0] is not affine:
            scale_D, offset_D = (torch.from_numpy(array).to(self._device) for array in affine.arrays()[:2])
            kept = self._maps[modality] = (affine, scale_D, offset_D)
        return kept[1:]


def _places(packed: Packed) -> tuple[Int64[Tensor, " offsets"], Int64[Tensor, " T"]]:
    """Where each protein's tokens begin, and the position of each token."""
    position = _numbered(packed.offsets) if packed.index is None or packed.index.dtype == np.uint8 else packed.index
    return torch.from_numpy(packed.offsets), torch.from_numpy(position.astype(np.int64))


def _numbered(offsets: Int64[np.ndarray, " offsets"]) -> Int64[np.ndarray, " T"]:
    numbers: Int64[np.ndarray, " T"] = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return numbers


def _page_locked(name: str, size: int) -> np.ndarray:
    memory: np.ndarray = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return memory
