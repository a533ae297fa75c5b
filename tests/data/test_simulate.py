"""Simulated worlds: the truth returned is the truth sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pdae_jax.data.simulate import design, simulate
from pdae_jax.losses import energy_distance

KEY = jax.random.key(0)


def test_the_same_key_gives_the_same_world_and_another_key_another():
    first, again, other = (simulate(jax.random.key(s), cells_per_condition=20) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.data.x, again.data.x)
    assert not np.allclose(first.world.shift_matrix, other.world.shift_matrix)


def test_interactions_are_drawn_apart_from_all_else():
    """The direction of p0+p1 was a function of the lengths of other shifts: one key served both."""
    directions, lengths = [], []
    for seed in range(30):
        key, options = jax.random.key(seed), {"latent_dim": 2, "observed_dim": 2, "cells_per_condition": 2}
        world = simulate(key, interaction=0.5, labels=["p0"], **options).world
        plain = simulate(key, labels=["p0"], **options)
        np.testing.assert_array_equal(plain.world.shift_matrix, world.shift_matrix)
        assert plain.world.interactions is None
        directions.append(world.interactions[0, 1] / np.linalg.norm(world.interactions[0, 1]))
        lengths.append(np.linalg.norm(world.shift_matrix, axis=1))
        np.testing.assert_allclose(np.linalg.norm(world.interactions[0, 1]), 0.75, rtol=1e-6)
    for component in np.transpose(directions):
        for length in np.transpose(lengths):
            assert stats.spearmanr(component, length).pvalue > 1e-3


def test_latents_have_the_stated_law_and_shift():
    data, world, latents = simulate(KEY, cells_per_condition=3000, labels=["p0", "p0+p1:0.5"])
    for condition in data.conditions:
        z = latents[data.condition_index == data.index(condition)] - data.label(condition) @ world.shift_matrix
        assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in z.T)
        np.testing.assert_allclose(np.cov(z.T), np.eye(4), atol=0.1)


@pytest.mark.parametrize("base", ["correlated", "mixture"])
def test_other_base_laws_are_not_standard_normal(base):
    _, world, _ = simulate(KEY, base=base, cells_per_condition=10)
    z = np.asarray(world.sample_latent(KEY, "control", 5000))
    if base == "correlated":
        np.testing.assert_allclose(np.cov(z.T), world.base_scale @ world.base_scale.T, atol=0.1)
        assert np.abs(np.cov(z.T) - np.eye(4)).max() > 0.2
    else:
        assert stats.kstest(z[:, 0], "norm").pvalue < 1e-6
        np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.05)


def test_network_mixing_is_injective():
    # Residual layers with Lipschitz constant L < 1 keep |f(a) - f(b)| >= (1 - L)^3 |a - b|.
    _, world, latents = simulate(KEY, cells_per_condition=400, nonlinearity=0.9, observed_dim=7)
    a, b = latents[:1000], latents[1000:2000]
    images = [np.asarray(world.mixing(jnp.asarray(z))) for z in (a, b)]
    ratio = np.linalg.norm(images[0] - images[1], axis=1) / np.linalg.norm(a - b, axis=1)
    assert ratio.min() >= (1 - 0.95 * 0.9) ** 3


def test_fresh_draws_follow_the_law_of_the_data():
    data, world, _ = simulate(KEY, cells_per_condition=1500, noise="gaussian", labels=["p0+p1"])
    fresh = world.sample(jax.random.key(5), "p0+p1", 1500)
    assert abs(float(energy_distance(fresh, data.cells("p0+p1")))) < 0.01
    assert float(energy_distance(fresh, data.cells("control"))) > 0.1


def test_counts_are_sparse_over_dispersed_and_non_negative():
    data, _, _ = simulate(KEY, observed_dim=30, noise="counts", cells_per_condition=500)
    assert data.x.min() == 0.0 and 0.05 < np.mean(data.x == 0) < 0.95
    counts = np.expm1(data.cells("control"))
    assert np.mean(counts.var(axis=0) > counts.mean(axis=0)) > 0.9


def test_counts_have_the_moments_of_their_law():
    """Poisson with a gamma factor of variance d and a log-normal depth s, seen as log(1 + counts / s)."""
    _, world, _ = simulate(KEY, observed_dim=6, noise="counts", noise_scale=0.5, cells_per_condition=10)
    one = world.sample_latent(KEY, "control", 1)
    over_depth = np.expm1(np.asarray(world.observe(KEY, jnp.repeat(one, 200_000, axis=0)), np.float64))
    rate = np.asarray(jax.nn.softplus(2.0 * world.mixing(one)), np.float64)[0]
    variance = rate * np.exp(0.3**2 / 2) + 0.5 * rate**2  # E[1 / s] = exp(0.3^2 / 2)
    np.testing.assert_allclose(over_depth.mean(axis=0), rate, atol=5 * np.sqrt(variance.max() / 200_000))
    np.testing.assert_allclose(over_depth.var(axis=0), variance, rtol=0.05)


def test_designs():
    assert design(["a", "b"], singles=1.0, doubles=1.0, doses=[0.5]) == [
        {"a": 1},
        {"b": 1},
        {"a": 0.5},
        {"b": 0.5},
        {"a": 1, "b": 1},
    ]
    data = simulate(KEY, labels=[{"p0": 0.5}, "p1+p2"], cells_per_condition=5).data
    assert data.conditions == ("control", "p0:0.5", "p1+p2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "gausian"}, "base='gausian'"),
        ({"mixing": "mlp"}, "mixing='mlp'"),
        ({"observed_dim": 2}, "observed_dim=2 is smaller"),
        ({"mixing": "complex_exponential"}, "lives in the plane"),
    ],
)
def test_impossible_worlds_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(KEY, **change)
