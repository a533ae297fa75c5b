"""Distances and bandwidths against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from pdae_jax import kernels


@pytest.mark.parametrize("d", [1, 8, 9, 200])
def test_squared_distances_equal_scipy(d):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, d)).astype(np.float32) + 100 for n in (20, 30))
    np.testing.assert_allclose(kernels.squared_distances(x, y), cdist(x, y, "sqeuclidean"), rtol=1e-4)
    assert np.all(np.asarray(kernels.squared_distances(x, x)) >= 0)


@pytest.mark.parametrize(
    ("kernel", "formula"),
    [
        (kernels.energy(1.0), lambda r: r),
        (kernels.energy(0.7), lambda r: r**0.7),
        (kernels.gaussian([1.0, 3.0]), lambda r: 1 - 0.5 * (np.exp(-(r**2) / 2) + np.exp(-(r**2) / 18))),
        (kernels.laplace(2.0), lambda r: 1 - np.exp(-r / 2)),
        (kernels.inverse_multiquadric(2.0), lambda r: 1 - 1 / np.sqrt(1 + r**2 / 4)),
    ],
)
def test_kernels_equal_their_formulas(kernel, formula):
    r = np.linspace(0, 5, 30)
    np.testing.assert_allclose(kernel(jnp.asarray(r, jnp.float32) ** 2), formula(r), rtol=1e-5, atol=1e-6)
    assert float(kernel(jnp.zeros(()))) == 0.0


def test_median_bandwidth_equals_scipy_and_is_close_when_subsampled():
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    exact = np.median(pdist(x))
    np.testing.assert_allclose(kernels.median_bandwidth(jax.random.key(0), x), exact, rtol=1e-5)
    np.testing.assert_allclose(kernels.median_bandwidth(jax.random.key(0), x, max_cells=300), exact, rtol=0.05)
