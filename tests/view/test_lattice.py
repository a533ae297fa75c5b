"""Whole numbers of counts: the law of the rounding, in NumPy and in JAX, and what the backward pass makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pdae_jax
from pdae_jax.view.lattice import as_measured, draws_of, neighbours, to_counts
from pdae_jax.view.sampler import make_sampler, to_device
from pdae_jax.view.units import make_standardizer
from pdae_jax.view.view import View, make_view

KEY = jax.random.key(0)
BOTH = pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    names = np.repeat(["control", "A", "B"], [50, 40, 30])
    x = random.poisson(random.gamma(1.0, 2.0, 8) * np.where(names == "A", 2, 1)[:, None]) + (np.arange(8) == 0)
    return pdae_jax.from_arrays(x, names, normalize=True)


def counts_of(y, size):
    """Counts of log-normalised values, exactly in double precision."""
    return np.expm1(np.asarray(y, np.float64)) * np.asarray(size, np.float64)[..., None]


@BOTH
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("largest", [10.0, 1e3, 1e5])
def test_values_that_were_not_moved_give_back_their_counts(xp, scale, largest):
    """All of them: where the floor of a number just below `c` is `c - 1`, a share of values would lose a count."""
    random = np.random.default_rng(0)
    size = (scale * random.lognormal(0, 0.5, 500)).astype(np.float32)
    counts = np.floor(np.exp(random.uniform(0, np.log(largest), (500, 200)))) * (random.random((500, 200)) < 0.8)
    x = np.log1p(counts / size[:, None].astype(np.float64)).astype(np.float32)
    back = as_measured(KEY, xp.asarray(x), xp.asarray(size))
    assert isinstance(back, jax.Array) == (xp is jnp)
    np.testing.assert_array_equal(np.round(counts_of(back, size)), counts)
    np.testing.assert_array_equal(to_counts(random, x, size), counts)


@BOTH
@pytest.mark.parametrize(
    ("scale", "rates"),
    [
        (0.01, [1e-4, 5e-4, 0.3, 2.5]),  # a small cell: a share of a count that is lost would be a large effect
        (1.0, [5e-4, 0.2, 1.3, 9.7]),
        (30.0, [1e-3, 0.5, 900.5, 1.9e4]),
        (1.0, [1e3, 3.3e4, 7.2e4, 1.1e5]),  # single precision tells the last ones hardly apart
    ],
)
def test_moved_values_keep_their_mean_and_become_neighbours(xp, scale, rates):
    number, rates = 40_000, np.asarray(rates)
    value, size = np.log1p(rates / scale).astype(np.float32), np.full(number, scale, np.float32)
    moved = np.asarray(as_measured(KEY, xp.asarray(np.broadcast_to(value, (number, 4))), xp.asarray(size)))
    counts = counts_of(moved, size)
    # as far as float32 has them: half a unit of the last place of a value, in counts
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3 + 1e-6 * rates.max())
    assert np.all(np.abs(np.round(counts) - rates) < 1)
    below = np.floor(rates)
    step = np.log1p((below + 1) / scale) - np.log1p(below / scale)
    share = np.clip((value - np.log1p(below / scale)) / step, 0, 1)
    deviation = step * np.sqrt(share * (1 - share) / number)
    assert np.all(np.abs(moved.mean(0, dtype=np.float64) - value) < 5 * deviation + 1e-5)


@BOTH
def test_huge_values_stay_numbers(xp):
    size = xp.asarray(np.ones(2, np.float32))
    x = xp.asarray(np.array([[-1.0, 0.0, 20.0], [1e-30, 14.0, 40.0]], np.float32))
    found = np.asarray(as_measured(KEY, x, size))
    np.testing.assert_allclose(found, np.maximum(np.asarray(x), 0), atol=2e-5)


def test_numpy_and_jax_have_one_body():
    random = np.random.default_rng(0)
    values = random.uniform(-0.1, 6, (300, 20)).astype(np.float32)
    size, draws = random.lognormal(size=300).astype(np.float32), random.random((300, 20)).astype(np.float32)
    of_both = (neighbours(values, size, draws), neighbours(*map(jnp.asarray, (values, size, draws))))
    one, other = (found.below + found.up for found in of_both)
    assert np.mean(one != np.asarray(other)) < 1e-3 and np.abs(one - np.asarray(other)).max() <= 1


@pytest.mark.parametrize("kind", ["none", "global", "feature"])
def test_cells_that_are_not_moved_stay(data, kind):
    view = View(make_standardizer(data, kind))
    y = jnp.asarray(view.into(data.x))
    np.testing.assert_allclose(view.measurable(y, data.size_factors, draws_of(KEY, data.size_factors, 8)), y, atol=2e-6)


def test_one_draw_is_for_all_targets(data):
    view = View(make_standardizer(data, "global"))
    y = jnp.asarray(np.broadcast_to(view.into(data.x) + 0.3, (3, *data.x.shape)))
    moved = view.measurable(y, data.size_factors, draws_of(KEY, data.size_factors, 8))
    np.testing.assert_array_equal(moved[0], moved[1])
    counts = counts_of(view.units.backward(np.asarray(moved[0], np.float64)), data.size_factors)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)


def test_the_backward_pass_takes_it_for_the_identity(data):
    view = View(make_standardizer(data, "global"))
    y = jnp.asarray(view.into(data.x) + 0.3)
    gradient = jax.grad(
        lambda y: jnp.sum(jnp.sin(view.measurable(y, data.size_factors, draws_of(KEY, data.size_factors, 8))))
    )(y)
    np.testing.assert_allclose(
        gradient, jnp.cos(view.measurable(y, data.size_factors, draws_of(KEY, data.size_factors, 8))), rtol=1e-5
    )


def test_sizes_come_with_their_cells(data):
    view, seen = make_view(pdae_jax.Recipe(standardize="none", nonnegative=True), data)
    assert seen is data
    sample = make_sampler(3, num_sources=3, cells_per_source=9, num_targets=2, cells_per_target=5)
    batch = sample(jax.random.key(0), to_device(data, view))
    size_of = {tuple(x): size for x, size in zip(data.x, data.size_factors, strict=True)}
    for x, size in zip(batch.x_source.reshape(-1, 8), batch.size.ravel(), strict=True):
        assert size_of[tuple(np.asarray(x))] == size
    assert sample(jax.random.key(0), to_device(data)).size is None


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
