"""Each token attends to exactly the tokens of its own protein, whichever kernel does it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amma.featurize.encoders import packed_attention
from amma.featurize.encoders.packed_attention import Segments, attend

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def random_heads(lengths: list[int], channels: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    """Queries, keys and values as one product gives them: interleaved, not contiguous."""
    generator = torch.Generator().manual_seed(len(lengths))
    packed = torch.randn(sum(lengths), 3, 2, channels, generator=generator, dtype=torch.float64).to(dtype)
    return packed.transpose(0, 1)


def expected(heads: Tensor, lengths: list[int]) -> Tensor:
    query, key, value = heads.double()
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    scores = torch.einsum("qhk,thk->hqt", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(owner[:, None] != owner[None, :], -torch.inf)
    return torch.einsum("hqt,thk->qhk", scores.softmax(-1), value)


@given(LENGTHS)
@settings(max_examples=50, deadline=None)
def test_each_token_attends_to_its_own_protein_only(lengths: list[int]) -> None:
    heads = random_heads(lengths)

    mixed = attend(heads[0], heads[1], heads[2], Segments.of(lengths, "cpu"))

    torch.testing.assert_close(mixed, expected(heads, lengths), rtol=0, atol=1e-12)


def test_what_a_protein_gets_does_not_depend_on_the_others_to_the_bit() -> None:
    lengths = [40, 40, 3, 200, 40, 1]
    heads = random_heads(lengths, dtype=torch.float32)

    mixed = attend(heads[0], heads[1], heads[2], Segments.of(lengths, "cpu"))

    begin = 0
    for length in lengths:
        own = slice(begin, begin + length)
        alone = attend(heads[0][own], heads[1][own], heads[2][own], Segments.of([length], "cpu"))
        assert torch.equal(alone, mixed[own])
        begin += length


@given(LENGTHS)
@settings(max_examples=20, deadline=None)
def test_the_kernel_for_several_lengths_is_told_where_proteins_begin_and_end(lengths: list[int]) -> None:
    heads = random_heads(lengths)

    def kernel(query: Tensor, key: Tensor, value: Tensor, begin_q: Tensor, begin_k: Tensor, *longest: int) -> Tensor:
        """As FlashAttention reads its arguments: int32 starts, and longest lengths that nothing exceeds."""
        assert begin_q.dtype == begin_k.dtype == torch.int32
        assert longest == (max(lengths), max(lengths))
        told = begin_k.diff().tolist()
        assert torch.equal(begin_q, begin_k)
        return expected(torch.stack([query, key, value]), told)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed_attention, "varlen_attention", lambda: kernel)
        patched.setattr(packed_attention, "takes_any_lengths", lambda query: True)
        mixed = attend(heads[0], heads[1], heads[2], Segments.of(lengths, "cpu"))

    torch.testing.assert_close(mixed, expected(heads, lengths), rtol=0, atol=1e-12)


def test_without_that_kernel_a_gpu_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "varlen_attention", lambda: None)
    monkeypatch.setattr(packed_attention, "takes_any_lengths", lambda query: True)
    heads = random_heads([3, 5])

    mixed = attend(heads[0], heads[1], heads[2], Segments.of([3, 5], "cpu"))

    torch.testing.assert_close(mixed, expected(heads, [3, 5]), rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)], ids=str
)
def test_a_gpu_gives_what_the_cpu_gives(dtype: torch.dtype, bound: float) -> None:
    lengths = [1, 40, 40, 300, 7, 1024]
    heads: Any = random_heads(lengths, channels=64, dtype=dtype)

    mixed = attend(*heads.cuda(), Segments.of(lengths, "cuda"))

    assert packed_attention.takes_any_lengths(heads[0].cuda()) == (dtype != torch.float32)
    assert (mixed.cpu().double() - expected(heads, lengths)).abs().max() <= bound
