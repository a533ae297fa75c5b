"""What a row of the table says beside its metric."""

import numpy as np
import pytest

from pdae_jax.data.load import from_arrays
from pdae_jax.evaluation.reference import spread_within
from pdae_jax.evaluation.scoring import Scale
from pdae_jax.prediction.samples import beyond
from pdae_jax.training.validate import distance_variance, null_variance


def test_one_cell_far_off_is_seen():
    random = np.random.default_rng(0)
    measured, cells = random.uniform(-1.0, 1.0, size=(900, 3)), random.uniform(-1.0, 1.0, size=(500, 3))
    range_of = measured.min(axis=0), measured.max(axis=0)
    assert beyond(cells, *range_of).share == 0.0
    assert beyond(cells, *range_of).farthest == pytest.approx(1.0, abs=0.02)
    for value, farthest in ((1e4, 1e4), (-2.5, 2.5), (np.nan, np.nan), (np.inf, np.inf)):
        cells[7, 1] = value
        found = beyond(cells, *range_of)
        assert found.share == 1 / 500
        assert found.farthest == pytest.approx(farthest, rel=0.01, nan_ok=True)
    cells[7, 1] = 1.4  # beyond the range, but not beyond the widened one
    assert beyond(cells, *range_of).share == 0.0


@pytest.mark.parametrize(
    ("metric", "base", "best", "noise", "known"),
    [
        ("correlation_error", 0.08, 0.205, 0.001, False),  # few cells measured again, many in the mean response
        ("energy_distance", 0.5, 0.001, 0.004, True),
        ("energy_distance", 0.005, 0.001, 0.004, False),  # chance in the ceiling
        ("correlation_error", 0.24, 0.20, 0.001, False),  # the ceiling, of half of the cells, is that far off itself
        ("correlation_error", 0.40, 0.20, 0.001, True),
        ("pearson_delta", 0.3, 0.9, 0.01, True),
        ("pearson_delta", 0.3, 0.4, 0.01, False),
    ],
)
def test_the_scale_has_a_length_that_is_more_than_noise(metric, base, best, noise, known):
    found = Scale(base, best, noise).scaled(metric, 0.1)
    assert np.isfinite(found["scaled"]) == known
    if known:
        assert found["scaled"] == pytest.approx((0.1 - base) / (best - base))


def test_the_spread_of_three_wells_is_that_of_all_conditions():
    random = np.random.default_rng(0)
    means = np.repeat(random.normal(size=(40, 5)) * 9.0, 3, axis=0)
    data = from_arrays(
        means + random.normal(size=means.shape), np.repeat(["control", *map("g{}".format, range(39))], 3)
    )
    assert spread_within(data) == pytest.approx(distance_variance(random.normal(size=(200, 5))), rel=0.3)


def test_the_unit_of_cells_is_that_of_their_noise():
    cells = np.random.default_rng(0).normal(size=(40, 3))
    assert null_variance(1e-22 * cells, 30) == pytest.approx(1e-44 * null_variance(cells, 30))
