"""Metrics of the field against SciPy, pandas-free definitions and planted truths."""

import jax
import numpy as np
import pytest
import scipy.stats

from pdae_jax.evaluation.differential import Summary, differential
from pdae_jax.evaluation.metrics import METRICS, Comparison, Reference, wasserstein_by_feature
from pdae_jax.two_sample.target import Target

RANDOM = np.random.default_rng(0)
D = 130
# those of the table that are computed from differential features, marginals and correlations
FIELD = [name for name in METRICS if name.startswith(("mse", "de_", "wasserstein", "correlation")) or "_top" in name]


def comparison_of(predicted, true, control):
    against = Summary.of(control)
    mean, change = against.mean, differential(Summary.of(true), against)
    reference = Reference(mean, mean, mean[None], 1.0, 1.0, mean, mean, control, against, change)
    return Comparison.of(predicted, Target(true, jax.random.key(0)), reference)


@pytest.fixture(scope="module")
def planted():
    """Ten features up, ten down, of 130; the prediction has the right direction for 15 of them."""
    shift = np.zeros(D)
    shift[:10], shift[10:20] = 2.0, -2.0
    predicted = shift.copy()
    predicted[:5] *= -1
    sizes = {"predicted": (250, predicted), "true": (200, shift), "control": (300, 0.0)}
    return {name: RANDOM.normal(size=(n, D)) + moved for name, (n, moved) in sizes.items()}


def test_differential_features_are_those_of_welchs_test(planted):
    true, control = planted["true"], planted["control"]
    found = comparison_of(**planted).reference.true_change
    t, p = scipy.stats.ttest_ind(true, control, equal_var=False)
    np.testing.assert_array_equal(np.sort(np.abs(t))[::-1], np.abs(t)[found.order])
    np.testing.assert_array_equal(found.significant, scipy.stats.false_discovery_control(p) <= 0.05)
    assert found.significant[:20].all() and found.significant.sum() < 30
    assert set(found.order[:20]) == set(range(20))
    np.testing.assert_allclose(found.change, true.mean(0) - control.mean(0))


def test_constant_features_differ_where_their_values_do():
    x, control = RANDOM.normal(size=(20, 3)), RANDOM.normal(size=(30, 3))
    x[:, 0] = control[:, 0] = 1.0
    x[:, 1], control[:, 1] = 1.0, 2.0
    found = differential(Summary.of(x), Summary.of(control))
    assert found.order[0] == 1 and list(found.significant[:2]) == [False, True]


def test_values_of_a_planted_truth(planted):
    comparison = comparison_of(**planted)
    values = {name: METRICS[name](comparison) for name in FIELD}
    p, t, c = (planted[name].mean(0) for name in ("predicted", "true", "control"))
    change = comparison.reference.true_change
    top = change.order
    assert values["mse"] == pytest.approx(np.mean((p - t) ** 2))
    for number in (20, 100):
        rows = top[:number]
        assert values[f"mse_top{number}"] == pytest.approx(np.mean((p - t)[rows] ** 2))
        expected = scipy.stats.pearsonr((p - c)[rows], (t - c)[rows]).statistic
        assert values[f"pearson_delta_top{number}"] == pytest.approx(expected)
    number = change.significant.sum()
    assert values["de_direction"] == pytest.approx(
        np.mean(np.sign(p - c)[change.significant] == np.sign(t - c)[change.significant])
    )
    assert 15 / number <= values["de_direction"] < 1 - 4 / number
    assert 20 / number <= values["de_overlap"] <= 1  # the size of a change counts here, and not its direction


def test_an_exact_prediction_is_best(planted):
    exact = comparison_of(planted["true"], planted["true"], planted["control"])
    best = dict.fromkeys(FIELD, 0.0)
    best |= dict.fromkeys(("pearson_delta_top20", "pearson_delta_top100", "de_overlap", "de_direction"), 1.0)
    assert len(best) == 9
    for name, value in best.items():
        assert METRICS[name].best == value
        assert METRICS[name](exact) == pytest.approx(value, abs=1e-12), name
    assert all(type(METRICS[name](exact)) is float for name in FIELD)


@pytest.mark.parametrize("sizes", [(30, 30), (7, 12), (1, 40)])
def test_wasserstein_is_scipys(sizes):
    x, y = (np.round(RANDOM.normal(size=(n, 4)), 1) for n in sizes)
    expected = [scipy.stats.wasserstein_distance(x[:, j], y[:, j]) for j in range(4)]
    np.testing.assert_allclose(wasserstein_by_feature(x, y), expected)


def test_dependence_is_seen_where_marginals_agree():
    """The same normal marginals, once independent and once correlated at 0.8."""
    mixing = np.linalg.cholesky(0.2 * np.eye(5) + 0.8)
    true = RANDOM.normal(size=(4000, 5)) @ mixing.T
    control = RANDOM.normal(size=(50, 5))
    comparison = comparison_of(RANDOM.normal(size=(4000, 5)), true, control)
    assert METRICS["correlation_error"](comparison) == pytest.approx(0.8, abs=0.03)
    assert METRICS["wasserstein"](comparison) < 0.06


def test_undefined_is_nan():
    x = RANDOM.normal(size=(40, 1))
    comparison = comparison_of(x, x + 0.0, x[:20])
    for name in ("mse_top20", "mse_top100", "pearson_delta_top20", "correlation_error", "de_overlap", "de_direction"):
        assert np.isnan(METRICS[name](comparison)), name
