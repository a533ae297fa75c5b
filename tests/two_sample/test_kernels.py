"""Kernels, distances and bandwidths against scipy and their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy.spatial.distance import cdist, pdist

from pdae_jax import kernels
from pdae_jax.two_sample import distances


def matern(r, nu, s):
    """The general formula, with a Bessel function."""
    u = np.sqrt(2 * nu) * np.maximum(r, 1e-12) / s
    return 1 - 2 ** (1 - nu) / scipy.special.gamma(nu) * u**nu * scipy.special.kv(nu, u)


FORMULAS = [
    (kernels.energy(1.0), lambda r: r),
    (kernels.energy(0.7), lambda r: r**0.7),
    (kernels.energy(1.9), lambda r: r**1.9),
    (kernels.gaussian([1.0, 3.0]), lambda r: 1 - 0.5 * (np.exp(-(r**2) / 2) + np.exp(-(r**2) / 18))),
    (kernels.laplace(2.0), lambda r: 1 - np.exp(-r / 2)),
    (kernels.laplace([1.0, 2.0], norm="l1"), lambda r: 1 - 0.5 * (np.exp(-r) + np.exp(-r / 2))),
    (kernels.inverse_multiquadric(2.0), lambda r: 1 - 1 / np.sqrt(1 + r**2 / 4)),
    (kernels.matern(0.5, 1.3), lambda r: matern(r, 0.5, 1.3)),
    (kernels.matern(1.5, 1.3), lambda r: matern(r, 1.5, 1.3)),
    (kernels.matern(2.5, 1.3), lambda r: matern(r, 2.5, 1.3)),
    (kernels.as_kernel(lambda sq: sq / (1 + sq)), lambda r: r**2 / (1 + r**2)),
]


@pytest.mark.parametrize("d", [1, 8, 11, 200])
def test_distances_equal_scipy(d):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, d)).astype(np.float32) + 100 for n in (20, 30))
    np.testing.assert_allclose(distances.squared_distances(x, y), cdist(x, y, "sqeuclidean"), rtol=1e-4)
    np.testing.assert_allclose(distances.manhattan_distances(x, y), cdist(x, y, "cityblock"), rtol=1e-5)
    assert np.all(np.asarray(distances.squared_distances(x, x)) >= 0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("d", [3, 30])
def test_derivatives_of_distances_equal_finite_differences(d, offset):
    rng = np.random.default_rng(1)
    x, y, weights = (rng.normal(size=shape) for shape in ((2, 6, d), (2, 5, d), (2, 6, 5)))
    x, y = ((offset + a).astype(np.float32).astype(np.float64) for a in (x, y))
    square = rng.normal(size=(2, 6, 6))  # not symmetric

    def exact(x, y):
        across = sum(np.sum(w * cdist(a, b, "sqeuclidean")) for w, a, b in zip(weights, x, y, strict=True))
        return across + sum(np.sum(w * cdist(a, a, "sqeuclidean")) for w, a in zip(square, x, strict=True))

    def ours(x, y):
        return jnp.sum(weights * distances.squared_distances(x, y)) + jnp.sum(square * distances.squared_distances(x))

    gradients = jax.grad(ours, argnums=(0, 1))(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    for position, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)
        steps = [np.zeros_like(x), np.zeros_like(y)]
        steps[position] = 1e-4 * direction
        expected = (exact(x + steps[0], y + steps[1]) - exact(x - steps[0], y - steps[1])) / 2e-4
        np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("kernel", "formula"), FORMULAS)
def test_kernels_equal_their_formulas(kernel, formula):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (10, 12))
    metric = "cityblock" if kernel.metric == "manhattan" else "euclidean"
    np.testing.assert_allclose(
        kernels.dissimilarity_matrix(kernel, x, y), formula(cdist(x, y, metric)), rtol=2e-5, atol=1e-6
    )
    rows = formula(cdist(x, y, metric))[np.arange(10), np.arange(10)]
    np.testing.assert_allclose(kernels.dissimilarity(kernel, x, y[:10]), rows, rtol=2e-5, atol=1e-6)
    assert np.all(np.diagonal(kernels.dissimilarity_matrix(kernel, x)) == 0)


@pytest.mark.parametrize(("kernel", "formula"), FORMULAS)
def test_slopes_equal_finite_differences_and_are_finite_at_zero(kernel, formula):
    squared = np.linspace(0.1, 9, 20)
    to_distance = np.sqrt if kernel.metric == "squared_euclidean" else lambda s: s
    step = 1e-6
    expected = (formula(to_distance(squared + step)) - formula(to_distance(squared - step))) / (2 * step)
    slope = jax.vmap(jax.grad(lambda s: kernel(s)))(jnp.asarray(squared, jnp.float32))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(jax.grad(lambda s: kernel(s))(0.0))


def test_a_kernel_is_an_argument_of_compiled_functions():
    traces = []

    @jax.jit
    def mean(kernel, r):
        traces.append(1)
        return jnp.mean(kernel(r))

    r = jnp.linspace(0, 4, 7)
    values = [float(mean(kernels.gaussian(s), r)) for s in (1.0, 2.0, 5.0)]
    np.testing.assert_allclose(values, [np.mean(1 - np.exp(-np.linspace(0, 4, 7) / 2 / s**2)) for s in (1, 2, 5)], 1e-5)
    assert len(traces) == 1
    many = jax.vmap(lambda kernel: jnp.mean(kernel(r)))(
        kernels.Kernel(kernels.gaussian(1.0).profile, jnp.array([[1.0], [2.0], [5.0]]))
    )
    np.testing.assert_allclose(many, values, rtol=1e-6)


@pytest.mark.parametrize(("metric", "name"), [("squared_euclidean", "euclidean"), ("manhattan", "cityblock")])
def test_bandwidths_equal_scipy_and_are_close_when_subsampled(metric, name):
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    for rule, exact in ((kernels.median_bandwidth, np.median), (kernels.mean_bandwidth, np.mean)):
        value = exact(pdist(x, name))
        np.testing.assert_allclose(rule(jax.random.key(0), x, metric=metric), value, rtol=1e-5)
        np.testing.assert_allclose(rule(jax.random.key(0), x, max_cells=300, metric=metric), value, rtol=0.05)


def test_bad_kernels_are_refused():
    for make in (kernels.gaussian, kernels.laplace, kernels.inverse_multiquadric, lambda s: kernels.matern(1.5, s)):
        for bad in (0.0, -1.0, [1.0, float("nan")]):
            with pytest.raises(ValueError, match="bandwidths has the value"):
                make(bad)
    with pytest.raises(ValueError, match=r"nu=1\.0"):
        kernels.matern(1.0, 2.0)
    with pytest.raises(ValueError, match=r"beta=2"):
        kernels.energy(2.0)
    with pytest.raises(ValueError, match="needs two cells"):
        kernels.median_bandwidth(jax.random.key(0), np.zeros((1, 3)))
