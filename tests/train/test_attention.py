from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.featurize.encoders.packed_attention import Segments
from amma.train.model import attention
from amma.train.model.attention import attend


def segments(lengths: list[int]) -> Segments:
    return Segments.of(lengths, "cpu")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_each_query_attends_to_exactly_its_own_protein(lengths: list[tuple[int, int]]) -> None:
    asking = [min(pair) for pair in lengths]
    answering = [max(pair) for pair in lengths]
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(sum(asking), 2, 4, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, sum(answering), 2, 4, generator=generator, dtype=torch.float64)
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(answering))
    asker = torch.arange(len(lengths)).repeat_interleave(torch.tensor(asking))
    expected = torch.zeros_like(query)
    for token in range(len(query)):
        for head in range(2):
            mates = owner == asker[token]
            weight = torch.softmax(key[mates, head] @ query[token, head] / 4**0.5, dim=0)
            expected[token, head] = weight @ value[mates, head]
    answer = attend(query, key, value, segments(asking), segments(answering))
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-12)


def test_equal_lengths_side_by_side_share_one_call() -> None:
    packed = torch.randn(3, 14, 2, 4)
    with patch.object(attention, "scaled_dot_product_attention", wraps=attention.scaled_dot_product_attention) as fused:
        proteins = segments([0, 3, 3, 4, 4])
        attend(packed[0], packed[1], packed[2], proteins, proteins)
    assert [tuple(call.args[0].shape) for call in fused.call_args_list] == [(2, 2, 3, 4), (2, 2, 4, 4)]


def one_after_another(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    starts: torch.Tensor,
    longest_query: int,
    longest: int,
) -> torch.Tensor:
    """The contract of torch's attention over several lengths, protein by protein."""
    assert query_starts.dtype == starts.dtype == torch.int32
    assert longest_query == query_starts.diff().max()
    assert longest == starts.diff().max()
    mixed = torch.zeros_like(query)
    for protein in range(len(starts) - 1):
        asks, answers = (
            slice(*query_starts[protein : protein + 2].tolist()),
            slice(*starts[protein : protein + 2].tolist()),
        )
        scores = torch.einsum("qhk,thk->hqt", query[asks], key[answers]) / query.shape[2] ** 0.5
        mixed[asks] = torch.einsum("hqt,thk->qhk", scores.softmax(2), value[answers])
    return mixed


def test_where_one_call_takes_all_lengths_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def varlen(*given: Any) -> torch.Tensor:
        calls.append(given)
        return one_after_another(*given)

    asking, answering = [2, 0, 3, 0], [5, 0, 3, 4]
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(5, 2, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 12, 2, 8, generator=generator, dtype=torch.float64)
    plain = attend(query, key, value, segments(asking), segments(answering))
    monkeypatch.setattr(attention, "varlen_attention", lambda: varlen)
    assert torch.equal(attend(query, key, value, segments(asking), segments(answering)), plain)  # not on a GPU
    assert not calls
    monkeypatch.setattr(attention, "takes_any_lengths", lambda query: True)
    torch.testing.assert_close(attend(query, key, value, segments(asking), segments(answering)), plain)
    assert len(calls) == 1
    assert attend(query[:0], key, value, segments([0, 0]), segments([5, 7])).shape == (0, 2, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_one_call_gives_what_the_host_gives_and_so_do_its_gradients() -> None:
    asking, answering = [2, 0, 30, 7], [5, 4, 30, 90]
    generator = torch.Generator().manual_seed(3)
    exact = [torch.randn(rows, 2, 64, generator=generator) for rows in (sum(asking), sum(answering), sum(answering))]
    exact = [tensor.bfloat16().float().requires_grad_() for tensor in exact]
    half = [tensor.detach().bfloat16().cuda().requires_grad_() for tensor in exact]
    attend(*exact, segments(asking), segments(answering)).square().sum().backward()
    with patch.object(attention, "scaled_dot_product_attention") as fused:
        found = attend(*half, Segments.of(asking, "cuda"), Segments.of(answering, "cuda"))
    assert not fused.called
    found.float().square().sum().backward()
    for ours, theirs in zip(half, exact, strict=True):
        torch.testing.assert_close(ours.grad.float().cpu(), theirs.grad, rtol=0.05, atol=0.05)
