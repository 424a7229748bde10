"""Protein backbones of ideal geometry from their torsion angles.

Atoms are placed one after the other, each from the three before it (NeRF: Parsons et al. 2005, J. Comput. Chem. 26,
1063). Bond lengths and angles are those of Engh and Huber (1991); peptide bonds are planar and trans.

Legend: B backbones, L residues, 4 atoms (N, CA, C, O), 3 coordinates in Å.
"""

import math

import numpy as np
from jaxtyping import Float, Int

ATOMS = ("N", "CA", "C", "O")

_YZX, _ZXY = [1, 2, 0], [2, 0, 1]
_N_CA, _CA_C, _C_N, _C_O = 1.458, 1.525, 1.329, 1.231
_N_CA_C, _CA_C_N, _C_N_CA, _CA_C_O = (math.radians(angle) for angle in (111.0, 117.2, 121.7, 120.1))


def build_backbones(phi_BL: Float[np.ndarray, "B L"], psi_BL: Float[np.ndarray, "B L"]) -> Float[np.ndarray, "B L 4 3"]:
    """N, CA, C and O of every residue, for torsion angles in radians (the first φ decides nothing)."""
    num, length = phi_BL.shape
    atoms_BL43 = np.zeros((num, length, 4, 3))
    n = np.zeros((num, 3))
    alpha = n + np.array([_N_CA, 0.0, 0.0])
    c = alpha + np.array([-_CA_C * math.cos(_N_CA_C), _CA_C * math.sin(_N_CA_C), 0.0])
    trans_B = np.full(num, math.pi)
    for i in range(length):
        if i:
            psi_B = psi_BL[:, i - 1]
            next_n = _extend(n, alpha, c, _C_N, _CA_C_N, psi_B)
            next_alpha = _extend(alpha, c, next_n, _N_CA, _C_N_CA, trans_B)
            next_c = _extend(c, next_n, next_alpha, _CA_C, _N_CA_C, phi_BL[:, i])
            n, alpha, c = next_n, next_alpha, next_c
        # The oxygen lies opposite to the next nitrogen in the peptide plane.
        oxygen = _extend(n, alpha, c, _C_O, _CA_C_O, psi_BL[:, i] + math.pi)
        atoms_BL43[:, i] = np.stack([n, alpha, c, oxygen], axis=1)
    return atoms_BL43


def count_clashes(alpha_BL3: Float[np.ndarray, "B L 3"], *, closest: float = 3.9) -> Int[np.ndarray, " B"]:
    """Pairs of Cα at least three residues apart in sequence and nearer than `closest` Å."""
    gap_BLL = np.linalg.norm(alpha_BL3[:, :, None] - alpha_BL3[:, None], axis=-1)
    apart_LL = np.triu(np.ones(gap_BLL.shape[1:], dtype=np.bool_), k=3)
    clashes_B: Int[np.ndarray, " B"] = (gap_BLL < closest)[:, apart_LL].sum(axis=1)
    return clashes_B


def radius_of_gyration(alpha_BL3: Float[np.ndarray, "B L 3"]) -> Float[np.ndarray, " B"]:
    """Root mean square distance of the Cα from their centre, in Å."""
    centred = alpha_BL3 - alpha_BL3.mean(axis=1, keepdims=True)
    radius_B: Float[np.ndarray, " B"] = np.sqrt((centred**2).sum(axis=-1).mean(axis=-1))
    return radius_B


def _extend(
    a_B3: Float[np.ndarray, "B 3"],
    b_B3: Float[np.ndarray, "B 3"],
    c_B3: Float[np.ndarray, "B 3"],
    bond: float,
    angle: float,
    torsion_B: Float[np.ndarray, " B"],
) -> Float[np.ndarray, "B 3"]:
    """The atom `bond` Å from c, at `angle` b-c-d and torsion a-b-c-d."""
    along = c_B3 - b_B3
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normal = _cross(b_B3 - a_B3, along)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    across = _cross(normal, along)
    inward = -math.cos(angle) * along
    sideways = math.sin(angle) * (np.cos(torsion_B)[:, None] * across + np.sin(torsion_B)[:, None] * normal)
    placed_B3: Float[np.ndarray, "B 3"] = c_B3 + bond * (inward + sideways)
    return placed_B3


def _cross(a_B3: Float[np.ndarray, "B 3"], b_B3: Float[np.ndarray, "B 3"]) -> Float[np.ndarray, "B 3"]:
    # numpy.cross costs several times more on arrays as small as these.
    cross_B3: Float[np.ndarray, "B 3"] = a_B3[:, _YZX] * b_B3[:, _ZXY] - a_B3[:, _ZXY] * b_B3[:, _YZX]
    return cross_B3
