"""Atoms and intrinsic dimension, on laws whose dimension is known."""

import jax
import numpy as np
import pytest
from scipy.stats import ortho_group

from pdae_jax import fit, predict
from pdae_jax.data.load import from_arrays
from pdae_jax.recipe import Recipe
from pdae_jax.training.defaults import has_atoms, has_density, intrinsic_dimension, resolve_recipe
from pdae_jax.training.pilot import make_pilot


def surface(dim, cells=2000, features=10, bend=0.3, seed=0):
    """Normal draws in `dim` dimensions, turned into more features and bent."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(cells, dim)) @ ortho_group.rvs(features, random_state=seed)[:dim]
    return x + bend * np.sin(2 * x @ ortho_group.rvs(features, random_state=seed + 1)) + 100.0


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_intrinsic_dimension_is_that_of_the_surface(dim):
    # the estimate is gamma distributed around the dimension, relative deviation 1 / sqrt(cells)
    assert intrinsic_dimension(surface(dim)) == pytest.approx(dim, rel=0.1)


def test_cells_that_coincide_are_counted_once():
    x = surface(2)
    assert intrinsic_dimension(np.concatenate([x, x[:500]])) == pytest.approx(intrinsic_dimension(x))
    assert intrinsic_dimension(x[:2]) == 0.0
    assert intrinsic_dimension(np.eye(4)) > 100  # all at one distance


def test_noise_in_all_directions_hides_the_surface():
    x = surface(2)
    noise = np.random.default_rng(5).normal(size=x.shape)
    assert has_density(x, 2) and has_density(x + 1e-3 * noise, 2)
    assert not has_density(x + 0.5 * noise, 2)
    assert has_density(x + 0.5 * noise, 10)


def test_atoms_are_values_that_repeat():
    x = np.random.default_rng(0).normal(size=(1000, 3))
    assert not has_atoms(x)
    assert not has_atoms(np.concatenate([x, np.ones((1000, 1))], axis=1))  # a constant feature
    assert has_atoms(np.maximum(x, -1.5)) and not has_density(np.maximum(x, -1.5), 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_wells_a_condition_are_no_surface(seed):
    """Their neighbours are wells of other conditions: that noise has all directions is not seen among them."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.zeros((1, 8)), np.eye(8), *[[np.eye(8)[i] + np.eye(8)[i - 1]] for i in range(8)]])
    wells = np.repeat(labels @ random.normal(size=(8, 20)) * 2.0, 3, axis=0)
    data = from_arrays(wells + 0.3 * random.normal(size=wells.shape), labels=np.repeat(labels, 3, axis=0))
    recipe = resolve_recipe(Recipe(), data)
    # so the start carries the linear model's means in full, as the baseline `ridge` does
    assert recipe.observed_effects and recipe.likelihood == 0.0 and recipe.patience is not None


def test_of_three_wells_a_condition_the_start_is_the_linear_model():
    """Latents lie far out there: what nets that only nearly vanish add to the linear model would not be small."""
    random, labels = np.random.default_rng(0), np.concatenate([np.zeros((1, 4)), np.eye(4), [[1, 1, 0, 0]]])
    wells = np.repeat(labels @ random.normal(size=(4, 6)) * 40.0, 3, axis=0)
    data = from_arrays(wells + 0.3 * random.normal(size=wells.shape), labels=np.repeat(labels, 3, axis=0))
    fitted, target = fit(data, key=jax.random.key(0), stop_step=0), np.float32([0, 1, 1, 0])
    sample = predict(fitted, target, key=jax.random.key(1), num_samples=3).samples  # each well once
    linear = make_pilot(fitted.recipe, data).means.linear
    expected = linear.predict(fitted.design.row(target)) * fitted.view.units.scale
    np.testing.assert_allclose(sample.mean(0) - data.cells(data.control).mean(0), expected, atol=1e-4 * 40)
