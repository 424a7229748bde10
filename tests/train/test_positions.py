import math

import torch

from amma.train.model.positions import sincos


def test_positions_are_the_formula_of_the_transformer() -> None:
    table = sincos(torch.tensor([0, 3, 250]), 8)
    for row, position in enumerate((0, 3, 250)):
        for pair in range(4):
            angle = position / 10_000 ** (pair / 4)
            assert math.isclose(table[row, pair], math.sin(angle), abs_tol=1e-4)
            assert math.isclose(table[row, pair + 4], math.cos(angle), abs_tol=1e-4)


def test_every_position_of_a_long_protein_has_its_own_vector() -> None:
    table = sincos(torch.arange(5000), 64)
    distance = torch.cdist(table, table) + torch.eye(5000) * 9
    assert distance.min() > 0.1
