import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.manifests.table import Modality
from amma.train.model.batch import PackedBatch, Tokens, pack

SEQ, STR, FUNC = Modality


def rows(*lengths: int, width: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(length, width), torch.arange(length)) for length in lengths]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_packing_keeps_each_protein_apart(lengths: list[int]) -> None:
    proteins = rows(*lengths)
    tokens = pack(tuple(map(str, lengths)), {SEQ: proteins}).tokens[SEQ]
    assert tokens.lengths.tolist() == lengths
    assert tokens.protein_T().tolist() == [b for b, length in enumerate(lengths) for _ in range(length)]
    for protein, (features, _) in enumerate(proteins):
        assert torch.equal(tokens.of(protein), features)


@pytest.mark.parametrize("offsets", [[], [0], [1, 4], [0, 3], [0, 3, 2, 4]])
def test_offsets_that_do_not_describe_the_rows_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must rise"):
        Tokens(torch.zeros(4, 2), torch.tensor(offsets, dtype=torch.int64), torch.arange(4))


def test_a_modality_with_another_number_of_proteins_is_refused() -> None:
    with pytest.raises(ValueError, match="func: 1 proteins, but 2 ids"):
        pack(("a", "b"), {SEQ: rows(2, 3), FUNC: rows(4)})


def test_a_structure_row_without_its_residue_is_refused_and_its_protein_named() -> None:
    structure = [(torch.randn(1, 3), torch.tensor([1])), (torch.randn(2, 3), torch.tensor([0, 3]))]
    with pytest.raises(ValueError, match="second: a structure row names a residue"):
        pack(("first", "second"), {SEQ: rows(2, 3), STR: structure})


def test_modalities_come_in_the_order_used_everywhere() -> None:
    tokens = pack(("a",), {FUNC: rows(2), SEQ: rows(1)}).tokens
    batch = PackedBatch(("a",), {FUNC: tokens[FUNC], SEQ: tokens[SEQ]})
    assert batch.modalities == (SEQ, FUNC)
    assert batch.num_proteins == 1


def test_offsets_stay_in_host_memory_when_the_features_move() -> None:
    moved = pack(("a",), {SEQ: rows(3)}).to("meta").tokens[SEQ]
    assert moved.features_TD.device.type == moved.position_T.device.type == "meta"
    assert moved.offsets.device.type == "cpu"
