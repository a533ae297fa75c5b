"""Estimates against the full statistics they estimate, and their stated errors against the errors they make."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pdae_jax import kernels, linear_time, losses
from pdae_jax.two_sample import one_dimensional

KEYS = jax.random.split(jax.random.key(0), 400)


@functools.partial(jax.jit, static_argnums=1)
def estimates(shift, pairs_per_cell):
    """Of fresh samples each time: the standard error is that of the estimate of the laws' distance."""

    def estimate(key):
        key_x, key_y, key_pairs = jax.random.split(key, 3)
        x, y = jax.random.normal(key_x, (100, 3)), shift + jax.random.normal(key_y, (120, 3))
        return linear_time.incomplete_statistic(key_pairs, x, y, pairs_per_cell=pairs_per_cell)

    return jax.vmap(estimate)(KEYS)


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("pairs_per_cell", [1, 6])
def test_incomplete_statistic_is_unbiased_and_states_its_error(pairs_per_cell, shift):
    value, error = estimates(shift, pairs_per_cell)
    rng = np.random.default_rng(0)
    truth = 0.0
    if shift:
        truth = float(losses.energy_distance(rng.normal(size=(9000, 3)), shift + rng.normal(size=(9000, 3))))
    assert abs(np.mean(value) - truth) < 4 * np.std(value) / 20 + 0.01 * truth
    # the standard deviation of 400 draws is known to 3.5 %
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(error))), np.std(value), rtol=0.15)


@pytest.mark.slow
def test_incomplete_statistic_nears_the_complete_one():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 5)), 0.6 + rng.normal(size=(400, 5))
    for kernel in (kernels.energy(), kernels.laplace(3.0, norm="l1"), lambda sq: sq / (1 + sq)):
        full = losses.two_sample_statistic(x, y, kernel)
        part = linear_time.incomplete_statistic(KEYS[0], x, y, kernel=kernel, pairs_per_cell=199)
        assert abs(part.value - full) < 0.1 * part.standard_error
    few = linear_time.incomplete_statistic(KEYS[0], x, y, pairs_per_cell=2)
    assert few.standard_error > linear_time.incomplete_statistic(KEYS[0], x, y, pairs_per_cell=20).standard_error


@pytest.mark.parametrize("d", [1, 2, 60])
@pytest.mark.parametrize("unbiased", [True, False])
def test_sliced_energy_distance_estimates_the_energy_distance(d, unbiased):
    rng = np.random.default_rng(2)
    x, y = 100 + rng.normal(size=(150, d)), 100.4 + 1.3 * rng.normal(size=(100, d))
    full = losses.energy_distance(x, y, unbiased=unbiased)
    value, error = linear_time.sliced_energy_distance(KEYS[0], x, y, num_projections=400, unbiased=unbiased)
    if d == 1:  # one direction, and its constant is 1
        np.testing.assert_allclose(value, full, rtol=1e-5)
    else:
        assert abs(value - full) < 4 * error < 0.4 * full


@pytest.mark.slow
def test_per_feature_table_equals_scipy_and_ignores_offsets():
    rng = np.random.default_rng(3)
    x, y = (rng.gamma(2.0, size=(n, 6)).astype(np.float32) for n in (300, 200))
    y[:, 3] += 1
    expected = [scipy.stats.energy_distance(x[:, j], y[:, j]) ** 2 for j in range(6)]
    np.testing.assert_allclose(one_dimensional.energy_distance_by_feature(x, y, unbiased=False), expected, rtol=1e-5)
    x, y = np.round(x * 64) / 64, np.round(y * 64) / 64  # an offset of 1e4 is exact
    near, far = (one_dimensional.energy_distance_1d(x[:, 3] + o, y[:, 3] + o) for o in np.float32([0, 1e4]))
    assert near == far


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=40), 0.5 + rng.normal(size=30)
    direction = rng.normal(size=40)
    v_form = lambda x: scipy.stats.energy_distance(x, y) ** 2  # noqa: E731
    expected = (v_form(x + 1e-6 * direction) - v_form(x - 1e-6 * direction)) / 2e-6
    gradient = jax.grad(lambda x: one_dimensional.energy_distance_1d(x, y.astype(np.float32), unbiased=False))
    np.testing.assert_allclose(gradient(jnp.asarray(x, jnp.float32)) @ direction, expected, rtol=1e-4)
    x, y = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32), jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    for estimate in (linear_time.sliced_energy_distance, linear_time.incomplete_statistic):
        function = lambda x, e=estimate: e(KEYS[0], x, y).value  # noqa: E731
        slope = jnp.sum(jax.grad(function)(x))  # moving all cells together
        np.testing.assert_allclose(slope, (function(x + 0.01) - function(x - 0.01)) / 0.02, rtol=0.05)
        assert np.all(np.isfinite(jax.grad(lambda x, e=estimate: e(KEYS[0], x, x).value)(x)))


def test_bad_input_is_refused():
    x = np.zeros((10, 2))
    with pytest.raises(ValueError, match="pairs_per_cell=5 with 10 cells"):
        linear_time.incomplete_statistic(KEYS[0], x, x, pairs_per_cell=5)
    with pytest.raises(ValueError, match="num_projections=1"):
        linear_time.sliced_energy_distance(KEYS[0], x, x, num_projections=1)
    with pytest.raises(ValueError, match="2 features but y has 3"):
        linear_time.sliced_energy_distance(KEYS[0], x, np.zeros((10, 3)))
    with pytest.raises(ValueError, match="two of each"):
        one_dimensional.energy_distance_1d(np.zeros(1), np.zeros(4))
