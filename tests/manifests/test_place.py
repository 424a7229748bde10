import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.manifests.placement import num_left_out
from amma.manifests.quarantine import RecordError
from amma.manifests.structures import RawChain, place

SEQUENCE = "MKVLAAGITREDPQWSFYHNMKCLLE"


def chain_of(sequence: str, kept: list[int], *, numbered: bool = True, letters: str | None = None) -> RawChain:
    """A straight chain of the residues `kept`, numbered from 5."""
    ca = np.zeros((len(kept), 3), np.float32)
    ca[:, 0] = 3.8 * np.array(kept)
    number = np.array(kept, np.int32) + 5 if numbered else None
    return RawChain("A", letters or "".join(sequence[i] for i in kept), ca, number)


def refusal(chain: RawChain, sequence: str) -> RecordError:
    with pytest.raises(RecordError) as caught:
        place(chain, sequence)
    return caught.value


def without(*gaps: range) -> list[int]:
    return [i for i in range(len(SEQUENCE)) if not any(i in gap for gap in gaps)]


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize(
    "kept",
    [
        without(),
        without(range(3)),
        without(range(20, 26)),
        without(range(8, 12)),
        without(range(2), range(8, 12), range(20, 22), range(25, 26)),
    ],
)
def test_missing_residues_are_unresolved_and_shift_nothing(kept: list[int], numbered: bool) -> None:
    chain, unresolved = place(chain_of(SEQUENCE, kept, numbered=numbered), SEQUENCE)
    assert chain.residue.tolist() == kept
    assert unresolved == tuple(sorted(set(range(len(SEQUENCE))) - set(kept)))
    np.testing.assert_allclose(chain.ca[:, 0], 3.8 * chain.residue, rtol=1e-6)


def test_a_residue_without_alpha_carbon_is_unresolved() -> None:
    whole = chain_of(SEQUENCE, without())
    whole.ca[[0, 7, 25]] = np.nan
    chain, unresolved = place(whole, SEQUENCE)
    assert unresolved == (0, 7, 25)
    assert chain.letters == "".join(SEQUENCE[i] for i in chain.residue)
    assert np.isfinite(chain.ca).all()


def test_a_residue_without_alpha_carbon_need_not_be_in_the_sequence() -> None:
    longer = chain_of(SEQUENCE + "G", list(range(len(SEQUENCE) + 1)))
    longer.ca[-1] = np.nan
    chain, unresolved = place(longer, SEQUENCE)
    assert (len(chain.residue), unresolved) == (len(SEQUENCE), ())


def test_the_gap_goes_where_the_chain_is_broken() -> None:
    # Of "AA" either could be missing by letters alone; the long step says which.
    sequence = "MKVLWAAGITREDPQWSFYH"
    for missing in (5, 6):
        kept = [i for i in range(len(sequence)) if i != missing]
        chain, unresolved = place(chain_of(sequence, kept, numbered=False), sequence)
        assert unresolved == (missing,)
        assert chain.residue.tolist() == kept


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_numbered_chains_with_gaps_are_placed_as_they_were(data: st.DataObject) -> None:
    sequence = data.draw(st.text("ACDG", min_size=8, max_size=40))
    dropped = data.draw(st.sets(st.integers(0, len(sequence) - 1), max_size=len(sequence) // 2))
    kept = [i for i in range(len(sequence)) if i not in dropped]
    chain, unresolved = place(chain_of(sequence, kept), sequence)
    assert chain.letters == "".join(sequence[i] for i in chain.residue)
    # Gaps inside are known from the numbers; where the whole begins is not, if its letters fit elsewhere too.
    assert np.diff(chain.residue).tolist() == np.diff(kept).tolist()
    assert sorted([*chain.residue.tolist(), *unresolved]) == list(range(len(sequence)))


def test_the_structure_of_another_protein_is_refused() -> None:
    other = "WGQDHCEYTNPRLSFKMAIVWGQDHC"
    error = refusal(chain_of(other, list(range(len(other)))), SEQUENCE)
    assert error.code == "E_MISMATCH"


def test_one_difference_in_26_is_accepted_and_two_are_not() -> None:
    one = SEQUENCE[:16] + "R" + SEQUENCE[17:]
    chain, unresolved = place(chain_of(one, without()), SEQUENCE)
    assert (chain.letters, unresolved) == (one, ())
    two = one[:4] + "W" + one[5:]
    error = refusal(chain_of(two, without()), SEQUENCE)
    assert error.code == "E_MISMATCH"
    assert "2 of 26 residues differ, first at 5 A/W" in error.reason


def test_unknown_residues_are_no_difference() -> None:
    chain, _ = place(chain_of(SEQUENCE, without(), letters="X" * 5 + SEQUENCE[5:]), SEQUENCE)
    assert chain.letters[:6] == "XXXXXA"
    chain, _ = place(chain_of(SEQUENCE, without()), "XX" + SEQUENCE[2:20] + "X" * 6)
    assert len(chain.residue) == 26


def test_a_chain_of_unknown_residues_must_at_least_have_the_length() -> None:
    unknown = chain_of(SEQUENCE, without(), letters="X" * 26)
    assert len(place(unknown, SEQUENCE)[0].residue) == 26
    assert refusal(unknown, SEQUENCE + "AA").code == "E_MISMATCH"


def test_a_residue_that_the_sequence_lacks_is_a_mismatch() -> None:
    longer = SEQUENCE[:10] + "W" + SEQUENCE[10:]
    error = refusal(chain_of(longer, list(range(len(longer)))), SEQUENCE)
    assert error.code == "E_MISMATCH"
    assert "1 have no place in the sequence, first W (11 of the chain)" in error.reason


def test_less_than_half_of_a_protein_is_refused() -> None:
    assert place(chain_of(SEQUENCE, list(range(13))), SEQUENCE)[1] == tuple(range(13, 26))
    assert refusal(chain_of(SEQUENCE, list(range(12))), SEQUENCE).code == "E_MISSING"


def test_chains_too_long_to_align_are_refused_but_equal_ones_are_not() -> None:
    long = SEQUENCE * 600
    whole = list(range(len(long)))
    assert place(chain_of(long, whole), long)[1] == ()
    assert refusal(chain_of(long, whole, letters="C" + long[1:]), long).code == "E_LONG"


TAG = "GSHHHHHHSSG"
LONG = "MKVLAAGITREDPQWSFYHNMKCLLEDWTPVRNIQEYCFGASKDHLMETQ"


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize(("before", "after"), [("GSH", ""), ("", "LEHHHHHH"), ("GSH", "LEH"), (TAG, "")])
def test_expression_tags_at_the_ends_are_left_out(before: str, after: str, numbered: bool) -> None:
    expressed = before + LONG + after
    chain = chain_of(expressed, list(range(len(expressed))), numbered=numbered)
    placed, unresolved = place(chain, LONG)
    assert (placed.letters, unresolved) == (LONG, ())
    assert num_left_out(chain, placed) == len(before + after)
    np.testing.assert_allclose(placed.ca[:, 0], 3.8 * (placed.residue + len(before)), rtol=1e-6)


def test_a_tag_before_a_part_of_a_protein_does_not_take_the_places_of_other_residues() -> None:
    expressed = TAG + LONG[:40]
    placed, unresolved = place(chain_of(expressed, list(range(len(expressed)))), "MNPDRTWAYCKFLEQ" + LONG)
    assert placed.letters == LONG[:40]
    assert placed.residue.tolist() == list(range(15, 55))
    assert unresolved == (*range(15), *range(55, 65))


def test_beside_a_tag_gaps_go_where_the_numbers_say() -> None:
    # "AA": letters and steps alone cannot tell which one is missing, as the step is closed here.
    expressed = TAG + LONG
    kept = [i for i in range(len(expressed)) if i != len(TAG) + 5]
    chain = chain_of(expressed, kept)
    chain.ca[:, 0] = 3.8 * np.arange(len(kept))
    placed, unresolved = place(chain, LONG)
    assert unresolved == (5,)
    assert num_left_out(chain, placed) == len(TAG)


def test_a_residue_that_differs_at_the_very_end_is_left_out() -> None:
    placed, unresolved = place(chain_of("G" + LONG[1:], list(range(len(LONG)))), LONG)
    assert (placed.letters, unresolved) == (LONG[1:], (0,))


def test_a_difference_next_to_the_end_is_a_mutation() -> None:
    mutant = LONG[0] + "W" + LONG[2:]
    assert place(chain_of(mutant, list(range(len(LONG)))), LONG)[0].letters == mutant


@pytest.mark.parametrize(("length", "tag"), [(400, 30), (60, 20)])
def test_fusion_partners_are_no_tags(length: int, tag: int) -> None:
    rng = np.random.default_rng(0)
    protein, partner = ("".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), count)) for count in (length, tag + 1))
    for extra, fits in ((partner[:tag], True), (partner, False)):
        expressed = extra + protein
        chain = chain_of(expressed, list(range(len(expressed))))
        if fits:
            assert num_left_out(chain, place(chain, protein)[0]) == tag
        else:
            assert f"{tag + 1} have no place in the sequence" in refusal(chain, protein).reason
