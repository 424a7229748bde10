import math

import numpy as np
import pytest

from amma.evaluate.analyses.relation import num_batches, relation_cosine, relation_cosines, relations


def naive(x: np.ndarray, y: np.ndarray) -> float:
    """Table 1's figure number by number."""
    flattened = []
    for vectors in (x, y):
        unit = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in vectors.tolist()]
        flattened.append([sum(p * q for p, q in zip(a, b, strict=True)) for a in unit for b in unit])
    a, b = flattened
    dot = sum(p * q for p, q in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b)))


@pytest.mark.parametrize("number", [4, 11, 3])
def test_batches_equal_a_naive_loop_and_what_is_left_takes_no_part(number: int) -> None:
    rng = np.random.default_rng(number)
    x, y = rng.normal(1, 1, (number, 5)).astype(np.float32), rng.normal(size=(number, 3)).astype(np.float32)
    found = relation_cosines(x, y, 4)
    size = min(number, 4)
    expected = [naive(x[first : first + size], y[first : first + size]) for first in range(0, number - size + 1, size)]
    assert len(found) == num_batches(number, 4) == len(expected)
    assert np.allclose(found, expected, rtol=1e-12)
    assert relation_cosine(x, y) == pytest.approx(naive(x, y), rel=1e-12)


def test_torch_gives_the_same() -> None:
    import torch

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 8)), rng.normal(size=(6, 4))
    z = [torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1) for vectors in (x, y)]
    flat = [(vectors @ vectors.T).flatten() for vectors in z]
    assert relation_cosine(x, y) == pytest.approx(float(torch.cosine_similarity(*flat, dim=0, eps=1e-8)))


def test_equal_relations_give_one_whatever_the_turn_and_the_lengths_of_single_vectors() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert relation_cosine(x, (x * rng.uniform(1, 9, (20, 1))) @ turn) == pytest.approx(1)
    assert np.allclose(np.diagonal(relations(x)), 1)


def test_vectors_that_say_nothing_give_one_as_well() -> None:
    """Why the figure does not stand alone: far from the origin every cosine is near 1, whichever protein is which."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(20, 1, (50, 6)), rng.normal(-20, 1, (50, 9))
    assert relation_cosine(x, y) > 0.99
    assert relation_cosine(x - x.mean(axis=0), y - y.mean(axis=0)) < 0.6


def test_a_vector_of_zeros_is_no_division_by_zero() -> None:
    x = np.zeros((3, 4))
    assert relation_cosine(x, x) == 0
