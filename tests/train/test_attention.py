import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.train.model.attention import attend


def starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


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
    answer = attend(query, key, value, starts(asking), starts(answering))
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-12)


def test_equal_lengths_side_by_side_share_one_call() -> None:
    from unittest.mock import patch

    from amma.train.model import attention

    packed = torch.randn(3, 14, 2, 4)
    with patch.object(attention, "scaled_dot_product_attention", wraps=attention.scaled_dot_product_attention) as fused:
        offsets = starts([0, 3, 3, 4, 4])
        attend(packed[0], packed[1], packed[2], offsets, offsets)
    assert [tuple(call.args[0].shape) for call in fused.call_args_list] == [(2, 2, 3, 4), (2, 2, 4, 4)]
