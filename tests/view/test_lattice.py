"""Whole counts on the device against NumPy, and what the backward pass makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pdae_jax
from pdae_jax.types import Counted
from pdae_jax.view.lattice import whole_counts
from pdae_jax.view.sample import make_sampler, to_device
from pdae_jax.view.units import make_standardizer


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    names = np.repeat(["control", "A", "B"], [50, 40, 30])
    x = random.poisson(random.gamma(1.0, 2.0, 8) * np.where(names == "A", 2, 1)[:, None]) + (np.arange(8) == 0)
    return pdae_jax.from_arrays(x, names, normalize=True)


@pytest.mark.parametrize("kind", ["none", "global", "feature"])
def test_cells_that_are_not_moved_stay(data, kind):
    units = make_standardizer(data, kind)
    counted = Counted(data.size_factors, units.scale, units.mean)
    y = jnp.asarray(units.forward(data.x))
    np.testing.assert_allclose(whole_counts(jax.random.key(0), y, counted), y, atol=2e-4)


def test_moved_cells_are_whole_numbers_with_the_right_mean(data):
    units = make_standardizer(data, "global")
    counted = Counted(np.full(20_000, 0.7, np.float32), units.scale, units.mean)
    level = np.log1p(np.array([0.2, 1.3, 9.0, 0, 0, 0, 0, 0], np.float32))
    y = jnp.asarray(np.broadcast_to(units.forward(level), (3, 20_000, 8)), jnp.float32)
    moved = units.backward(np.asarray(whole_counts(jax.random.key(0), y, counted), np.float64))
    counts = np.expm1(moved) * 0.7
    np.testing.assert_allclose(counts, np.round(counts), atol=2e-3)
    np.testing.assert_allclose(moved[0].mean(0), level, rtol=0.03, atol=1e-3)
    np.testing.assert_array_equal(moved[0], moved[1])  # one draw for all targets


def test_the_backward_pass_takes_it_for_the_identity(data):
    units = make_standardizer(data, "global")
    counted = Counted(data.size_factors, units.scale, units.mean)
    y = jnp.asarray(units.forward(data.x) + 0.3)
    gradient = jax.grad(lambda y: jnp.sum(jnp.sin(whole_counts(jax.random.key(0), y, counted))))(y)
    np.testing.assert_allclose(gradient, jnp.cos(whole_counts(jax.random.key(0), y, counted)), rtol=1e-5)


def test_sizes_come_with_their_cells(data):
    units = make_standardizer(data, "none")
    sample = make_sampler(3, num_sources=3, cells_per_source=9, num_targets=2, cells_per_target=5)
    batch = sample(jax.random.key(0), to_device(data, units))
    size_of = {tuple(x): size for x, size in zip(data.x, data.size_factors, strict=True)}
    for x, size in zip(batch.x_source.reshape(-1, 8), batch.counted.size.ravel(), strict=True):
        assert size_of[tuple(np.asarray(x))] == size
    assert sample(jax.random.key(0), to_device(data)).counted is None


@pytest.mark.slow
def test_a_fit_is_judged_as_it_predicts():
    """The error on a validation condition is that of the whole numbers that are predicted."""
    random, names = np.random.default_rng(1), np.repeat(["control", "A", "B", "A+B"], 300)
    base = np.append(np.full(20, 0.3), 50.0)  # the last gene keeps the size of a cell what it is
    change = {"A": np.where(np.arange(21) < 8, 3.0, 1.0), "B": np.where(np.arange(21) % 20 > 11, 3.0, 1.0)}
    rates = [base * np.prod([change[p] for p in name.split("+") if p in change] or [base**0], axis=0) for name in names]
    x = random.poisson(rates)
    train, validation = pdae_jax.hold_out(pdae_jax.from_arrays(x, names, normalize=True), ["A+B"])
    true, judged, errors = validation.cells("A+B"), [], []
    for seed in range(8):  # both are means over draws of cells, and of the rounding
        key = jax.random.key(seed)
        fitted = pdae_jax.fit(train, key=key, validation=validation, stop_step=0, latent_dim=2, hidden=(4,))
        judged.append(fitted.validation_errors["A+B"]["pdae"])
        errors.append(float(pdae_jax.losses.energy_distance(pdae_jax.predict(fitted, "A+B", key=key).samples, true)))
    assert abs(np.mean(judged) - np.mean(errors)) < 4 * np.sqrt((np.var(judged) + np.var(errors)) / 7)
