"""Labels as users type them: numbers that are names, several names in one, lists, doses that float32 cannot hold."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from pdae_jax import build, check_guarantee, from_arrays, hold_out
from pdae_jax.data.tables import find_columns
from pdae_jax.design.protocols import held_out
from pdae_jax.labels import parse_label

RANDOM = np.random.default_rng(0)


def read(names, **options):
    return from_arrays(RANDOM.normal(size=(2 * len(names), 2)), [*names, *names], **options)


@pytest.fixture(scope="module")
def numbered():
    """Donors and guides have numbers; ``--config.split.test=1.50`` arrives as 1.5, ``101,102`` as integers."""
    return read(["0", "101", "102", "1.50", "007", "101+102"], control=0)


@pytest.mark.parametrize(
    ("given", "name"), [(101, "101"), (np.int64(102), "102"), (1.5, "1.50"), (7, "007"), ("101+102", "101+102")]
)
def test_a_number_is_the_name_that_reads_as_it(numbered, given, name):
    assert numbered.conditions[numbered.index(given)] == name and numbered.has(given)
    assert hold_out(numbered, given)[1].conditions == hold_out(numbered, [given])[1].conditions == (name,)
    np.testing.assert_array_equal(numbered.label(given), numbered.label(name))
    assert repr(check_guarantee(numbered, given)) == repr(check_guarantee(numbered, numbered.label(name)))
    np.testing.assert_array_equal(parse_label({given: 2}, [name]), [2])


def test_numbers_of_a_config_are_names(numbered):
    section = ConfigDict({"test": (101,), "validation": (1.5,)})
    train, validation, test = build._split(section, numbered, None, None)
    assert (test.conditions, validation.conditions) == (("101",), ("1.50",)) and "102" in train.conditions
    of_donors = read(["c", "A", "1", "2", "A+1", "A+2"], control="c")
    assert set(held_out(of_donors, "stratum", 1, (1, 2)).test) == {"A+2"}
    assert held_out(of_donors, "stratum", 0, 1).test == ("A+1",)
    with pytest.raises(KeyError, match="No condition '103'"):
        hold_out(numbered, 103)


def test_two_names_without_quotes_are_one_name_and_the_message_shows_the_quotes():
    data = read(["control", "A", "B", "C", "A+B", "A+C"])
    section = ConfigDict({"test": ("A+B,A+C",), "validation": ()})
    for ask, written in (
        (lambda: build._split(section, data, None, None), "('A+B', 'A+C')"),
        (lambda: held_out(data, "stratum", 0, "A,B"), "('A', 'B')"),
        (lambda: data.label("A, C"), "('A', 'C')"),
        (lambda: find_columns(["A,B"], data.conditions, "obs"), "('A', 'B')"),
    ):
        with pytest.raises(KeyError) as caught:
            ask()
        assert f'names without quotes are one name, write "{written}"' in caught.value.args[0]
    with pytest.raises(KeyError, match="nearest are"):
        hold_out(data, "A+B,A+D")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (["A", "B"], r"\['A', 'B'\] is no vector of doses.*'A\+B'.*\{'A': 1.0, 'B': 1.0\}"),
        (("1", "2"), r"'1\+2'"),  # of numbers as text NumPy would make doses
        ([["A"], ["A", "B"]], "no vector of doses"),
        ([1.0], r"shape \(1,\)"),
        ({"A": "0,5"}, "the dose of 'A' is '0,5'. Pass a number"),
        ({"A": None}, "Pass a number"),
        ({"A": 1, "A ": 2}, "names 'A' twice"),
        ("A+B+A", "names 'A' twice. Write it once"),
        ({"A": float("nan")}, "'A' is nan, not finite"),
        ({"A": 1e39}, r"'A' is 1e\+39, which float32 holds as inf. Choose another unit"),
        ("A:5e-46+B", "'A' is 5e-46, which float32 holds as 0. Choose another unit"),
        ([0, 2e-45], "'B' is 2e-45"),
        (np.array([np.inf, 0]), "'A' is inf, not finite"),
        (np.ma.masked_array([1, 1], mask=[False, True]), "missing or complex"),
        ([1j, 0], "missing or complex"),
    ],
)
def test_what_is_no_label_is_refused_with_the_fix(spec, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        parse_label(spec, ["A", "B"])


def test_the_control_stands_for_nothing_in_a_dict_too():
    np.testing.assert_array_equal(parse_label({"A": 1, "ctrl": 1}, ["A", "B"], control="ctrl"), [1, 0])
