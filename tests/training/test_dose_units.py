"""The unit of a dose changes nothing but rounding."""

import dataclasses

import jax
import numpy as np
import pytest

from pdae_jax import check_guarantee, evaluate, fit, hold_out, predict, simulate
from pdae_jax.evaluation.baselines import BASELINES

HELD_OUT = "p0+p1"
STEPS = 100


@pytest.fixture(scope="module")
def series():
    labels = ["p0", "p1", "p2", "p0:0.25", "p1:0.5", "p0+p2", "p1+p2", "p0:0.5+p1:0.5", HELD_OUT]
    return simulate(
        jax.random.key(0),
        labels=labels,
        latent_dim=2,
        observed_dim=4,
        num_perturbations=3,
        cells_per_condition=200,
        mixing="network",
    ).data


def in_units(data, factor):
    """The same experiment with doses in another unit; conditions keep their names."""
    return dataclasses.replace(data, labels=(data.labels * np.asarray(factor)).astype(np.float32))


def predicted(data, **options):
    train, test = hold_out(data, [HELD_OUT])
    fitted = fit(train, key=jax.random.key(1), num_steps=STEPS, hidden=(32, 32), progress=False, **options)
    label = test.labels[test.index(HELD_OUT)]
    return fitted, predict(fitted, label, key=jax.random.key(2), num_samples=200), label, test


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"observed_effects": True, "contrast": 0.0, "likelihood": 0.0}])
def test_predictions_do_not_depend_on_the_unit(series, options):
    fitted, expected, label, test = predicted(series, **options)
    matrix = fitted.shift_matrix
    for factor in (1e4, (1e-3, 1e4, 1.0)):
        other, found, scaled, _ = predicted(in_units(series, factor), **options)
        np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(other.shift_matrix * np.reshape(factor, (-1, 1)), matrix, rtol=1e-4, atol=1e-6)
        verdicts = [check_guarantee(model, a) for model, a in ((fitted, label), (other, scaled))]
        assert verdicts[0].level == verdicts[1].level
        assert verdicts[0].outside == pytest.approx(verdicts[1].outside, abs=0.01)
        assert verdicts[0].source_disagreement == pytest.approx(verdicts[1].source_disagreement, rel=1e-2)
    table = evaluate(fitted, test, metrics=["energy_distance"], baselines=["additive"], progress=False)
    assert np.isfinite(table["value"]).all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_baselines_do_not_depend_on_the_unit(series, name):
    data = series.select([c for c in series.conditions if c not in ("p2", HELD_OUT, "p0+p2")])  # p2 only beside p1
    label = series.labels[series.index(HELD_OUT)]
    expected = BASELINES[name](jax.random.key(0), data, label, 100)
    for factor in (1e4, (1e-3, 1e4, 1.0)):
        found = BASELINES[name](jax.random.key(0), in_units(data, factor), (label * np.asarray(factor)), 100)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
