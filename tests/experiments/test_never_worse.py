"""The table of `never_worse.py`: who counts as worse; and its cases."""

import numpy as np
import pandas as pd
import pytest

from experiments.configs.bodenmiller import held_out_pairs
from experiments.lab import cases, never_worse
from pdae_jax import check_guarantee, from_arrays
from pdae_jax.data.datasets import COMMON_CELL_TYPES, STIMULATIONS


def rows(kind, name, noise, **values):
    made = [
        {"kind": kind, "name": name, "condition": c, "method": m, "metric": "energy_distance", "value": v,
         "noise": noise, "reach": 1.1, "seconds": 2.0}
        for m, pair in values.items() for c, v in zip("ab", pair, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_a_fit_is_worse_above_the_best_baseline_and_the_noise():
    table = pd.concat(
        [
            rows("x", "1", 0.0, pdae=(0.1, 0.3), additive=(0.4, 0.4), ridge=(0.3, 0.1), control=(1.0, 1.0)),
            rows("x", "2", 0.0, pdae=(0.3, 0.3), additive=(0.2, 0.3), ridge=(0.5, 0.5), control=(1.0, 1.0)),
            rows("y", "1", 0.1, pdae=(0.3, 0.3), additive=(0.2, 0.3), ridge=(0.5, 0.5), control=(1.0, 1.0)),
            rows("y", "2", 0.01, pdae=(0.0, 0.02), additive=(-0.01, -0.01), ridge=(0.5, 0.5), control=(0.01, 0.01)),
        ]
    )
    found = never_worse.verdicts(table)
    # the control is no baseline that has to be beaten
    assert list(found["best_name"]) == ["ridge", "additive", "additive", "additive"]
    assert list(found["worse"]) == [False, True, False, False]
    np.testing.assert_allclose(found["limit"], [0.21, 0.2625, 0.3625, 0.01])
    text = never_worse.summarise(table)
    assert "1 of 4 fits are worse: x 2 (0.3 > 0.263)" in text


def test_ratios_are_to_the_best_baseline_of_the_kind():
    exact = {"additive": (0.0, -0.01), "ridge": (0.01, 0.0), "control": (1.0, 1.0)}
    table = pd.concat(
        [
            rows("x", "1", 0.0, pdae=(0.1, 0.3), additive=(0.2, 0.6), ridge=(0.9, 0.9), control=(1.0, 1.0)),
            rows("x", "2", 0.0, pdae=(0.2, 0.4), additive=(0.4, 0.8), ridge=(0.1, 0.3), control=(1.0, 1.0)),
            rows("y", "1", 0.1, pdae=(-0.01, 0.0), **exact),
        ]
    )
    # the four conditions have one ratio to `additive`, so the interval is a point; fit 2 has a best of its own
    assert list(never_worse.against_best(table, never_worse.verdicts(table))) == [
        ["x", "additive", "0.50 (0.50 to 0.50)", "1.50 (2)"],
        ["y", "additive", "-", "-"],
    ]
    assert "| x | additive | 0.50 (0.50 to 0.50) | 1.50 (2) |" in never_worse.summarise(table)


@pytest.mark.parametrize("kind", list(cases.VARIANTS))
@pytest.mark.slow
def test_simulated_cases_hold_out_labels_in_the_span(kind):
    case = cases.simulated(kind, 7)
    assert not set(case.test.conditions) & set(case.train.conditions)
    assert not set(case.validation.conditions) & set(case.train.conditions)
    for condition in (*case.test.conditions, *case.validation.conditions):
        assert check_guarantee(case.train, condition).identified
    assert case.test.counts.min() == cases.TRUE_CELLS


def test_order_starts_with_what_chose_and_ends_with_the_test_of_the_config():
    test, validation = held_out_pairs()
    order = cases.order_of_pairs()
    assert len(set(order)) == len(order) == len(STIMULATIONS) * len(COMMON_CELL_TYPES)
    assert set(order[:3]) == set(validation) and set(order[-5:]) == set(test)
    assert {cases.source_of(pair) for pair in order} == {"unstimulated", *COMMON_CELL_TYPES} - {"cd4+"}


def test_every_measured_pair_is_left_out_once_and_never_validates_itself():
    pairs = cases.order_of_pairs()
    few = pairs[4]
    sizes = {name: 10 if name == few else 160 for name in (*pairs, "unstimulated", *COMMON_CELL_TYPES[1:])}
    names = [name for name, size in sizes.items() for _ in range(size)]
    x = np.random.default_rng(0).normal(size=(len(names), 2))
    data = from_arrays(x, names, control="unstimulated", separator=" & ")
    found = cases.folds(data)
    assert sorted(pair for pair, _ in found) == sorted(set(pairs) - {few})
    for pair, validation in found:
        assert len({pair, few, *validation}) == 5
        train = data.select([c for c in data.conditions if c not in (pair, *validation)])
        assert check_guarantee(train, data.label(pair)).identified
