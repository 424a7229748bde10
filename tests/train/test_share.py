import pytest

from amma.train.data.share import WHOLE, Share
from amma.train.data.streams import Draw, Portion


def plan(*sizes: int) -> tuple[Portion, ...]:
    names = ("triplet", "seq-str", "seq-func")
    return tuple(
        Portion(name, 1.5, tuple(Draw(100 * number + place, 0, place) for place in range(size)))
        for number, (name, size) in enumerate(zip(names, sizes, strict=False))
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("sizes", [(8,), (7, 3), (1, 2, 9)])
def test_shares_are_disjoint_cover_the_step_in_order_and_are_of_nearly_equal_size(
    ranks: int, parts: int, sizes: tuple[int, ...]
) -> None:
    whole = plan(*sizes)
    pieces = [Share(rank, ranks, parts).of(whole) for rank in range(ranks)]
    for portion in whole:
        of_stream = [piece for share in pieces for piece in share if piece.stream == portion.stream]
        assert tuple(draw for piece in of_stream for draw in piece.draws) == portion.draws
        assert all(piece.weight == portion.weight for piece in of_stream)
        counts = [len(piece.draws) for piece in of_stream]
        assert min(counts) >= 1
        if len(portion.draws) >= ranks * parts:
            assert len(counts) == ranks * parts
            assert max(counts) - min(counts) <= 1


def test_the_whole_is_left_as_it_is() -> None:
    assert WHOLE.of(plan(4, 2)) == plan(4, 2)


def test_with_fewer_proteins_than_processes_some_have_none() -> None:
    shares = [Share(rank, 4).of(plan(2)) for rank in range(4)]
    assert sorted(len(share) for share in shares) == [0, 0, 1, 1]
