"""The design against what is written down by hand: two drugs, two cell types, doses in any unit."""

import numpy as np
import pytest

from pdae_jax.design.design import design_of, make_design
from pdae_jax.evaluation.baselines import additive_shift
from tests.design.test_span import data_of

LABELS = np.array(
    [[0, 0, 0], [100, 0, 0], [0, 2, 0], [50, 2, 0], [0, 0, 1], [100, 0, 1], [50, 2, 1]], np.float32
)  # a drug in nM, another in uM, a cell type
DESIGN = make_design(LABELS, ("A", "B", "nk"), strata=("nk",))


def test_which_conditions_are_what():
    np.testing.assert_array_equal(DESIGN.perturbed, [False, *[True] * 6])
    assert DESIGN.control == 0
    np.testing.assert_array_equal(DESIGN.orders, [0, 1, 1, 2, 0, 1, 2])
    assert DESIGN.order(LABELS[6]) == 2
    np.testing.assert_array_equal(DESIGN.num_effects, [0, 1, 1, 2, 1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(DESIGN.combinations), [3, 6])
    np.testing.assert_array_equal(DESIGN.across_strata, [0, 1, 2, 3, 0, 1, 3])
    assert DESIGN.measured_alone.all()
    np.testing.assert_array_equal(DESIGN.find(np.array([50, 2 + 1e-7, 0], np.float32)), [3])
    assert not len(DESIGN.find(np.array([25, 2, 0], np.float32)))


def test_a_row_does_not_depend_on_the_unit_of_a_dose():
    np.testing.assert_array_equal(DESIGN.doses.unit, [100, 2, 1])
    np.testing.assert_array_equal(DESIGN.rows[3], [0.5, 1, 0])
    assert DESIGN.rows.dtype == np.float32 and DESIGN.num_columns == 3
    factors = np.array([1e-3, 1e6, 1.0])
    other = make_design((LABELS * factors).astype(np.float32), DESIGN.perturbations, DESIGN.strata)
    np.testing.assert_array_equal(other.rows, DESIGN.rows)
    np.testing.assert_array_equal(other.row(np.array([25, 3, 1]) * factors), [0.25, 1.5, 1])


def test_what_conditions_determine_does_not_depend_on_the_unit_either():
    known = make_design(LABELS[[0, 1, 3]], DESIGN.perturbations)
    assert known.span.rank == 2 and known.span_of_singles.rank == 1
    np.testing.assert_array_equal(known.determined_by_others, [True, False, False])
    pair = known.identification(np.array([0.0, 2.0, 0.0]))
    assert pair.identified and pair.residual < 1e-6
    np.testing.assert_allclose(pair.weights, [0, -0.5, 1], atol=1e-12)  # 50 of A and 2 of B, less half of 100 of A
    assert pair.leverage == pytest.approx(1.25)
    half = known.identification(np.array([100.0, 0.0, 1.0]))
    assert not half.identified and half.residual == pytest.approx(0.5**0.5)
    np.testing.assert_array_equal(known.identified_part(np.array([100, 0, 1], np.float32)), [100, 0, 0])
    label = np.array([0.3, 0.7, 0.0], np.float32)
    np.testing.assert_array_equal(known.identified_part(label), label)


def test_doses_that_were_not_measured():
    assert DESIGN.dose_status(np.array([50.0, 2, 1])) == "measured" and not DESIGN.new_doses(np.array([50.0, 2, 1]))
    assert DESIGN.dose_status(np.array([25.0, 2, 0])) == "between"
    assert DESIGN.new_doses(np.array([25.0, 3, 0])) == ("A at 25 (measured: 50, 100)", "B at 3 (measured: 2)")


def test_a_design_without_a_control_says_so():
    assert make_design(LABELS[1:], DESIGN.perturbations).perturbed.all()
    with pytest.raises(ValueError, match="control"):
        _ = make_design(LABELS[1:], DESIGN.perturbations).control


def test_it_is_made_once_for_each_data_set():
    data = data_of([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
    assert design_of(data) is design_of(data)
    assert design_of(data) is not design_of(data.select(data.conditions))


def test_small_doses_are_told_apart_in_any_unit():
    """In mol/l all doses are next to zero, and none of them is another."""
    labels = (LABELS * np.array([1e-9, 1e-9, 1.0])).astype(np.float32)
    molar = make_design(labels, DESIGN.perturbations, DESIGN.strata)
    for row, label in enumerate(labels):
        np.testing.assert_array_equal(molar.find(label), [row])
    # nor are they one for the baseline that adds single effects up
    data = data_of(np.array([(1e-9, 0.0), (1e-8, 0.0), (0.0, 1e-9)]))
    shifts = [additive_shift(data, data.label(name)) for name in ("c1", "c2")]
    means = [data.cells(name).mean(0, dtype=np.float64) - data.cells("control").mean(0) for name in ("c1", "c2")]
    np.testing.assert_allclose(shifts, means, atol=1e-5)


def test_what_singles_determine_does_not_depend_on_the_unit():
    labels = np.array([[0, 0, 0], [1, 1, 1], [5, 5, 5], [100, 0, 0], [0, 2, 0]], np.float32)
    pair = np.array([30.0, 1.0, 0.0])
    for factors in ([1.0, 1.0, 1.0], [1e-3, 1e3, 1.0]):
        design = make_design((labels * np.array(factors)).astype(np.float32), ("A", "B", "C"))
        assert design.contains(pair * factors) and design.singles_contain(pair * factors)
        assert not design.singles_contain(np.array([1.0, 1.0, 1.0]) * factors)
        assert design.contains(np.array([1.0, 1.0, 1.0]) * factors)
