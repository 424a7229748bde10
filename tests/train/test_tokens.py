import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.train.model.batch import Tokens
from amma.train.model.tokens import join, residue_rows, select

lengths_of_parts = st.integers(1, 5).flatmap(
    lambda proteins: st.lists(st.lists(st.integers(0, 4), min_size=proteins, max_size=proteins), min_size=1, max_size=3)
)


def starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@given(lengths_of_parts)
@settings(max_examples=100, deadline=None)
def test_joining_lays_each_proteins_parts_in_order_and_comes_apart_again(lengths: list[list[int]]) -> None:
    # Each row says (part, protein, token).
    parts = [
        torch.tensor([[p, b, t] for b, length in enumerate(part) for t in range(length)]).reshape(-1, 3).double()
        for p, part in enumerate(lengths)
    ]
    joint = join([starts(part) for part in lengths], torch.device("cpu"))
    laid = joint.lay(parts)
    sizes = joint.offsets.diff().tolist()
    assert sizes == sorted(sum(of_protein) for of_protein in zip(*lengths, strict=True))
    proteins = []
    for start, size in zip(joint.offsets.tolist(), sizes, strict=False):
        rows = laid[start : start + size].long().tolist()
        if rows:
            proteins.append(rows[0][1])
            expected = [[p, rows[0][1], t] for p, part in enumerate(lengths) for t in range(part[rows[0][1]])]
            assert rows == expected
    assert len(proteins) == len(set(proteins)) == sum(1 for size in sizes if size)
    for part, again in zip(parts, joint.take_apart(laid), strict=True):
        assert torch.equal(part, again)


@given(lengths_of_parts, st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_a_part_is_read_off_protein_by_protein_and_put_back_in_order(lengths: list[list[int]], read: int) -> None:
    read %= len(lengths)
    parts = [
        torch.tensor([[p, b] for b, length in enumerate(part) for _ in range(length)]).reshape(-1, 2).double()
        for p, part in enumerate(lengths)
    ]
    parts[read][:, 0] = torch.arange(len(parts[read])) + 100
    joint = join([starts(part) for part in lengths], torch.device("cpu"), read=read)
    laid = joint.lay(parts)
    rows = laid[joint.readout.row_Q]
    assert torch.equal(rows[joint.readout.back_T], parts[read])
    # The readout's proteins are those of the matrix, in its order.
    for protein in range(len(lengths[0])):
        start, end = joint.offsets[protein : protein + 2].tolist()
        inside = laid[start:end]
        begin, stop = joint.readout.offsets[protein : protein + 2].tolist()
        assert torch.equal(rows[begin:stop], inside[inside[:, 0] >= 100])


@given(st.lists(st.lists(st.booleans(), max_size=5), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_selecting_keeps_the_chosen_tokens_of_each_protein(chosen: list[list[bool]]) -> None:
    flags = torch.tensor([flag for protein in chosen for flag in protein], dtype=torch.bool)
    tokens = Tokens(
        torch.randn(len(flags), 3),
        starts([len(protein) for protein in chosen]),
        torch.tensor([t for protein in chosen for t in range(len(protein))], dtype=torch.int64),
    )
    kept, rows = select(tokens, flags)
    assert kept.lengths.tolist() == [sum(protein) for protein in chosen]
    assert torch.equal(kept.features_TD, tokens.features_TD[flags])
    assert torch.equal(kept.position_T, tokens.position_T[flags])
    assert torch.equal(rows, flags.nonzero().squeeze(1))


def test_structure_tokens_find_their_own_residues() -> None:
    sequence = Tokens(torch.randn(7, 2), starts([4, 3]), torch.tensor([0, 1, 2, 3, 0, 1, 2]))
    structure = Tokens(torch.randn(4, 2), starts([2, 2]), torch.tensor([1, 3, 0, 2]))
    assert residue_rows(structure, sequence).tolist() == [1, 3, 4, 6]
