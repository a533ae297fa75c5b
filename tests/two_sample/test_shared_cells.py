"""Distances between laws made of the same cells: against a loop over pairs, and closed forms."""

import numpy as np
import pytest
from scipy import stats

from pdae_jax.losses import energy_distance
from pdae_jax.two_sample.shared_cells import shared_cell_distances


def gaussian_distance(shift, dim):
    """Energy distance of N(0, I) and N(shift, I): the differences are N(shift, 2 I), of length sqrt(2 chi2)."""
    lengths = [
        np.sqrt(2) * stats.ncx2.expect(np.sqrt, args=(dim, nc)) if nc else np.sqrt(2) * stats.chi.mean(dim)
        for nc in (np.sum(np.square(shift)) / 2, 0.0)
    ]
    return 2 * (lengths[0] - lengths[1])


def test_agrees_with_a_loop_over_pairs():
    random = np.random.default_rng(0)
    x, counts = random.normal(size=(3, 9, 4)) + 5.0, [9, 6, 6]
    shared = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]], bool)
    weight = np.array([np.arange(9) < count for count in counts], np.float32)
    found = shared_cell_distances(x.astype(np.float32), weight, shared)

    def mean(a, b):
        pairs = [(i, j) for i in range(counts[a]) for j in range(counts[b]) if not (shared[a, b] and i == j)]
        return np.mean([np.linalg.norm(x[a, i] - x[b, j]) for i, j in pairs])

    for a in range(3):
        for b in range(3):
            expected = 2 * mean(a, b) - mean(a, a) - mean(b, b) if a != b else 0.0
            assert float(found[a, b]) == pytest.approx(expected, abs=2e-5)


def test_laws_of_the_same_cells_are_compared_without_bias():
    """Two laws 0.3 apart, 100 cells: pairs of a cell with itself would take 0.06 off a distance of 0.02."""
    random, shift = np.random.default_rng(1), np.array([0.3, 0.0, 0.0])
    everything, found, with_own = np.ones((2, 2), bool), [], []
    for _ in range(60):
        x = random.normal(size=(100, 3)).astype(np.float32)
        pair = np.stack([x, x + shift.astype(np.float32)])
        found.append(float(shared_cell_distances(pair, np.ones((2, 100)), everything)[0, 1]))
        with_own.append(float(energy_distance(*pair)))
    truth = gaussian_distance(shift, 3)
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / 60**0.5 + 1e-5
    assert np.std(found) < 0.1 * truth
    assert np.mean(with_own) < 0 < truth
