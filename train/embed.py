"""Run a trained model over sealed stores into a store of its representations: the library behind `amma-train embed`.

    OUT/seq/features, str/features, func/features   the fusion encoder's output at each token, nothing masked
        seq/cls, func/cls                           one vector a protein: the mean of its rows (of the sequence: the
                                                    global token's output, where the model has one)

It is a feature store like any other, in the order of its inputs: its plan, its ledger, its seal and its checks are
those of `amma.featurize.store`, so it is killed, resumed, verified, read, exported and pushed alike. A model of the
family that gives one token for each protein and modality has one row for each.

Legend: N proteins of all inputs together, B of a batch, T rows of a batch, R of one protein, D fusion width.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.encoding import is_out_of_memory
from amma.featurize.export.run import export_store
from amma.featurize.store.filling import Advance
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.packed import PackedProteins
from amma.featurize.store.plan import Survey
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.unit import Past, Split, UnitContents
from amma.manifests.errors import FingerprintError
from amma.manifests.quarantine import RecordError
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.corpus import Corpus
from amma.train.data.packing import Packer
from amma.train.model.batch import PackedBatch
from amma.train.run.arithmetic import arithmetic, one_thread
from amma.train.run.checkpoint import MODEL, LoadedModel

Read = tuple[PackedProteins, PackedBatch]
"""Proteins as they are stored, and as the model takes them."""


@dataclass(frozen=True, slots=True)
class Represented:
    """A batch's representations in host memory: rows, which are whose, and the global tokens' of the B proteins."""

    rows: dict[Modality, Float32[np.ndarray, "T D"]]
    spans: dict[Modality, list[slice]]
    global_BD: Float32[np.ndarray, "B D"] | None


class EmbeddingOrigin:
    """The proteins of sealed stores as a trained model sees them; the `Origin` of a store of representations.

    Each goes in with those of `modalities` that it has. Raises `FingerprintError` if the model was trained on features
    of other encoders.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        corpus: Corpus,
        *,
        modalities: Sequence[Modality] = MODALITIES,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        fields = differences(loaded.store_fingerprint, corpus.fingerprint)
        if fields:
            raise FingerprintError(
                f"{corpus.stores[0].path} was not written with the encoders that {loaded.path} was trained on "
                f"(training -> store): {'; '.join(fields)}. Featurize these proteins with the settings of the "
                "pretraining store."
            )
        self.widths = dict.fromkeys(MODALITIES, loaded.model.config.width)
        self.random_weights = loaded.random_weights or corpus.random_weights
        self.modalities = tuple(each for each in MODALITIES if each in modalities and each in loaded.model.widths)
        self._loaded = loaded
        self._corpus = corpus
        self._device = torch.device(device)
        self._precision = precision
        self._model = loaded.model.to(self._device).eval()
        self._pack = Packer(self._device)
        self._stored = {modality: corpus.length(modality) for modality in self.modalities}
        # The plan draws this permutation: proteins are handed to it so that they come out in the order of the inputs.
        generator = np.random.Generator(np.random.PCG64(StoreSettings().seed))
        self._number: Int64[np.ndarray, " N"] = np.argsort(generator.permutation(corpus.num_proteins))

    def fingerprint(self) -> dict[str, Any]:
        """The model, what it is shown, and the encoders of its inputs."""
        pooled = "mean" if self._model.global_token is None else "global token"
        return {
            "model": {
                "weights": self._loaded.state["files"][MODEL]["sha256"],
                **self._model.config.model_dump(mode="json"),
            },
            "modalities": [str(modality) for modality in self.modalities],
            "precision": self._precision,
            "pooled": pooled,
            "inputs": self._corpus.fingerprint,
        }

    def survey(self) -> Survey:
        """The rows that each protein will have; the content is the inputs, by their roots."""
        lengths = {modality: np.zeros(self._corpus.num_proteins, dtype=np.int32) for modality in MODALITIES}
        for modality, stored in self._stored.items():
            lengths[modality] = (stored if self._model.per_token else np.minimum(stored, 1))[self._number]
        return Survey(lengths, sha256_of_json({"embedded": self._corpus.root_hashes}))

    def identities(self, rows: Int64[np.ndarray, " n"]) -> tuple[list[str], list[str]]:
        """Ids and sequences of rows of the survey."""
        ids, sequences = [""] * len(rows), [""] * len(rows)
        of_store: dict[int, tuple[Any, list[int], list[int]]] = {}
        for place, number in enumerate(self._number[rows].tolist()):
            store, row = self._corpus.locate(number)
            _, places, chosen = of_store.setdefault(id(store), (store, [], []))
            places.append(place)
            chosen.append(row)
        for store, places, chosen in of_store.values():
            for place, name, sequence in zip(
                places, store.entries(chosen).ids, store.sequences().take(chosen), strict=True
            ):
                ids[place], sequences[place] = name, sequence
        return ids, sequences

    def fill(self, contents: UnitContents, advance: Advance) -> None:
        """Put the representation of every protein of a unit; what cannot have one is left out and said."""
        span = slice(contents.positions.start, contents.positions.stop)
        numbers: list[int] = self._number[contents.plan.order[span]].tolist()
        self._leave_out_what_has_nothing(contents, numbers)
        batches = list(self._batches(contents, numbers))
        with (
            arithmetic(contents.plan.settings.threads, self._device),
            ThreadPoolExecutor(1, initializer=one_thread) as reader,  # reads the next batch while one is computed
        ):
            coming: list[Future[Read]] = []
            for place, (modalities, slots) in enumerate(batches):
                for following, after in batches[place + len(coming) : place + 2]:
                    coming.append(reader.submit(self._read, [numbers[slot] for slot in after], following))
                sizes = self._embed(contents, numbers, slots, modalities, coming.pop(0))
                if len(sizes) > 1:
                    contents.splits.append(Split(modalities[0], place, sizes))
                advance(sum(int(contents.length[modality][slot]) for modality in modalities for slot in slots))

    def refill(self, contents: UnitContents, past: Past, advance: Advance) -> None:
        """As `fill`; where memory once ran out and does not now, the sums may differ, and the repair says so."""
        self.fill(contents, advance)

    def _leave_out_what_has_nothing(self, contents: UnitContents, numbers: Sequence[int]) -> None:
        having = np.logical_or.reduce([contents.length[modality] > 0 for modality in MODALITIES])
        for slot in np.flatnonzero(~having).tolist():
            wanted = " or ".join(map(str, self.modalities))
            reason = f"it has no {wanted} features in its store"
            hint = "The quarantine.jsonl of that store says why, if it was left out there."
            self._reject(contents, Modality.SEQ, slot, numbers[slot], RecordError("E_ABSENT", reason, hint))

    def _batches(
        self, contents: UnitContents, numbers: Sequence[int]
    ) -> Iterator[tuple[tuple[Modality, ...], list[int]]]:
        """Slots with the same modalities, longest first, as many as the token budget allows or a single one."""
        groups: dict[tuple[Modality, ...], list[int]] = {}
        for slot in range(len(numbers)):
            has = tuple(modality for modality in self.modalities if contents.length[modality][slot])
            if has:
                groups.setdefault(has, []).append(slot)
        for modalities, slots in sorted(groups.items()):
            cost = {slot: sum(int(self._stored[m][numbers[slot]]) for m in modalities) for slot in slots}
            batch: list[int] = []
            left = 0
            for slot in sorted(slots, key=lambda slot: (-cost[slot], slot)):
                if batch and cost[slot] > left:
                    yield modalities, batch
                    batch = []
                left = (left if batch else contents.plan.settings.token_budget) - cost[slot]
                batch.append(slot)
            yield modalities, batch

    def _read(self, numbers: Sequence[int], modalities: Sequence[Modality]) -> Read:
        found = self._corpus.read_many(numbers, modalities)
        return found, self._pack.packed(found)

    def _embed(
        self,
        contents: UnitContents,
        numbers: Sequence[int],
        slots: Sequence[int],
        modalities: tuple[Modality, ...],
        coming: Future[Read] | None = None,
    ) -> tuple[int, ...]:
        """Put a batch, whole or in halves of halves as memory allows; gives the sizes of the parts, in order."""
        try:
            wanted = [numbers[slot] for slot in slots]
            found, batch = self._read(wanted, modalities) if coming is None else coming.result()
            fused = self._fuse(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._put(contents, numbers, slots, found, fused)
            return (len(slots),)
        del coming
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(slots) == 1:
            reason = "there was not enough memory for it alone"
            hint = "Use a device with more memory, or leave it out."
            self._reject(contents, Modality.SEQ, slots[0], numbers[slots[0]], RecordError("E_OOM", reason, hint))
            return (1,)
        half = (len(slots) + 1) // 2
        head = self._embed(contents, numbers, slots[:half], modalities)
        return head + self._embed(contents, numbers, slots[half:], modalities)

    def _fuse(self, batch: PackedBatch) -> Represented:
        cast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16")
        with torch.no_grad(), cast:
            fused = self._model.fuse(batch.to(self._device))
        rows = {modality: _on_host(tokens.features_TD) for modality, tokens in fused.tokens.items()}
        spans = {m: [slice(*pair) for pair in pairwise(tokens.offsets.tolist())] for m, tokens in fused.tokens.items()}
        return Represented(rows, spans, None if fused.global_BD is None else _on_host(fused.global_BD))

    def _put(
        self,
        contents: UnitContents,
        numbers: Sequence[int],
        slots: Sequence[int],
        found: PackedProteins,
        fused: Represented,
    ) -> None:
        for place, slot in enumerate(slots):
            for modality, rows_TD in fused.rows.items():
                rows_RD = rows_TD[fused.spans[modality][place]]
                stored, index = found.rows[modality], None
                if stored.index is not None:
                    begin = int(stored.offsets[place])
                    index = stored.index[begin : begin + len(rows_RD)].astype(np.int32)
                pooled_D = rows_RD.mean(axis=0, dtype=np.float64).astype(np.float32)
                if modality is Modality.SEQ and fused.global_BD is not None:
                    pooled_D = fused.global_BD[place]
                try:
                    contents.put(modality, slot, found.ids[place], Encoded(rows_RD, index, pooled_D))
                except RecordError as error:
                    self._reject(contents, modality, slot, numbers[slot], error)
                    if modality is Modality.SEQ:
                        break  # without it, it has no place in any array

    def _reject(self, contents: UnitContents, modality: Modality, slot: int, number: int, error: RecordError) -> None:
        contents.reject(
            modality, slot, error.rejection(id=self._corpus.ids[number], source="store", position=number + 1)
        )


def _on_host(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def settings_for(
    corpus: Corpus, *, dtype: str | None = None, token_budget: int | None = None, threads: int | None = None
) -> StoreSettings:
    """What is asked for, and shards that hold the longest protein of the inputs; the rest is a store's default."""
    asked = {"dtype": dtype, "token_budget": token_budget, "threads": threads}
    shard_rows = max(store.layout.shard_rows for store in corpus.stores)
    return StoreSettings.parse(
        {"shard_rows": shard_rows, **{name: value for name, value in asked.items() if value is not None}},
        source="the representations' store",
    )


def write_pooled(store: Path, path: Path) -> None:
    """Write one vector a protein and modality, the mean of its stored rows, as Parquet."""
    with FeatureStore(store) as opened:
        export_store(opened, path, format="parquet", pooled=True)
