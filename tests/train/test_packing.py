import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.collate import collate
from amma.train.data.corpus import Corpus
from amma.train.data.loader import Loader
from amma.train.data.packing import Leases, Packer
from amma.train.model.batch import PackedBatch


def contents(batch: PackedBatch) -> list[bytes]:
    return [t.numpy().tobytes() for m in batch.tokens.values() for t in (m.features_TD, m.offsets, m.position_T)]


def triplets(features: FeatureStore) -> list[int]:
    return [row for row, kind in enumerate(features.kinds()) if kind == "triplet"]


def test_memory_comes_back_only_when_the_last_view_of_it_is_gone() -> None:
    leases = Leases()
    piece = leases.allocate("a", 4000)
    address = piece.ctypes.data
    tensor = torch.from_numpy(piece).view(torch.float32).view(10, 100)
    row = tensor[3].numpy()
    del piece, tensor
    assert leases.allocate("a", 4000).ctypes.data != address  # a row is still looked at
    del row
    again = leases.allocate("a", 100)
    other = leases.allocate("a", 4000)
    assert address in (again.ctypes.data, other.ctypes.data)
    assert leases.allocate("b", 4000).ctypes.data not in (again.ctypes.data, other.ctypes.data)


def test_memory_that_a_backward_pass_waits_for_is_not_given_out_again() -> None:
    leases = Leases()
    weight = torch.ones(25, requires_grad=True)
    piece = leases.allocate("a", 100)
    product = (torch.from_numpy(piece).view(torch.float32).fill_(2.0) * weight).sum()
    del piece
    leases.allocate("a", 100).fill(255)
    product.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0] * 25
    del product
    gc.collect()
    assert leases.num_free == 2


def test_pieces_that_became_too_small_are_let_go() -> None:
    leases = Leases()
    for size in range(1000, 50_000, 1000):
        leases.allocate("a", size)
    assert leases.num_free == 1
    assert len({leases.allocate("a", 49_000).ctypes.data for _ in range(20)}) == 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batches_that_are_kept_are_never_overwritten_for_any_number_of_threads(store: Path, threads: int) -> None:
    with FeatureStore(store) as features:
        proteins = triplets(features)
        chosen = [[proteins[(3 * n + k) % len(proteins)] for k in range(1 + n % 4)] for n in range(40)]
        expected = [contents(collate(features, rows, MODALITIES)) for rows in chosen]
        pack = Packer()

        def make(number: int) -> PackedBatch:
            return pack(features, chosen[number], MODALITIES)

        kept: list[tuple[int, PackedBatch]] = []
        with Loader(make, 0, 40, threads=threads, ahead=4) as batches:
            for number, batch in enumerate(batches):
                assert contents(batch) == expected[number]
                if number % 5 == 0:
                    kept.append((number, batch))
        for number, batch in kept:
            assert contents(batch) == expected[number]


def test_memory_stays_bounded_however_many_batches_are_made(store: Path) -> None:
    with FeatureStore(store) as features:
        proteins = triplets(features)
        pack = Packer()
        with Loader(lambda n: pack(features, proteins[:4], MODALITIES), 0, 200, threads=2, ahead=3) as batches:
            for batch in batches:
                del batch
        gc.collect()
        # A batch in hand, one just made in each thread, and those ahead; a piece for each modality.
        assert pack._leases.num_free <= 3 * (1 + 2 + 3 + 1)


def test_a_batch_can_be_had_in_the_stored_type_without_conversion(store: Path) -> None:
    with FeatureStore(store) as features:
        row = triplets(features)[0]
        batch = Packer(dtype=None)(features, [row], MODALITIES)
        for modality in MODALITIES:
            assert batch.tokens[modality].features_TD.dtype == torch.float16
            assert np.array_equal(batch.tokens[modality].features_TD.numpy(), features.read(modality, row).features)


def test_proteins_of_several_stores_are_packed_in_the_order_asked_for(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    paths = [
        make_store(tmp_path / "one.zarr", {"triplet": 4}),
        make_store(tmp_path / "two.zarr", {"triplet": 5}, seed=1, prefix="Q"),
    ]
    corpus = Corpus.open(paths)
    proteins = [7, 0, 4, 3, 8, 1]
    batch = Packer()(corpus, proteins, MODALITIES)
    assert batch.ids == tuple(corpus.ids[protein] for protein in proteins)
    for modality in MODALITIES:
        for place, protein in enumerate(proteins):
            rows = corpus.read(modality, protein)
            assert np.array_equal(batch.tokens[modality].of(place).numpy(), rows.features.astype(np.float32))
    corpus.will_need(proteins, MODALITIES)
    corpus.close()


def test_an_exception_that_leaves_the_loop_ends_threads_and_frees_the_batches(store: Path) -> None:
    before = threading.active_count()
    with FeatureStore(store) as features:
        proteins = triplets(features)
        pack = Packer()
        with pytest.raises(RuntimeError, match="enough"):
            leave_by_an_error(features, pack, proteins)
        assert threading.active_count() == before
        gc.collect()
        assert pack._leases.num_free >= len(MODALITIES)


def leave_by_an_error(features: FeatureStore, pack: Packer, proteins: list[int]) -> None:
    with Loader(lambda n: pack(features, proteins[:2], MODALITIES), 0, 10**6, threads=3, ahead=6) as batches:
        for number, _ in enumerate(batches):
            if number == 3:
                raise RuntimeError("enough")


def test_one_packer_serves_many_threads(store: Path) -> None:
    with FeatureStore(store) as features, ThreadPoolExecutor(6) as pool:
        proteins = triplets(features)
        pack = Packer()
        expected = {row: contents(collate(features, [row], MODALITIES)) for row in proteins}
        found = pool.map(lambda row: contents(pack(features, [row], MODALITIES)) == expected[row], proteins * 5)
        assert all(found)


@pytest.mark.gpu
def test_batches_on_a_gpu_hold_the_same_numbers(store: Path) -> None:
    with FeatureStore(store) as features:
        proteins = triplets(features)
        pack = Packer("cuda")
        made = []
        with Loader(lambda n: pack(features, proteins[n : n + 3], MODALITIES), 0, 12, threads=3, ahead=6) as batches:
            for batch in batches:
                made.append(batch)  # noqa: PERF402 - they are to live together
        for number, batch in enumerate(made):
            expected = collate(features, proteins[number : number + 3], MODALITIES)
            for modality in (Modality.SEQ, Modality.STR, Modality.FUNC):
                found, wanted = batch.tokens[modality], expected.tokens[modality]
                assert found.features_TD.is_cuda
                assert torch.equal(found.features_TD.cpu(), wanted.features_TD)
                assert torch.equal(found.position_T.cpu(), wanted.position_T)
                assert torch.equal(found.offsets, wanted.offsets)
