import jax
import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist, pdist

from pdae_jax import kernels
from pdae_jax.randomness import make_random
from pdae_jax.two_sample import aggregated as mmdagg
from pdae_jax.two_sample.aggregated import aggregate, aggregated_test
from pdae_jax.two_sample.permutation import two_sample_test
from pdae_jax.two_sample.relabelling import draw_members, draw_signs

RANDOM = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 400)
METHODS = ("permutation", "wild_bootstrap")
FEW = {"num_quantile": 200, "num_level": 200}


# --- the published procedure, in float64 loops ---------------------------------------------------------------------


def published_statistics(x, y, labels, method, num_bandwidths):
    pooled = np.concatenate([x, y])
    statistic = u_statistic if method == "permutation" else paired_statistic
    rows = []
    for name, family in (("euclidean", lambda r: np.exp(-(r**2))), ("cityblock", lambda r: np.exp(-r))):
        low, high = np.quantile(pdist(pooled, name), [0.05, 0.95])
        for power in np.linspace(0, 1, num_bandwidths):
            gram = family(cdist(pooled, pooled, name) / (low / 2 * (4 * high / low) ** power))
            rows.append([statistic(gram, label) for label in labels])
    return np.array(rows)


def published_thresholds(statistics, level, num_quantile):
    """Schrab et al. 2023, Algorithm 1, the level corrected by bisection."""
    weight = 1 / len(statistics)
    first = np.sort(statistics[:, : 1 + num_quantile], axis=1)
    further = statistics[:, 1 + num_quantile :]

    def quantiles(u):
        return first[:, int(np.ceil((num_quantile + 1) * (1 - u * weight))) - 1]

    u_min, u_max = 0.0, 1 / weight
    for _ in range(40):
        u = 0.5 * (u_min + u_max)
        exceeded = np.mean(np.any(further > quantiles(u)[:, None], axis=0))
        u_min, u_max = (u, u_max) if exceeded <= level else (u_min, u)
    return quantiles(u_min)


def u_statistic(gram, member):
    a, b = np.flatnonzero(member), np.flatnonzero(member == 0)
    within = [(gram[np.ix_(i, i)].sum() - len(i)) / (len(i) * (len(i) - 1)) for i in (a, b)]
    return within[0] + within[1] - 2 * gram[np.ix_(a, b)].mean()


def paired_statistic(gram, sign):
    n = len(sign)
    order = np.where(sign > 0, np.arange(n), np.arange(n) + n)  # cells that are x after the swaps
    other = np.where(sign > 0, np.arange(n) + n, np.arange(n))
    core = gram[np.ix_(order, order)] + gram[np.ix_(other, other)]
    core = core - gram[np.ix_(order, other)] - gram[np.ix_(other, order)]
    return (core.sum() - np.trace(core)) / (n * (n - 1))


@pytest.mark.parametrize(
    ("n", "m", "d", "method"),
    [(23, 31, 3, "permutation"), (28, 28, 20, "permutation"), (30, 30, 3, "wild_bootstrap")],
)
def test_agrees_with_the_published_procedure_on_the_same_relabellings(n, m, d, method):
    decisions = []
    for key, scale in zip(KEYS[:6], (1.0, 1.2, 1.35, 1.5, 1.7, 2.5), strict=True):
        x, y = RANDOM.normal(size=(n, d)), scale * RANDOM.normal(size=(m, d))
        result = aggregated_test(x, y, key=key, method=method, num_bandwidths=4, **FEW)
        random = make_random(key)
        labels = draw_signs(random, n, 400, n) if method == "wild_bootstrap" else draw_members(random, n, m, 400, n + m)
        statistics = published_statistics(x, y, labels, method, 4)
        observed, threshold = statistics[:, 0], published_thresholds(statistics, 0.05, 200)
        np.testing.assert_allclose(result.statistic, observed, atol=2e-6)
        np.testing.assert_allclose(result.threshold, threshold, rtol=1e-4, atol=2e-6)
        assert result.rejected == np.any(observed > threshold)
        assert result.rejected_by == tuple(np.array(result.kernels)[observed > threshold])
        # the p-value is the smallest level that rejects
        assert np.any(observed > published_thresholds(statistics, result.p_value, 200))
        below = np.any(observed > published_thresholds(statistics, result.p_value - 0.5 / 200, 200))
        assert not below or result.p_value == 1 / 200
        decisions.append(result.rejected)
    assert set(decisions) == {True, False}


# --- aggregation ---------------------------------------------------------------------------------------------------


def test_the_level_is_corrected_for_as_many_tests_as_there_are():
    random, level = np.random.default_rng(1), 0.05
    one = random.normal(size=(1, 1 + 2 * 20_000))
    same = aggregate(np.repeat(one, 8, axis=0), np.zeros(8), level, 20_000)
    # eight equal tests are one test: nothing to correct
    assert same[1] == pytest.approx(level, abs=0.005)
    assert same[0] == pytest.approx(np.mean(one[0, 20_001:] >= one[0, 0]), abs=0.02)
    # eight independent ones: 1 - (1 - a)^8 = level
    independent = aggregate(random.normal(size=(8, 1 + 2 * 20_000)), np.zeros(8), level, 20_000)
    assert independent[1] == pytest.approx(1 - (1 - level) ** (1 / 8), abs=0.0015)
    np.testing.assert_allclose(independent[2], scipy.stats.norm.isf(independent[1]), atol=0.1)


def test_ties_up_to_rounding_are_ties():
    # two values only: the observed one is the larger, as is every third relabelling
    statistics = np.tile([1.0, 0.0, 0.0], 100)[None, :]
    rounded = statistics + 1e-8 * np.random.default_rng(2).normal(size=statistics.shape)
    exact, found = (aggregate(s, np.array([1e-6]), 0.5, 149) for s in (statistics, rounded))
    assert exact[0] == found[0] == pytest.approx(1 / 3, abs=0.01)
    assert exact[1] == found[1]


# --- the test ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_sizes_up_to_pad_to_share_compilations_and_padding_changes_nothing(method):
    compiled = mmdagg._STATISTICS[method]
    compiled.clear_cache()
    for n, m in [(12, 12), (20, 20), (32, 32)] if method == "wild_bootstrap" else [(12, 20), (30, 9), (33, 31)]:
        x, y = RANDOM.normal(size=(n, 3)), RANDOM.normal(size=(m, 3)) + 0.3
        padded = aggregated_test(x, y, key=KEYS[0], method=method, pad_to=100, **FEW)
        assert compiled._cache_size() == 2, "one program per family"
    exact = aggregated_test(x, y, key=KEYS[0], method=method, **FEW)  # 64 rows
    np.testing.assert_allclose(padded.statistic, exact.statistic, atol=1e-6)
    assert (padded.p_value, padded.rejected_by) == (exact.p_value, exact.rejected_by)


@pytest.mark.parametrize("method", METHODS)
def test_units_and_offsets_do_not_matter(method):
    x, y = RANDOM.normal(size=(30, 3)), 1.4 * RANDOM.normal(size=(30, 3))
    first = aggregated_test(x, y, key=KEYS[0], method=method, **FEW)
    other = aggregated_test(1e-4 * x + 7.0, 1e-4 * y + 7.0, key=KEYS[0], method=method, **FEW)
    np.testing.assert_allclose(other.statistic, first.statistic, atol=1e-5)
    assert other.p_value == pytest.approx(first.p_value, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_identical_cells_are_no_evidence(method):
    result = aggregated_test(np.ones((20, 3)), np.ones((20, 3)), key=KEYS[0], method=method, **FEW)
    assert (result.rejected, result.p_value, result.rejected_by) == (False, 1.0, ())
    counts = RANDOM.poisson(0.3, size=(2, 30, 3)).astype(float)  # most cells are zero
    result = aggregated_test(*counts, key=KEYS[0], method=method, **FEW)
    assert np.all(np.isfinite([*result.statistic, *result.threshold])) and not result.rejected


def test_large_samples_are_subsampled_and_equal_sizes_pair():
    x, y = RANDOM.normal(size=(300, 3)), RANDOM.normal(size=(34, 3))
    result = aggregated_test(x, y, key=KEYS[0], max_cells=30, families=("inverse_multiquadric",), **FEW)
    assert (result.n, result.m, result.method) == (30, 30, "wild_bootstrap")
    assert len(result.kernels) == 10 and result.kernels[0].startswith("inverse_multiquadric(")
    assert aggregated_test(x[:30], y, key=KEYS[0], **FEW).method == "permutation"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "method"), [(15, 25, METHODS[0]), (20, 20, METHODS[1])])
def test_level(n, m, method):
    random = np.random.default_rng(4)
    p = np.array(
        [
            aggregated_test(
                random.exponential(size=(n, 2)), random.exponential(size=(m, 2)), key=key, method=method, **FEW
            ).p_value
            for key in jax.random.split(jax.random.key(1), 1000)
        ]
    )
    for level in (0.05, 0.2):
        rejections = int(np.sum(p <= level))
        bound = (1 + 200 * level) / 201
        assert scipy.stats.binomtest(rejections, len(p), bound, alternative="greater").pvalue > 1e-3, level
        assert rejections > 0.4 * level * len(p)  # p-values of 200 relabellings are coarse, and so conservative


def fine_scale(random, n):
    """Density 1 + sin(6 pi x) on [0, 1]: three bumps that moments hardly see."""
    x = random.uniform(size=20 * n)
    return x[random.uniform(0, 2, size=len(x)) < 1 + np.sin(6 * np.pi * x)][:n, None]


def test_power_against_differences_finer_than_the_median_distance():
    random = np.random.default_rng(5)
    aggregated, single = [], []
    for key in KEYS[:20]:
        x, y = random.uniform(size=(150, 1)), fine_scale(random, 150)
        median = float(np.median(pdist(np.concatenate([x, y]))))
        aggregated.append(aggregated_test(x, y, key=key, **FEW).rejected)
        single.append(
            two_sample_test(x, y, key=key, num_permutations=199, kernel=kernels.gaussian(median)).p_value <= 0.05
        )
    assert np.mean(aggregated) > 0.8 and np.mean(single) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((1, 2))}, "Sample x has shape"),
        ({"y": np.array([[0.0, 1.0], [0.0, np.inf]])}, r"y\[1, 1\] is inf"),
        ({"method": "wild_bootstrap"}, r"x has 5 and y has 4\. Pass method='permutation', or max_cells=4"),
        ({"method": "bootstrap"}, "method='bootstrap' is not known"),
        ({"families": ("gaussian", "gausian")}, r"families=\('gaussian', 'gausian'\)"),
        ({"families": ()}, r"families=\(\)"),
        ({"num_bandwidths": 1}, "num_bandwidths=1"),
        ({"level": 1.0}, "level=1.0"),
        ({"num_level": 19}, "num_level=19 cannot resolve level=0.05: pass at least 20"),
        ({"pad_to": 8}, r"pad_to=8, but the pooled sample has 5 \+ 4 cells"),
        ({"max_cells": 1}, "max_cells=1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        aggregated_test(**{"x": np.zeros((5, 2)), "y": np.ones((4, 2)), "key": KEYS[0], **arguments})
