"""Every public door that takes a key says what is wrong with something else, and how to make one."""

import inspect

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax import kernels, linear_time
from pdae_jax.design.split import hold_out_cells, random_conditions
from pdae_jax.randomness import check_key

DATA = pdae_jax.from_arrays(np.random.default_rng(0).normal(size=(40, 2)), np.repeat(["control", "A", "B", "A+B"], 10))
X, Y = DATA.cells("A"), DATA.cells("B")
DOORS = {
    "fit": lambda f, key: f(pdae_jax.fit)(DATA, key=key),
    "fit_ensemble": lambda f, key: f(pdae_jax.fit_ensemble)(DATA, key=key),
    "fit_population": lambda f, key: f(pdae_jax.fit_population)(DATA, [{}], key=key),
    "simulate": lambda f, key: f(pdae_jax.simulate)(key),
    "hold_out_cells": lambda f, key: f(hold_out_cells)(key, DATA, 0.5),
    "random_conditions": lambda f, key: f(random_conditions)(key, DATA, 1),
    "two_sample_test": lambda f, key: f(pdae_jax.two_sample_test)(X, Y, key=key),
    "two_sample_tests": lambda f, key: f(pdae_jax.two_sample_tests)({"A": (X, Y)}, key=key),
    "aggregated_test": lambda f, key: f(pdae_jax.aggregated_test)(X, Y, key=key),
    "incomplete_statistic": lambda f, key: f(linear_time.incomplete_statistic)(key, X, Y, pairs_per_cell=2),
    "sliced_energy_distance": lambda f, key: f(linear_time.sliced_energy_distance)(key, X, Y),
    "median_bandwidth": lambda f, key: f(kernels.median_bandwidth)(key, X),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_number_is_no_key(door):
    # without the checks of annotations that tests add, as users call it
    with pytest.raises(TypeError, match=r"key is 0 \(int\)\. Pass jax\.random\.key\(0\)"):
        DOORS[door](inspect.unwrap, 0)


def test_what_else_is_no_key():
    check_key(jax.random.key(0))
    for wrong, message in (
        (np.int64(7), r"7 \(int64\)\. Pass jax.random.key\(7\)"),
        (np.zeros(2, np.uint32), "old-style key.*wrap_key_data"),
        (jax.random.PRNGKey(0), "old-style key.*wrap_key_data"),
        (jax.random.split(jax.random.key(0), 3), "3 keys. Pass one of them"),
        (None, "key is None, not a typed PRNG key"),
        ("seed", "key is a str, not a typed PRNG key"),
    ):
        with pytest.raises(TypeError, match=message):
            check_key(wrong)


def test_a_model_stands_first():
    for swapped, message in (
        (lambda: inspect.unwrap(pdae_jax.predict)("A+B", DATA, key=jax.random.key(0)), "a str, not a model.*predict"),
        (lambda: inspect.unwrap(pdae_jax.evaluate)(DATA, DATA), "a PerturbationData, not a model.*evaluate"),
    ):
        with pytest.raises(TypeError, match=message):
            swapped()
