"""Two-sample statistics and scores against scipy, loops, finite differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist

from pdae_jax import kernels, losses


def loop_energy_distance(x, y, beta, unbiased):
    """float64, by definition."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    within = [cdist(s, s) ** beta for s in (x, y)]
    pairs = [n * (n - 1), m * (m - 1)] if unbiased else [n * n, m * m]
    return 2 * (cdist(x, y) ** beta).mean() - within[0].sum() / pairs[0] - within[1].sum() / pairs[1]


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
@pytest.mark.parametrize(("d", "beta"), [(1, 1.0), (3, 0.5), (10, 1.0), (10, 1.5), (300, 1.0)])
def test_energy_distance_equals_float64_loop(d, beta, offset):
    rng = np.random.default_rng(0)
    x = (offset + rng.normal(size=(70, d))).astype(np.float32)
    y = (offset + 0.5 + 1.2 * rng.normal(size=(90, d))).astype(np.float32)
    for unbiased in (True, False):
        value = losses.energy_distance(x, y, beta=beta, unbiased=unbiased)
        np.testing.assert_allclose(value, loop_energy_distance(x, y, beta, unbiased), rtol=2e-5, atol=2e-6)


def test_energy_distance_equals_scipy_in_one_dimension():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 1)).astype(np.float32), rng.gamma(2.0, size=(150, 1)).astype(np.float32)
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2  # scipy returns the root of the V form
    np.testing.assert_allclose(losses.energy_distance(x, y, unbiased=False), expected, rtol=1e-5)


def test_tiles_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(103, 9)).astype(np.float32), rng.normal(size=(50, 9)).astype(np.float32) + 1

    def value_and_grad():
        return jax.jit(jax.value_and_grad(lambda x: losses.energy_distance(x, y)))(jnp.asarray(x))

    whole = value_and_grad()
    monkeypatch.setattr(losses, "TILE_ELEMENTS", 700)  # tiles of 6 to 14 rows, the last one padded
    tiled = value_and_grad()
    np.testing.assert_allclose(tiled[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(tiled[1], whole[1], atol=1e-7)


def test_zero_weights_mask_rows():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    padded = np.concatenate([y, np.full((7, 4), 5.0, np.float32)])
    weights = jnp.asarray(np.arange(27) < 20, jnp.float32)
    masked = losses.two_sample_statistic(x, padded, kernels.energy(), weights_y=weights)
    np.testing.assert_allclose(masked, losses.energy_distance(x, y), atol=2e-6)


def test_identical_samples_and_their_gradient():
    x = np.random.default_rng(4).normal(size=(40, 12)).astype(np.float32)
    assert abs(float(losses.energy_distance(x, x, unbiased=False))) < 1e-6
    gradient = jax.grad(lambda x: losses.energy_distance(x, x[::-1], unbiased=False))(jnp.asarray(x))
    assert np.all(np.isfinite(gradient))
    duplicates = jnp.ones((6, 12))
    assert np.all(np.isfinite(jax.grad(lambda x: losses.energy_distance(x, duplicates))(duplicates)))


@pytest.mark.parametrize("d", [3, 20])
def test_gradient_equals_finite_differences(d):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(15, d)), rng.normal(size=(12, d)) + 0.3
    gradient = jax.jit(jax.grad(lambda x: losses.energy_distance(x, y.astype(np.float32))))(jnp.asarray(x, jnp.float32))
    direction = rng.normal(size=x.shape)
    step = 1e-5
    ahead, behind = (loop_energy_distance(x + s * step * direction, y, 1.0, True) for s in (1, -1))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / (2 * step), rtol=1e-4)


def test_mmd_equals_loop_and_known_gaussian_value():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(60, 3)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32) + 0.5
    k = lambda a, b: np.exp(-(cdist(a, b) ** 2) / (2 * 1.3**2))  # noqa: E731
    expected = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    value = losses.mmd2(x, y, kernel=kernels.gaussian(1.3), unbiased=False)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    # Population value for N(0, 1) against N(1, 1), d = 1: E k = s / sqrt(s^2 + 2) exp(-delta^2 / (2 s^2 + 4)).
    x, y = rng.normal(size=(4000, 1)).astype(np.float32), 1 + rng.normal(size=(4000, 1)).astype(np.float32)
    population = 2 / np.sqrt(3) * (1 - np.exp(-1 / 6))
    np.testing.assert_allclose(losses.mmd2(x, y, kernel=kernels.gaussian(1.0)), population, rtol=0.1)


@pytest.mark.parametrize(
    "kernel", [kernels.gaussian([0.5, 2.0]), kernels.laplace(1.0), kernels.inverse_multiquadric(1.0)]
)
def test_every_kernel_separates_laws_and_vanishes_on_one(kernel):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(400, 5)).astype(np.float32), rng.normal(size=(400, 5)).astype(np.float32)
    assert abs(float(losses.mmd2(x, y, kernel=kernel))) < 0.01
    assert float(losses.mmd2(x, y + 1.0, kernel=kernel)) > 0.05


def test_energy_score_is_half_the_energy_distance_plus_a_constant():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(60, 6)).astype(np.float32) + 1
    spread = cdist(y, y).sum() / (60 * 59)
    expected = 0.5 * (loop_energy_distance(x, y, 1.0, True) + spread)
    np.testing.assert_allclose(losses.energy_score(x, y), expected, rtol=1e-5)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="3 features but y has 4"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"Sample y has shape \(1, 3\)"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="beta=2"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.float32), beta=2.0)
