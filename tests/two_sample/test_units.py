"""The unit of the data changes nothing, and no number is made of a sample that has something else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from pdae_jax import kernels, losses
from pdae_jax.two_sample.aggregated import aggregated_test
from pdae_jax.two_sample.one_dimensional import energy_distance_1d
from pdae_jax.two_sample.permutation import two_sample_test, two_sample_tests

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(14, 12)), RANDOM.normal(size=(18, 12)) + 0.3
KEY = jax.random.key(0)
SCALES = (1e-30, 1e-22, 1e20, 1e30)


def loop(x, y, beta=1.0):
    """U form in float64, by definition."""
    within = [(pdist(s) ** beta).mean() for s in (x, y)]
    return 2 * (cdist(x, y) ** beta).mean() - sum(within)


STATISTICS = {
    "energy_distance": (losses.energy_distance, lambda c: c * loop(X, Y)),
    "root": (lambda x, y: losses.energy_distance(x, y, beta=0.5), lambda c: c**0.5 * loop(X, Y, 0.5)),
    "one feature": (lambda x, y: energy_distance_1d(x[:, 0], y[:, 0]), lambda c: c * loop(X[:, :1], Y[:, :1])),
    "energy_score": (losses.energy_score, lambda c: c * (cdist(X, Y).mean() - 0.5 * pdist(X).mean())),
    "kernel_score": (
        lambda x, y: losses.kernel_score(x, y, kernels.energy()),
        lambda c: c * (cdist(X, Y).mean() - 0.5 * pdist(X).mean()),
    ),
    "mmd2": (losses.mmd2, lambda c: float(losses.mmd2(X, Y))),
    "matrix": (
        lambda x, y: losses.two_sample_matrix(np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)]))[0, 1],
        lambda c: c * loop(X, Y),
    ),
    "median": (lambda x, y: kernels.median_bandwidth(KEY, x), lambda c: c * np.median(pdist(X))),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_another_unit_is_another_unit(name):
    statistic, expected = STATISTICS[name]
    for scale in SCALES:
        x, y = (np.float32(scale) * sample.astype(np.float32) for sample in (X, Y))
        assert float(statistic(x, y)) == pytest.approx(expected(scale), rel=1e-4), scale
    for wrong in (np.nan, np.inf, -np.inf):
        bad = X.astype(np.float32)
        bad[3, 0] = wrong
        assert np.isnan(float(statistic(bad, Y.astype(np.float32))))


def test_gradients_are_those_of_finite_differences_in_any_unit():
    gradient, step = jax.jit(jax.grad(losses.energy_distance)), 1e-5
    moved = X + step * (np.arange(X.size).reshape(X.shape) == 5)
    expected = (loop(moved, Y) - loop(2 * X - moved, Y)) / (2 * step)
    for scale in (1e-20, 1e20):  # of degree one, so that the slope has no unit
        x, y = (jnp.asarray(scale * sample, jnp.float32) for sample in (X, Y))
        assert float(gradient(x, y).ravel()[5]) == pytest.approx(expected, rel=1e-3)


def test_p_values_have_no_unit():
    def outcomes(scale):
        x, y = scale * X, scale * Y
        many = two_sample_tests({"a": (x, y), "b": (y, x)}, key=KEY, num_permutations=99)
        options = {"num_quantile": 100, "num_level": 100, "num_bandwidths": 2, "families": ["gaussian"]}
        aggregated = aggregated_test(x, y, key=KEY, level=0.1, **options)
        one = two_sample_test(x, y, key=KEY, num_permutations=99)
        p_values = [one.p_value, *many.p_value, aggregated.p_value]
        return p_values, np.array([one.statistic / scale, *many.statistic / scale, *aggregated.bandwidths / scale])

    p_values, numbers = outcomes(1.0)
    assert min(p_values) >= 0.01 and max(p_values) <= 1.0
    for scale in (1e-30, 1e-22, 1e20):
        found = outcomes(scale)
        assert found[0] == p_values
        np.testing.assert_allclose(found[1], numbers, rtol=1e-5)
