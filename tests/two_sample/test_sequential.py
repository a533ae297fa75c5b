"""Sequential permutation p-values: small where they must be, and never too small."""

import jax
import numpy as np
import pytest
import scipy.stats

from pdae_jax.two_sample.permutation import benjamini_hochberg, two_sample_tests
from pdae_jax.two_sample.sequential import RESOLVED, resolve

KEY = jax.random.key(0)


def p_values_of(chances, num_permutations, random, asked=None):
    """Of tests in each of which a permutation reaches the statistic with a known chance."""
    first = (1 + random.binomial(num_permutations, chances)) / (1 + num_permutations)

    def reached(i, number, key):
        if asked is not None:
            asked.append(number)
        return int(random.binomial(number, chances[i]))

    return first, resolve(first, num_permutations, reached, key=KEY)


@pytest.mark.parametrize("num_permutations", [199, 999])
@pytest.mark.parametrize("strong", [1, 3, 30])
def test_strong_effects_among_many_tests_are_found(num_permutations, strong):
    random, asked = np.random.default_rng(0), []
    chances = random.uniform(size=230)
    chances[:strong] = 0.0
    first, found = p_values_of(chances, num_permutations, random, asked)
    assert strong > 3 or np.all(benjamini_hochberg(first)[:strong] > 0.05)
    np.testing.assert_array_less(benjamini_hochberg(found)[:strong], 1.001 * RESOLVED)
    # those that a permutation has reached stay as they are, and all together cost little
    few = first * (1 + num_permutations) > 1.5
    np.testing.assert_array_equal(found[few], first[few])
    assert sum(asked) < 3 * 230 / RESOLVED


def test_the_level_is_kept_however_many_tests_go_on():
    """Under the null the chance is uniform. Exact level of the plain test, and of tests that went on."""
    random = np.random.default_rng(1)
    found = np.concatenate([p_values_of(random.uniform(size=40), 19, random)[1] for _ in range(3000)])
    for level in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5):
        hits = int(np.sum(found <= level))
        assert scipy.stats.binomtest(hits, len(found), level, alternative="greater").pvalue > 1e-3, level
    assert np.mean(found <= 0.01) > 0.002  # what 19 permutations never give


def test_the_false_discovery_rate_is_kept():
    random, false = np.random.default_rng(2), []
    for _ in range(400):
        chances = np.concatenate([np.zeros(5), random.uniform(size=195)])
        found = benjamini_hochberg(p_values_of(chances, 99, random)[1]) <= 0.05
        assert np.all(found[:5])
        false.append(np.sum(found[5:]) / max(np.sum(found), 1))
    assert np.mean(false) < 0.05 + 3 * np.std(false) / 20


def test_two_sample_tests_find_three_among_many():
    random = np.random.default_rng(3)
    pairs = {str(i): (random.normal(size=(30, 2)), random.normal(size=(30, 2)) + 2.0 * (i < 3)) for i in range(120)}
    found = two_sample_tests(pairs, key=KEY, num_permutations=199)
    np.testing.assert_array_equal(found.p_adjusted <= 0.05, np.arange(120) < 3)
    again = two_sample_tests(pairs, key=KEY, num_permutations=199)
    np.testing.assert_array_equal(found.p_value, again.p_value)
