"""The one translation: into what a model sees and back, in NumPy and inside `jit`, of every kind of cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pdae_jax
from pdae_jax.recipe import Recipe
from pdae_jax.view.components import find_components
from pdae_jax.view.view import make_view, with_units

KEY = jax.random.key(0)
NAMES = np.repeat(["control", "A", "B"], 40)


def cells(kind):
    random = np.random.default_rng(0)
    if kind == "counts":
        x = random.poisson(random.gamma(3.0, 1.0, 8), (120, 8)) + (np.arange(8) == 0)
        return pdae_jax.from_arrays(x, NAMES, normalize=True)
    x = random.normal(size=(120, 8))
    return pdae_jax.from_arrays(np.maximum(x, 0) if kind == "floor" else x, NAMES)


def seen_through(data, number):
    """The view of cells through their components, or as they are, and the cells as it gives them."""
    recipe = with_units(Recipe(components=number), data)
    return make_view(recipe, data, number and find_components(data, number))


@pytest.mark.parametrize("kind", ["plain", "floor", "counts"])
@pytest.mark.parametrize("number", [None, 3], ids=["features", "components"])
def test_what_is_not_moved_comes_back(kind, number):
    data = cells(kind)
    view, seen = seen_through(data, number)
    assert (view.floor is not None) == (kind != "plain") and seen.num_features == (number or 8)
    size = data.sizes(np.arange(data.num_cells))
    back = view.translated(lambda seen, _: seen, data.x, KEY, size)
    assert isinstance(back, np.ndarray) and back.dtype == np.float32
    np.testing.assert_allclose(back, data.x, atol=2e-6)
    np.testing.assert_array_equal(back == 0, data.x == 0)  # a zero comes back as one, not as a rounding error
    inside = jax.jit(lambda view, x, size: view.translated(lambda seen, _: seen, x, KEY, size))
    np.testing.assert_allclose(inside(view, data.x, size), data.x, atol=2e-6)


@pytest.mark.parametrize("kind", ["plain", "floor"])
@pytest.mark.parametrize("number", [None, 3], ids=["features", "components"])
def test_moved_cells_are_the_same_in_numpy_and_inside_jit(kind, number):
    data = cells(kind)
    view, seen = seen_through(data, number)
    np.testing.assert_allclose(view.units.forward(seen.x), view.into(data.x), atol=1e-6)

    def moved(view, x):
        return view.translated(lambda seen, _: 1.1 * seen - 0.3, x, KEY)

    found = moved(view, data.x)
    np.testing.assert_allclose(jax.jit(moved)(view, jnp.asarray(data.x)), found, atol=2e-6)
    assert found.min() == 0 if kind == "floor" else found.min() < 0
    if number and kind == "plain":  # what the scores leave of a cell is its own
        left = np.eye(8) - view.components.loadings @ view.components.loadings.T
        np.testing.assert_allclose(found @ left, data.x @ left, atol=1e-5)


def test_moved_counts_are_whole_numbers_of_each_cells_size():
    data = cells("counts")
    view, _ = seen_through(data, None)
    size = data.sizes(np.arange(data.num_cells))
    for xp in (np, jnp):
        found = view.translated(lambda x, _: x + 0.4, xp.asarray(data.x), KEY, xp.asarray(size))
        counts = np.expm1(np.asarray(found, np.float64)) * size[:, None].astype(np.float64)
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
        assert np.mean(found > data.x) > 0.1
    as_it_is = view.translated(lambda x, _: x + 0.4, data.x, KEY)  # cells that are not known as counts
    np.testing.assert_allclose(as_it_is, view.units.backward(view.into(data.x) + 0.4), atol=1e-6)


def test_a_model_sees_sizes_where_it_sees_counts():
    data, told = cells("counts"), []
    for number in (None, 3):
        view, seen = seen_through(data, number)
        assert (seen.size_factors is None) == (number is not None)
        view.translated(lambda x, size: told.append(size) or x, data.x, KEY, data.size_factors)
    assert told[0] is data.size_factors and told[1] is None
