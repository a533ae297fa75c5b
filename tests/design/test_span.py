"""Spans of labels against exact arithmetic: what was dosed together is not told apart by rounding."""

import fractions
import itertools

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax.design.span import determined_by_others, label_rank, label_span, least_squares
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.training import folds
from pdae_jax.training.defaults import effective_rank
from pdae_jax.training.pilot import make_pilot
from pdae_jax.types import PerturbationData

TOGETHER = [(0.1, 0.3), (0.2, 0.6), (0.7, 2.1), (1.1, 3.3)]  # always 1:3, and each rounded by itself


def data_of(labels, *, cells=30, seed=0):
    """Cells of an additive world under these labels, the control first."""
    labels = np.concatenate([np.zeros((1, len(labels[0]))), labels]).astype(np.float32)
    random = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(labels), dtype=np.int32), cells)
    effects = random.normal(size=(labels.shape[1], 3)) / labels.max(axis=0)[:, None]
    x = random.normal(size=(len(index), 3)) + (labels @ effects)[index]
    names = tuple(f"p{i}" for i in range(labels.shape[1]))
    conditions = ("control", *(f"c{e}" for e in range(1, len(labels))))
    return PerturbationData(x.astype(np.float32), index, labels, conditions, names, ("x", "y", "z"))


def exact_rank(rows):
    """By elimination in fractions."""
    rows, rank = [[fractions.Fraction(v) for v in row] for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((r for r in rows[rank:] if r[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows = [*rows[:rank], pivot, *rows[rank:]]
        for row in rows[rank + 1 :]:
            factor = row[column] / pivot[column]
            row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        rank += 1
    return rank


@pytest.mark.parametrize("unit", [(1, 1), (1e6, 1e-3)])
def test_drugs_always_dosed_together_are_not_told_apart(unit):
    data = data_of(np.array(TOGETHER) * unit)
    alone, both = np.eye(2)[0] * unit, np.array([2.0, 6.0]) * unit
    assert label_rank(data.labels) == 1
    verdict = pdae_jax.check_guarantee(data, alone)
    assert verdict.level == "not identified" and verdict.leverage < 1
    assert pdae_jax.check_guarantee(data, both).identified
    assert effective_rank(make_pilot(pdae_jax.Recipe(standardize="feature"), data)) == 1
    # nor do baselines predict differences of rounding errors
    for name in ("linear_regression", "latent_additive", "additive"):
        moved = BASELINES[name](jax.random.key(0), data, alone, 30).mean(axis=0) - data.cells("control").mean(axis=0)
        assert np.linalg.norm(moved) < 30, name


def test_ranks_of_rounded_ratios_are_those_of_the_exact_ones():
    random = np.random.default_rng(1)
    for _ in range(40):
        exact = random.integers(0, 4, (7, 3)) @ random.integers(0, 4, (3, 6))  # rank 3 or less
        units = 10.0 ** random.integers(-6, 7, 6)
        doses = 10.0 ** random.integers(-3, 3, (7, 1)) / 3.0  # a dose series: rows have any length
        assert label_rank((exact * units * doses).astype(np.float32)) == exact_rank(exact.tolist())


def test_large_designs_and_small_angles_keep_their_rank():
    pairs = [np.eye(40)[i] + np.eye(40)[j] for i, j in itertools.combinations(range(40), 2)]
    design = np.concatenate([np.eye(40), pairs])
    assert label_rank(design.astype(np.float32)) == 40
    many = np.concatenate([np.tile([[1.0, 0.0]], (20_000, 1)), [[1.0, 1e-3]]])
    # one condition of many tells; another tolerance grows with their number
    assert label_rank(many.astype(np.float32)) == 2


def test_projection_does_not_depend_on_units():
    random = np.random.default_rng(2)
    labels, label, units = random.integers(0, 3, (3, 5)).astype(float), random.normal(size=5), 10.0 ** np.arange(-3, 2)
    here, there = label_span(labels), label_span(labels * units)
    np.testing.assert_allclose(there.project(label * units), here.project(label) * units, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(there.residual(label * units), here.residual(label), rtol=1e-6)
    weights = there.weights() @ (label * units)
    np.testing.assert_allclose(weights, np.linalg.pinv((labels / labels.max(0)).T) @ (label / labels.max(0)), atol=1e-9)


def test_least_squares_agrees_with_the_normal_equations():
    random = np.random.default_rng(3)
    labels, y = random.normal(size=(9, 4)), random.normal(size=(9, 2))
    np.testing.assert_allclose(least_squares(labels, y), np.linalg.solve(labels.T @ labels, labels.T @ y), atol=1e-9)


def test_determined_by_others():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1], [2, 0, 0]], np.float32)
    np.testing.assert_array_equal(determined_by_others(labels), [True, True, True, False, True])


def test_determined_by_others_does_not_depend_on_units():
    labels = np.array([[1000, 0], [1000, 1], [0, 0]], np.float32)
    np.testing.assert_array_equal(determined_by_others(labels), [False, False, True])
    labels = np.array([[1000, 0], [1000, 1], [0, 2]], np.float32)
    np.testing.assert_array_equal(determined_by_others(labels), [True, True, True])
    # a small dose has a direction too, and nothing else points there
    labels = np.array([[1, 1], [2, 2], [1e-4, 0]], np.float32)
    np.testing.assert_array_equal(determined_by_others(labels), [True, True, False])


def test_combinations_that_rounding_alone_determines_are_not_left_out():
    pairs = [(a, 3 * a, b) for a, b in zip((0.1, 0.2, 0.7, 1.1, 1.3, 1.7), (1.0, 0.5, 0.3, 0.9, 0.7, 0.1), strict=True)]
    data = data_of([*pairs, (1.0, 0.0, 1.0), (0.0, 0.0, 1.0)])
    for seed in range(5):
        left_out = folds.folds_to_leave_out(data, jax.random.key(seed))[0]
        assert left_out and "c7" not in left_out
        rest, _ = pdae_jax.hold_out(data, left_out)
        assert all(pdae_jax.check_guarantee(rest, data.label(name)).identified for name in left_out)
        assert "c7" not in pdae_jax.design.split.random_conditions(jax.random.key(seed), data, 2)
