import importlib

import jax
import numpy as np
import pytest
import scipy.stats

from pdae_jax import kernels
from pdae_jax.two_sample.permutation import benjamini_hochberg, two_sample_test, two_sample_tests

module = importlib.import_module("pdae_jax.two_sample.permutation")
RANDOM = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 400)


def energy_statistic(x, y):
    norms = [np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in ((x, y), (x, x), (y, y))]
    n, m = len(x), len(y)
    return 2 * norms[0].mean() - norms[1].sum() / (n * (n - 1)) - norms[2].sum() / (m * (m - 1))


@pytest.mark.parametrize(("n", "m", "d"), [(12, 20, 2), (70, 40, 11)])
def test_agrees_with_a_loop_over_relabellings(n, m, d):
    x, y = RANDOM.normal(size=(n, d)), RANDOM.normal(size=(m, d)) + 0.2
    result = two_sample_test(x, y, key=KEYS[0], num_permutations=1999)
    pooled = np.concatenate([x, y])
    assert result.statistic == pytest.approx(energy_statistic(x, y), rel=1e-4)
    orders = [RANDOM.permutation(n + m) for _ in range(1999)]
    null = np.array([energy_statistic(pooled[o[:n]], pooled[o[n:]]) for o in orders])
    assert scipy.stats.ks_2samp(result.null, null).pvalue > 1e-3
    p = np.mean(null >= result.statistic)
    assert abs(result.p_value - p) < 5 * np.sqrt(2 * p * (1 - p) / 1999) + 1 / 1999
    assert (result.n, result.m) == (n, m)


def test_the_null_holds_every_relabelling_equally_often():
    # 2 + 2 cells: three ways to split into pairs
    x, y = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 3.0], [9.0, 9.0]])
    pooled = np.concatenate([x, y])
    pairs = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]]
    values = sorted(energy_statistic(pooled[p[:2]], pooled[p[2:]]) for p in pairs)
    result = two_sample_test(x, y, key=KEYS[0], num_permutations=3000)
    found = np.argmin(np.abs(result.null[:, None] - values), axis=1)
    np.testing.assert_allclose(result.null, np.array(values)[found], rtol=1e-4)
    assert scipy.stats.chisquare(np.bincount(found, minlength=3)).pvalue > 1e-3
    # the observed split comes again and counts as a tie, whatever its rounding
    share = np.mean(np.array(values) >= energy_statistic(x, y) - 1e-9)
    assert result.p_value == pytest.approx(share, abs=0.05)


def test_level():
    random = np.random.default_rng(1)
    p = np.array(
        [
            two_sample_test(
                random.normal(size=(20, 2)), random.normal(size=(30, 2)), key=k, num_permutations=99
            ).p_value
            for k in KEYS
        ]
    )
    for level in (0.05, 0.2, 0.5):  # exact levels of 99 permutations
        assert scipy.stats.binomtest(int(np.sum(p <= level)), len(p), level).pvalue > 1e-3, level


@pytest.mark.parametrize(
    ("change", "kernel"),
    [
        (lambda y: y + 0.8, None),
        (lambda y: 2.0 * y, None),
        (lambda y: np.sign(y) * 1.0, kernels.gaussian([0.5, 1.0, 2.0])),  # same mean and variance
    ],
)
def test_power(change, kernel):
    random = np.random.default_rng(2)
    p = [
        two_sample_test(
            random.normal(size=(100, 3)),
            change(random.normal(size=(100, 3))),
            key=k,
            num_permutations=99,
            kernel=kernel,
        ).p_value
        for k in KEYS[:10]
    ]
    assert np.median(p) == 0.01


def test_order_of_rows_and_offset_do_not_matter():
    x, y = RANDOM.normal(size=(60, 4)), RANDOM.normal(size=(50, 4)) + 0.25
    first = two_sample_test(x, y, key=KEYS[0], num_permutations=1999)
    again = two_sample_test(x, y, key=KEYS[0], num_permutations=1999)
    assert first.p_value == again.p_value
    shuffled = two_sample_test(RANDOM.permutation(x), RANDOM.permutation(y), key=KEYS[0], num_permutations=1999)
    swapped = two_sample_test(y, x, key=KEYS[0], num_permutations=1999)
    moved = two_sample_test(x + 1e5, y + 1e5, key=KEYS[0], num_permutations=1999)
    for other in (shuffled, swapped, moved):
        assert other.statistic == pytest.approx(first.statistic, rel=1e-3)
    # the same key relabels other cells: equal in law only
    for other in (shuffled, swapped):
        assert abs(other.p_value - first.p_value) < 5 * np.sqrt(0.5 * first.p_value / 1999)
    assert moved.p_value == pytest.approx(first.p_value, abs=2e-3)


def test_sizes_up_to_pad_to_share_a_compilation_and_padding_changes_nothing():
    module._statistics.clear_cache()
    for n, m in [(3, 2), (40, 17), (60, 41)]:
        x, y = RANDOM.normal(size=(n, 3)), RANDOM.normal(size=(m, 3)) + 0.3
        padded = two_sample_test(x, y, key=KEYS[0], pad_to=101)
        assert module._statistics._cache_size() == 1
        np.testing.assert_allclose(padded.statistic, energy_statistic(x, y), rtol=1e-5, atol=1e-6)
    exact = two_sample_test(x, y, key=KEYS[0])
    np.testing.assert_allclose(padded.null, exact.null, atol=1e-6)
    assert padded.p_value == exact.p_value
    # nor does another bandwidth compile anew
    for bandwidth in (0.5, 2.0):
        two_sample_test(x, y, key=KEYS[0], pad_to=101, kernel=kernels.gaussian(bandwidth))
    assert module._statistics._cache_size() == 3  # 101 rows, 128 rows, another kernel


def test_a_plain_function_is_a_kernel():
    x, y = RANDOM.normal(size=(20, 3)), RANDOM.normal(size=(30, 3)) + 0.3
    plain = two_sample_test(x, y, key=KEYS[0], kernel=lambda sq: 1 - np.e ** (-sq / 8))
    np.testing.assert_allclose(
        plain.null, two_sample_test(x, y, key=KEYS[0], kernel=kernels.gaussian(2.0)).null, atol=1e-6
    )


@pytest.mark.parametrize("kernel", [None, kernels.laplace(1.0, norm="l1")])
def test_many_conditions_are_as_many_tests(kernel, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * 64 * 100)  # chunks of 3, 3 and 1
    sizes = [(20, 30), (3, 2), (9, 41), (31, 31), (25, 8), (40, 24), (12, 12)]
    pairs = {
        f"condition {i}": (RANDOM.normal(size=(n, 4)) + 7.0, (1 + i / 4) * RANDOM.normal(size=(m, 4)) + 7.0)
        for i, (n, m) in enumerate(sizes)
    }
    module._statistics_of_many.clear_cache()
    found = two_sample_tests(pairs, key=KEYS[0], num_permutations=99, kernel=kernel, max_cells=35)
    assert module._statistics_of_many._cache_size() == 1
    single = [
        two_sample_test(
            *pair, key=jax.random.fold_in(KEYS[0], i), num_permutations=99, kernel=kernel, max_cells=35, pad_to=97
        )
        for i, pair in enumerate(pairs.values())
    ]
    assert found.conditions == tuple(pairs)
    np.testing.assert_allclose(found.statistic, [test.statistic for test in single], rtol=1e-4, atol=1e-6)
    p_values = np.array([test.p_value for test in single])
    many = p_values > 0.015  # others have had more permutations
    np.testing.assert_array_equal(found.p_value[many], p_values[many])
    assert 0 < np.sum(~many) < 7 and np.all(found.p_value[~many] < 0.05)
    np.testing.assert_array_equal(found.n, [20, 3, 9, 31, 25, 35, 12])
    np.testing.assert_array_equal(found.m, [30, 2, 35, 31, 8, 24, 12])
    assert len(set(found.p_value)) > 3
    np.testing.assert_allclose(found.p_adjusted, scipy.stats.false_discovery_control(found.p_value))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [None, kernels.gaussian([0.5, 1.0, 2.0])])
def test_level_over_2000_draws(kernel):
    random = np.random.default_rng(3)
    pairs = {str(i): (random.exponential(size=(25, 2)), random.exponential(size=(35, 2))) for i in range(2000)}
    p = two_sample_tests(pairs, key=jax.random.key(3), num_permutations=199, kernel=kernel).p_value
    for level in (0.05, 0.2, 0.5):  # exact levels of 199 permutations
        assert scipy.stats.binomtest(int(np.sum(p <= level)), len(p), level).pvalue > 1e-3, level


def test_large_samples_are_subsampled():
    x = RANDOM.normal(size=(1000, 2))
    result = two_sample_test(x, x[:80], key=KEYS[0], max_cells=100)
    assert (result.n, result.m) == (100, 80)
    assert len(result.null) == 999
    small = two_sample_test(x, x + 0.3, key=KEYS[0], max_cells=50)
    assert small.statistic != two_sample_test(x, x + 0.3, key=KEYS[1], max_cells=50).statistic


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((1, 2))}, "Sample x has shape"),
        ({"y": np.zeros((5, 3))}, "2 features but y has 3"),
        ({"y": np.array([[0.0, 1.0], [0.0, np.nan]])}, r"y\[1, 1\] is nan"),
        ({"num_permutations": 0}, "num_permutations=0"),
        ({"max_cells": 1}, "max_cells=1"),
        ({"pad_to": 8}, r"pad_to=8, but the pooled sample has 5 \+ 4 cells\. Pass pad_to=9 or more, or max_cells=4"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        two_sample_test(**{"x": np.zeros((5, 2)), "y": np.ones((4, 2)), "key": KEYS[0], **arguments})


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({}, "pairs is empty"),
        ({"A": (np.zeros((5, 2)), np.ones((1, 2)))}, "Condition 'A': Sample y has shape"),
        ({"A": (np.zeros((5, 2)), np.full((3, 2), np.nan))}, r"Condition 'A': y\[0, 0\] is nan"),
        (
            {"A": (np.zeros((5, 2)), np.ones((3, 2))), "B": (np.zeros((5, 3)), np.ones((3, 3)))},
            "Condition 'B' has 3 features but 'A' has 2",
        ),
    ],
)
def test_bad_input_of_many(pairs, message):
    with pytest.raises(ValueError, match=message):
        two_sample_tests(pairs, key=KEYS[0])


def test_benjamini_hochberg_agrees_with_scipy():
    p = RANDOM.uniform(size=50) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), scipy.stats.false_discovery_control(p))
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.01, 1.0]), [0.015, 0.015, 1.0])
    assert benjamini_hochberg([]).shape == (0,)
    with pytest.raises(ValueError, match=r"values \[nan, 1\.5\]"):
        benjamini_hochberg([0.2, np.nan, 1.5])
