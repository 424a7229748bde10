from itertools import pairwise

import numpy as np
import pytest

from amma.manifests.backbone import build_backbones, count_clashes, radius_of_gyration


def torsion(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """Dihedral angle by the IUPAC convention, as an oracle."""
    axis = (c - b) / np.linalg.norm(c - b)
    first = (a - b) - (a - b) @ axis * axis
    second = (d - c) - (d - c) @ axis * axis
    return float(np.arctan2(np.cross(axis, first) @ second, first @ second))


@pytest.fixture
def angles() -> np.ndarray:
    return np.random.default_rng(0).uniform(-np.pi, np.pi, size=(2, 3, 20))


def test_torsion_angles_are_those_asked_for(angles: np.ndarray) -> None:
    phi, psi = angles
    atoms = build_backbones(phi, psi)
    for b in range(3):
        n, ca, c, _ = (atoms[b, :, k] for k in range(4))
        for i in range(1, 19):
            assert np.isclose(torsion(c[i - 1], n[i], ca[i], c[i]), phi[b, i], atol=1e-6)
            assert np.isclose(torsion(n[i], ca[i], c[i], n[i + 1]), psi[b, i], atol=1e-6)
            assert np.isclose(abs(torsion(ca[i], c[i], n[i + 1], ca[i + 1])), np.pi, atol=1e-6)


def test_bonds_have_ideal_lengths_and_neighbours_are_3_8_apart(angles: np.ndarray) -> None:
    atoms = build_backbones(*angles)
    n, ca, c, o = (atoms[:, :, k] for k in range(4))

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a - b, axis=-1)

    np.testing.assert_allclose(apart(n, ca), 1.458)
    np.testing.assert_allclose(apart(ca, c), 1.525)
    np.testing.assert_allclose(apart(c, o), 1.231)
    np.testing.assert_allclose(apart(c[:, :-1], n[:, 1:]), 1.329)
    np.testing.assert_allclose(apart(ca[:, :-1], ca[:, 1:]), 3.8, atol=0.05)


def test_the_oxygen_lies_in_the_peptide_plane_away_from_the_next_nitrogen(angles: np.ndarray) -> None:
    atoms = build_backbones(*angles)[0]
    for (_, alpha, c, oxygen), (nitrogen, *_) in pairwise(atoms):
        assert np.isclose(np.linalg.det([alpha - c, nitrogen - c, oxygen - c]), 0, atol=1e-6)
        assert np.isclose(np.linalg.norm(oxygen - nitrogen), 2.25, atol=0.05)


def test_a_helix_rises_1_5_angstrom_a_residue_and_a_strand_more_than_3() -> None:
    def rise(phi: float, psi: float) -> float:
        ca = build_backbones(np.full((1, 37), np.radians(phi)), np.full((1, 37), np.radians(psi)))[0, :, 1]
        return float(np.linalg.norm(ca[36] - ca[0]) / 36)

    assert np.isclose(rise(-63, -42), 1.5, atol=0.1)
    assert rise(-120, 130) > 3.0


def test_clashes_and_radius_count_what_they_say() -> None:
    line = np.zeros((1, 6, 3))
    line[0, :, 0] = 3.8 * np.arange(6)
    assert count_clashes(line).tolist() == [0]
    folded = line.copy()
    folded[0, 5] = folded[0, 0] + [0, 0.5, 0]
    assert count_clashes(folded).tolist() == [2]
    assert np.isclose(radius_of_gyration(line)[0], 3.8 * np.sqrt(35 / 12))
