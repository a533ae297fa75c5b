"""Two-sample statistics and scores against scipy, loops, finite differences and closed forms."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from pdae_jax import kernels, losses


def loop_energy_distance(x, y, beta, unbiased):
    """float64, by definition."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    within = [cdist(s, s) ** beta for s in (x, y)]
    pairs = [n * (n - 1), m * (m - 1)] if unbiased else [n * n, m * m]
    return 2 * (cdist(x, y) ** beta).mean() - within[0].sum() / pairs[0] - within[1].sum() / pairs[1]


def mean_distance(x, y, beta):
    return (cdist(x.astype(np.float64), y.astype(np.float64)) ** beta).mean()


# n, m, d, beta, offset, what y is
ACCURACY = [
    (2, 2, 3, 1.0, 0.0, "shifted"),
    (2, 3, 20_000, 1.0, 1e4, "shifted"),
    (70, 90, 1, 1.0, 1e4, "shifted"),
    (70, 90, 1, 0.5, 1e3, "shifted"),
    (70, 90, 3, 1.5, 1e4, "shifted"),
    (70, 90, 10, 1.0, 1e4, "shifted"),
    pytest.param(70, 90, 11, 1.9, 1e4, "shifted", marks=pytest.mark.slow),
    pytest.param(70, 90, 300, 1.0, 1e4, "shifted", marks=pytest.mark.slow),
    pytest.param(40, 30, 20_000, 1.0, 1e4, "shifted", marks=pytest.mark.slow),
    pytest.param(1500, 1100, 50, 1.0, 1e3, "hardly shifted", marks=pytest.mark.slow),
    (70, 70, 10, 1.0, 0.0, "near duplicates"),
    pytest.param(70, 70, 300, 1.0, 1e3, "near duplicates", marks=pytest.mark.slow),
    pytest.param(70, 70, 50, 0.7, 1e4, "identical", marks=pytest.mark.slow),
    pytest.param(1200, 1200, 12, 1.0, 1e4, "near duplicates", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("n", "m", "d", "beta", "offset", "kind"), ACCURACY)
def test_energy_distance_equals_float64_loop(n, m, d, beta, offset, kind, compiled):
    rng = np.random.default_rng(0)
    x = (offset + rng.normal(size=(n, d))).astype(np.float32)
    y = (offset + {"hardly shifted": 0.03}.get(kind, 0.5) + 1.2 * rng.normal(size=(m, d))).astype(np.float32)
    if kind == "near duplicates":
        y = (x + 1e-3 * rng.normal(size=x.shape)).astype(np.float32)
    if kind == "identical":
        y = x[::-1].copy()
    scale = mean_distance(x, y, beta)
    for unbiased in (True, False):
        function = lambda x, y, u=unbiased: losses.energy_distance(x, y, beta=beta, unbiased=u)  # noqa: E731
        value = float((jax.jit(function) if compiled else function)(x, y))
        expected = loop_energy_distance(x, y, beta, unbiased)
        # a millionth of the value; where it is a small difference of large means, one float32 unit of those
        assert abs(value - expected) <= 1e-6 * abs(expected) + 1.2e-7 * scale, (value, expected)


def test_numbers_that_float32_cannot_hold_are_centred_first():
    rng = np.random.default_rng(1)
    x, y = 1e6 + rng.normal(size=(60, 5)), 1e6 + 0.5 + rng.normal(size=(80, 5))
    np.testing.assert_allclose(losses.energy_distance(x, y), loop_energy_distance(x, y, 1.0, True), rtol=2e-6)


@pytest.mark.slow
def test_float64_when_asked():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 30)), 0.1 + rng.normal(size=(40, 30))
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(losses.energy_distance))(jnp.asarray(x), jnp.asarray(y))
        mmd = losses.mmd2(x, y, kernel=kernels.gaussian([2.0, 7.0]))
    assert value.dtype == gradient.dtype == mmd.dtype == np.float64
    np.testing.assert_allclose(value, loop_energy_distance(x, y, 1.0, True), rtol=1e-13)
    direction = rng.normal(size=x.shape)
    ahead, behind = (loop_energy_distance(x + s * 1e-5 * direction, y, 1.0, True) for s in (1, -1))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-5, rtol=1e-8)


def test_energy_distance_equals_scipy_in_one_dimension():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 1)).astype(np.float32), rng.gamma(2.0, size=(150, 1)).astype(np.float32)
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2  # scipy returns the root of the V form
    np.testing.assert_allclose(losses.energy_distance(x, y, unbiased=False), expected, rtol=1e-5)


# --- properties, whatever the numbers ------------------------------------------------------------------------------

# a few shapes, so that examples share compilations
# few shapes: each is compiled by itself
shapes = st.sampled_from([(2, 31, 1), (40, 2, 25), (40, 31, 4)])
samples = st.builds(lambda shape, *rest: (*shape, *rest), shapes, st.floats(0.2, 1.9), st.integers(0, 2**32 - 1))


def drawn(sample):
    n, m, d, beta, seed = sample
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * rng.uniform(0.2, 3) + rng.normal()
    return x.astype(np.float32), y.astype(np.float32), beta, rng


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(samples, st.booleans())
def test_all_routes_agree_and_the_axioms_hold(sample, unbiased):
    x, y, beta, rng = drawn(sample)
    distance = lambda x, y, **k: float(losses.energy_distance(x, y, beta=beta, unbiased=unbiased, **k))  # noqa: E731
    value, scale = distance(x, y), mean_distance(x, y, beta)
    close = lambda other, factor=1.0: abs(other - factor * value) <= factor * (1e-5 * abs(value) + 3e-7 * scale)  # noqa: E731
    assert close(distance(x, y, tile=12))  # tiled
    assert close(distance(y, x))  # symmetric
    assert close(distance(x[::-1].copy(), rng.permutation(y)))  # cells have no order
    rotation = np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0]
    assert close(distance(*((a.astype(np.float64) @ rotation + 3.0).astype(np.float32) for a in (x, y))))
    assert close(distance(np.float32(4.0) * x, np.float32(4.0) * y), 4.0**beta)  # scaling law
    if not unbiased:
        assert value >= -3e-8 * scale
    if not unbiased and beta == 1:
        assert distance(x, x) <= 3e-8 * scale


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(samples, st.booleans())
def test_one_sort_agrees_with_all_pairs(sample, unbiased):
    x, y, _, _ = drawn(sample)
    x, y = np.round(x[:, :1], 1), np.round(y[:, :1], 1)  # with ties
    one_sort = losses.energy_distance(x, y, unbiased=unbiased)
    all_pairs = losses.two_sample_statistic(x, y, kernels.energy(), unbiased=unbiased)
    np.testing.assert_allclose(one_sort, all_pairs, rtol=1e-6, atol=3e-7)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(samples, st.booleans())
def test_the_matrix_of_distances_holds_every_pair(sample, unbiased):
    x, y, _, rng = drawn(sample)
    z = 2.0 + rng.normal(size=(5, x.shape[1])).astype(np.float32)
    groups = [x, y, z]
    cells, group = np.concatenate(groups), np.repeat([0, 1, 2], [len(g) for g in groups])
    order = rng.permutation(len(cells))
    matrix = losses.two_sample_matrix(cells[order], group[order], unbiased=unbiased)
    expected = [[0 if a is b else loop_energy_distance(a, b, 1.0, unbiased) for b in groups] for a in groups]
    np.testing.assert_allclose(matrix, expected, rtol=2e-6, atol=2e-6)


def test_u_form_is_zero_on_average_and_v_form_is_not():
    rng = np.random.default_rng(9)
    draws = rng.normal(size=(400, 2, 20, 3)).astype(np.float32)
    # equal laws: V has expectation E|X - X'| (1/n + 1/m), U zero
    for unbiased, expected in ((True, 0.0), (False, 0.1 * 2 * scipy.special.gamma(2.0) / scipy.special.gamma(1.5))):
        function = jax.jit(jax.vmap(lambda p, u=unbiased: losses.energy_distance(p[0], p[1], unbiased=u)))
        values = np.asarray(function(draws))
        assert abs(values.mean() - expected) < 4 * values.std() / 20


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
    np.testing.assert_allclose(losses.energy_score(x, y), expected, rtol=1e-6)
    far = losses.energy_score((x + 1e4).astype(np.float32), (y + 1e4).astype(np.float32))
    np.testing.assert_allclose(far, expected, rtol=1e-3)  # the cells themselves are rounded there
    whole = losses.kernel_score(jnp.asarray(x), jnp.asarray(y), kernels.energy())
    np.testing.assert_allclose(losses.energy_score(x, y), whole, rtol=1e-6)
    cells = jax.ShapeDtypeStruct((100_000, 20), jnp.float32)
    memory = jax.jit(losses.energy_score).lower(cells, cells).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.3e9


def test_a_kernel_of_your_own_is_one_function():
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(30, 3)).astype(np.float32), 1 + rng.normal(size=(25, 3)).astype(np.float32)
    cauchy = lambda sq: sq / (1 + sq)  # noqa: E731
    k = lambda a, b: 1 / (1 + cdist(a, b) ** 2)  # noqa: E731
    expected = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    np.testing.assert_allclose(losses.mmd2(x, y, kernel=cauchy, unbiased=False), expected, rtol=1e-5)
    score = float(losses.kernel_score(jnp.asarray(x), jnp.asarray(y), cauchy))
    assert score == pytest.approx(0.5 * k(x, x)[np.triu_indices(30, 1)].mean() - k(x, y).mean() + 0.5, 1e-5)


def test_bad_groups_are_refused():
    x = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="values from 0 to 3, but num_groups=2"):
        losses.two_sample_matrix(x, np.arange(4), num_groups=2)
    with pytest.raises(ValueError, match=r"group \(3,\)"):
        losses.two_sample_matrix(x, np.arange(3))
    with pytest.raises(ValueError, match="Pass num_groups=G"):
        jax.jit(lambda group: losses.two_sample_matrix(x, group))(np.arange(4))


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="3 features but y has 4"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"Sample y has shape \(1, 3\)"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="beta=2"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.float32), beta=2.0)
