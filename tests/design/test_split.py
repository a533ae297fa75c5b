import itertools

import jax
import numpy as np
import pytest

from pdae_jax.data.load import from_arrays
from pdae_jax.design.protocols import held_out
from pdae_jax.design.split import hold_out, hold_out_cells, random_conditions


def make_data(names, counts=10):
    conditions = np.repeat(names, counts)
    x = np.random.default_rng(0).normal(size=(len(conditions), 2))
    order = np.random.default_rng(1).permutation(len(conditions))
    first = [int(np.flatnonzero(conditions[order] == name)[0]) for name in names]
    order = np.concatenate([order[first], np.delete(order, first)])  # shuffled, order of first appearance as given
    return from_arrays(x[order], conditions[order])


DATA = make_data(["control", "A", "B", "C", "A+B", "A:0.5"])


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["A+B", "B"], ("A+B", "B")),
        (["B+A"], ("A+B",)),
        ("A+B", ("A+B",)),
        ({"A": 0.5}, ("A:0.5",)),
        ([{"A": 1, "B": 1.0}, np.array([0.0, 0, 1]), "C", "B+A"], ("A+B", "C")),
    ],
)
def test_hold_out_takes_whole_conditions(specs, names):
    train, test = hold_out(DATA, specs)
    assert test.conditions == names
    assert train.conditions == tuple(name for name in DATA.conditions if name not in names)
    assert train.perturbations == test.perturbations == ("A", "B", "C")
    for part in (train, test):
        for name in part.conditions:
            np.testing.assert_array_equal(part.cells(name), DATA.cells(name))
            np.testing.assert_array_equal(part.label(name), DATA.label(name))
    assert train.num_cells + test.num_cells == DATA.num_cells


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        ([], ValueError, r"list is empty.*'control', 'A'"),
        (["A+b"], KeyError, r"'A\+b'.*'A\+B'.*data.conditions"),
        (["A+C"], KeyError, r"'A\+C'.*data.conditions"),
        ([{"D": 1}], KeyError, r"'D'.*'A', 'B', 'C'"),
        ([{"A": 2}], KeyError, r"'A:2'.*'A'.*data.conditions"),
        ([[1.0, 0.0]], ValueError, r"shape \(2,\).*3 perturbations"),
        (["A", "control"], ValueError, r"'control' cannot be held out.*Remove"),
        (["A", "B", "C", "A+B", "A:0.5"], ValueError, r"leaves 'control'.*Keep at least one"),
    ],
)
def test_hold_out_says_what_is_wrong(specs, error, message):
    with pytest.raises(error, match=message):
        hold_out(DATA, specs)


def test_hold_out_cells_splits_every_condition():
    data = make_data(["control", "A", "B", "C"], [4, 5, 40, 101])
    train, test = hold_out_cells(jax.random.key(0), data, 0.25)
    assert train.conditions == test.conditions == data.conditions
    np.testing.assert_array_equal(test.counts, [2, 2, 10, 25])
    np.testing.assert_array_equal(train.counts + test.counts, data.counts)
    for name in data.conditions:
        both = np.concatenate([train.cells(name), test.cells(name)])
        np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(data.cells(name), axis=0))
    np.testing.assert_array_equal(hold_out_cells(jax.random.key(0), data, 0.99)[0].counts, [2, 2, 2, 2])
    again, other = (hold_out_cells(jax.random.key(seed), data, 0.25)[1] for seed in (0, 1))
    np.testing.assert_array_equal(test.x, again.x)
    assert not np.array_equal(test.x, other.x)


def test_hold_out_cells_takes_every_cell_equally_often():
    data = make_data(["control", "A"], [8, 12])
    times = sum(np.isin(data.x[:, 0], hold_out_cells(jax.random.key(s), data, 0.25)[1].x[:, 0]) for s in range(200))
    # binomial(200, 1/4): mean 50, standard deviation 6
    assert times.min() > 25 and times.max() < 75


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_hold_out_cells_wants_a_fraction(fraction):
    with pytest.raises(ValueError, match=f"fraction is {fraction}.*0.2"):
        hold_out_cells(jax.random.key(0), DATA, fraction)


def test_hold_out_cells_names_small_conditions():
    with pytest.raises(ValueError, match=r"fewer than 4 cells: 'A'.*data.select"):
        hold_out_cells(jax.random.key(0), make_data(["control", "A", "B"], [9, 3, 4]), 0.5)


NAMES = ["control", "A", "B", "C", "A+B", "B+C", "A+B+C", "D+E", "D+A"]


def identified(data, held):
    """By least squares, condition by condition."""
    train, test = hold_out(data, held)
    design = train.labels.T.astype(np.float64)
    return all(np.allclose(design @ np.linalg.lstsq(design, label, rcond=None)[0], label) for label in test.labels)


@pytest.mark.parametrize("combinations_only", [True, False])
def test_random_conditions_stay_identified(combinations_only):
    data = make_data(NAMES)
    eligible = [name for name in NAMES[1:] if "+" in name or not combinations_only]
    possible = {held for held in itertools.combinations(eligible, 2) if identified(data, held)}
    drawn = {
        random_conditions(jax.random.key(seed), data, 2, combinations_only=combinations_only) for seed in range(150)
    }
    assert drawn == possible
    assert not any({"D+E", "D+A"} & set(held) for held in drawn)


def test_random_conditions_finds_as_many_as_there_are():
    data = make_data(NAMES)
    assert random_conditions(jax.random.key(0), data, 3) == ("A+B", "B+C", "A+B+C")
    with pytest.raises(ValueError, match=r"number is 4, but 3 of 5 eligible.*smaller number"):
        random_conditions(jax.random.key(0), data, 4)
    with pytest.raises(ValueError, match=r"number is 0.*at least 1"):
        random_conditions(jax.random.key(0), data, 0)


@pytest.fixture
def strata():
    """Two drugs in three cell types; "t0" is that of the control, and "t2" was not given the drug "B"."""
    names = ["", "A", "B", "t1", "A+t1", "B+t1", "t2", "A+t2"]
    x = np.random.default_rng(0).normal(size=(4 * len(names), 2))
    return from_arrays(x, np.repeat([name or "none" for name in names], 4), control="none")


def test_a_stratum_is_held_out_but_for_its_plain_cells(strata):
    found = held_out(strata, "stratum", seed=0, strata=("t1", "t2"))
    assert found.test == ("A+t1", "B+t1")
    assert found.validation == ("A+t2",)[: len(found.validation)]
    assert found.left_out == ()
    assert found.source == {"A+t1": "t1", "B+t1": "t1", "A+t2": "t2"}
    assert held_out(strata, "stratum", seed=1, strata=("t1", "t2")).test == ("A+t2",)
    assert held_out(strata, "stratum", strata="t2").test == ("A+t2",)
    assert held_out(strata, "stratum", seed=2, strata=("t1", "t2")).test == ("A+t1", "B+t1")


def test_strata_that_cannot_be_held_out_are_named(strata):
    with pytest.raises(ValueError, match="needs strata"):
        held_out(strata, "stratum")
    with pytest.raises(KeyError, match="t9"):
        held_out(strata, "stratum", strata=("t9",))
    without = strata.select([c for c in strata.conditions if c != "t1"])
    with pytest.raises(ValueError, match="'t1' has no condition without a perturbation"):
        held_out(without, "stratum", strata=("t1",))
    plain = strata.select([c for c in strata.conditions if c != "A+t2"])
    with pytest.raises(ValueError, match="'t2' has no perturbed condition"):
        held_out(plain, "stratum", strata=("t2",))
