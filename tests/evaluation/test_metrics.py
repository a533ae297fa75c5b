import jax
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pdae_jax.evaluation.differential import Summary, differential
from pdae_jax.evaluation.metrics import METRICS, Comparison, Reference, coverage_by_feature
from pdae_jax.two_sample.target import Target

RANDOM = np.random.default_rng(0)


def make_reference(d, *, others=3, bandwidth=1.0):
    random = np.random.default_rng(d)
    means = random.normal(size=d), random.normal(size=d), random.normal(size=(others, d))
    control = random.normal(size=(40, d))
    summary = Summary.of(control)
    change = differential(Summary.of(random.normal(size=(30, d))), summary)
    return Reference(*means, bandwidth, 1.0, np.zeros(d), np.ones(d), control, summary, change)


def value_of(name, predicted, true, reference):
    return METRICS[name](Comparison.of(predicted, Target(true, jax.random.key(0), reference.bandwidth), reference))


def mean_pairs(x, y, function, distinct=False):
    values = [function(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if not (distinct and i == j)]
    return np.mean(values)


def test_energy_distance_in_one_dimension_is_scipys_squared_less_the_bias():
    # scipy returns the root of the V form
    x, y = RANDOM.normal(size=(30, 1)), 1.0 + 2.0 * RANDOM.normal(size=(47, 1))
    v_form = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    correction = sum(np.abs(s - s.T).mean() / (len(s) - 1) for s in (x, y))  # mean over n (n - 1), not n^2, pairs
    assert value_of("energy_distance", x, y, make_reference(1)) == pytest.approx(v_form - correction, rel=1e-4)


@pytest.mark.parametrize("d", [3, 12])
def test_distances_agree_with_loops(d):
    x, y = RANDOM.normal(size=(9, d)), RANDOM.normal(size=(14, d)) + 0.5
    bandwidth = Target(y, jax.random.key(0)).scale
    assert bandwidth == pytest.approx(np.median(scipy.spatial.distance.pdist(y)))

    def kernel(a, b):
        return np.mean([np.exp(-np.sum((a - b) ** 2) / (2 * (c * bandwidth) ** 2)) for c in (0.5, 1.0, 2.0)])

    def norm(a, b):
        return np.linalg.norm(a - b)

    energy = 2 * mean_pairs(x, y, norm) - mean_pairs(x, x, norm, True) - mean_pairs(y, y, norm, True)
    mmd = mean_pairs(x, x, kernel, True) + mean_pairs(y, y, kernel, True) - 2 * mean_pairs(x, y, kernel)
    reference = make_reference(d, bandwidth=bandwidth)
    assert value_of("energy_distance", x, y, reference) == pytest.approx(energy, rel=1e-4)
    assert value_of("mmd", x, y, reference) == pytest.approx(mmd, rel=1e-4)


@pytest.mark.slow
@given(n=st.integers(2, 128), m=st.integers(2, 128), d=st.sampled_from([2, 10, 30]))
def test_energy_distance_of_any_sizes(n, m, d):
    random = np.random.default_rng([n, m, d])
    x, y = random.normal(size=(n, d)), random.normal(size=(m, d)) + 1.0

    cross, xx, yy = (scipy.spatial.distance.cdist(a, b) for a, b in ((x, y), (x, x), (y, y)))
    exact = 2 * cross.mean() - xx.sum() / (n * (n - 1)) - yy.sum() / (m * (m - 1))
    assert value_of("energy_distance", x, y, make_reference(d)) == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_a_large_offset_costs_no_accuracy():
    x, y = RANDOM.normal(size=(200, 10)), RANDOM.normal(size=(200, 10)) + 0.3
    reference = make_reference(10)
    near, far = (value_of("energy_distance", x + c, y + c, reference) for c in (0.0, 1e6))
    assert far == pytest.approx(near, rel=1e-4)


def test_mean_metrics_agree_with_scipy():
    d = 6
    reference = make_reference(d)
    predicted, true = RANDOM.normal(size=(40, d)) + 1.0, RANDOM.normal(size=(50, d)) + 2.0 * np.arange(d)
    p, t, c = predicted.mean(0), true.mean(0), reference.control_mean
    expected = {
        "mean_l2": scipy.spatial.distance.euclidean(p, t),
        "cosine_delta": 1 - scipy.spatial.distance.cosine(p - c, t - c),
        "pearson_delta": scipy.stats.pearsonr(p - c, t - c).statistic,
        "pearson_delta_centroid": scipy.stats.pearsonr(p - reference.centroid, t - reference.centroid).statistic,
        "r2_mean": 1 - np.var(t - p) / np.var(t) - np.mean(t - p) ** 2 / np.var(t),
    }
    for name, value in expected.items():
        assert value_of(name, predicted, true, reference) == pytest.approx(value, abs=1e-6), name


def test_rank_counts_nearer_conditions():
    reference = make_reference(2)._replace(other_means=np.array([[0.0, 1.0], [3.0, 0.0], [0.1, 0.0], [9.0, 9.0]]))
    predicted = np.zeros((2, 2))
    assert value_of("rank", predicted, np.full((2, 2), [2.0, 0.0]), reference) == 0.5
    assert value_of("rank", predicted, np.full((2, 2), [0.05, 0.0]), reference) == 0.0


def test_coverage_is_calibrated_for_the_true_law_and_zero_for_a_point_mass():
    true = RANDOM.normal(size=(4000, 3)) * [1.0, 10.0, 0.1]
    same, narrow = RANDOM.normal(size=(4000, 3)) * [1.0, 10.0, 0.1], true * 0.5
    reference = make_reference(3)
    np.testing.assert_allclose(coverage_by_feature(same, true, 0.5), 0.5, atol=0.04)
    np.testing.assert_allclose(coverage_by_feature(same, true, 0.9), 0.9, atol=0.03)
    # half the spread: the interval is that of a normal at +- 1.645 / 2
    expected = 2 * scipy.stats.norm.cdf(1.645 / 2) - 1
    np.testing.assert_allclose(coverage_by_feature(narrow, true, 0.9), expected, atol=0.03)
    assert value_of("coverage_50", same, true, reference) == pytest.approx(0.5, abs=0.03)
    assert value_of("coverage_90", np.zeros((10, 3)), true, reference) == 0.0


def test_best_values_and_symmetries():
    x, y = RANDOM.normal(size=(300, 4)) + 1.0, RANDOM.normal(size=(300, 4)) + 1.0
    reference = make_reference(4, bandwidth=2.0)
    best = {"mean_l2": 0, "r2_mean": 1, "cosine_delta": 1, "pearson_delta": 1, "pearson_delta_centroid": 1, "rank": 0}
    for name, value in best.items():
        assert value_of(name, x, x[::-1], reference) == pytest.approx(value, abs=1e-6)
    for name in set(METRICS) - {"p_value"}:  # whose permutations are of rows
        value, other = (
            value_of(name, x, y, reference),
            value_of(name, RANDOM.permutation(x), RANDOM.permutation(y), reference),
        )
        assert other == pytest.approx(value, abs=1e-5, nan_ok=True), name
    for name in ("energy_distance", "mmd", "mean_l2"):
        assert value_of(name, x, y, reference) == pytest.approx(value_of(name, y, x, reference), abs=1e-5)
        assert (
            value_of(name, x, y + 2.0, reference)
            > value_of(name, x, y + 1.0, reference)
            > value_of(name, x, y, reference)
        )


def test_undefined_is_nan():
    x, y = RANDOM.normal(size=(20, 1)), RANDOM.normal(size=(20, 1))
    reference = make_reference(1, others=0)
    for name in ("pearson_delta", "pearson_delta_centroid", "r2_mean", "rank"):
        assert np.isnan(value_of(name, x, y, reference)), name
    assert np.isfinite(value_of("energy_distance", x, y, reference))
    # control cells as prediction: no predicted change, so it has no direction
    cells = RANDOM.normal(size=(50, 3)).astype(np.float32) + 100
    still = make_reference(3)._replace(control_mean=cells.mean(0, dtype=np.float64))
    for name in ("cosine_delta", "pearson_delta"):
        assert np.isnan(value_of(name, RANDOM.permutation(cells), cells + RANDOM.normal(size=3), still)), name
    assert np.isnan(value_of("mmd", x, y, reference._replace(bandwidth=0.0)))


def test_median_distance_of_mostly_identical_cells():
    x = np.zeros((100, 2))
    x[:5] = 1.0
    assert 0 < Target(x, jax.random.key(0)).median < np.sqrt(2)
    assert Target(np.zeros((5, 2)), jax.random.key(0)).median == 0.0


def test_samples_that_do_not_fit():
    reference = make_reference(3)
    with pytest.raises(ValueError, match="3 features but y has 4"):
        value_of("energy_distance", np.zeros((5, 3)), np.zeros((5, 4)), reference)
    with pytest.raises(ValueError, match="Sample y has shape"):
        value_of("energy_distance", np.zeros((5, 3)), np.zeros((1, 3)), reference)


def test_no_jax_arrays_leak():
    x = np.asarray(jax.random.normal(jax.random.key(0), (10, 3)))
    assert all(type(value_of(name, x, x + 1, make_reference(3))) is float for name in METRICS)


def test_a_prediction_of_one_profile_is_at_its_mean_distance():
    """Of whatever number of copies: they are at distance zero from each other."""
    random = np.random.default_rng(3)
    true, profile = random.normal(size=(90, 5)), random.normal(size=5)
    within = scipy.spatial.distance.pdist(true)
    to_profile = np.linalg.norm(true - profile, axis=1)
    reference = make_reference(5, bandwidth=1.7)
    widths = 1.7 * np.array([0.5, 1.0, 2.0])[:, None]
    gaussian = [np.exp(-(r**2) / (2 * widths**2)).mean() for r in (within, to_profile)]
    for copies in (2, 300):
        predicted = np.tile(profile, (copies, 1))
        assert value_of("energy_distance", predicted, true, reference) == pytest.approx(
            2 * to_profile.mean() - within.mean(), rel=1e-5
        )
        assert value_of("mmd", predicted, true, reference) == pytest.approx(1 + gaussian[0] - 2 * gaussian[1], rel=1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_cells_that_are_no_numbers_have_no_metric(wrong):
    """One value of one cell: no metric may be a number, least of all a good one."""
    x, y = RANDOM.normal(size=(30, 120)), RANDOM.normal(size=(30, 120)) + 1.0
    reference = make_reference(120)
    bad = x.copy()
    bad[4, 7] = wrong
    for pair in ((bad, y), (x, bad)):  # of predicted and of true cells
        found = {name: value_of(name, *pair, reference) for name in METRICS}
        assert [name for name, value in found.items() if not np.isnan(value)] == []
