"""The semi-real screen: its law, its split, its labels. Needs the effects."""

import numpy as np
import pytest

from pdae_jax.data.norman_pairs import Law, norman_pairs, split_pairs


@pytest.fixture(scope="module")
def law():
    try:
        return Law(genes=40)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_conditions_are_those_of_the_screen(law):
    pairs = [name for name in law.conditions if "+" in name]
    singles = [name for name in law.conditions if "+" not in name and name != "control"]
    assert (len(singles), len(pairs)) == (104, 126)
    assert all(part in singles for pair in pairs for part in pair.split("+"))
    data = norman_pairs(genes=40, cells_per_condition=5, control_cells=20)
    assert (data.num_conditions, data.num_perturbations, data.num_features) == (231, 104, 40)
    assert data.counts[data.index("control")] == 20
    row = data.labels[data.index(pairs[0])]
    assert {name for name, dose in zip(data.perturbations, row, strict=True) if dose == 1} == set(pairs[0].split("+"))
    assert 0.4 < np.mean(data.x == 0) < 0.8


def test_cells_follow_the_rates_and_the_seed(law):
    pair = next(name for name in law.conditions if "+" in name)
    np.testing.assert_array_equal(law.sample(pair, 50, 3), law.sample(pair, 50, 3))
    assert not np.array_equal(law.sample(pair, 50, 3), law.sample(pair, 50, 4))
    # the mean of counts per 10,000 of the control is exp of the log rate: the state is corrected for its variance
    control = np.expm1(law.sample("control", 20_000, 0).astype(np.float64))
    np.testing.assert_allclose(control.mean(axis=0), np.exp(law.log_rates["control"]), rtol=0.1)
    # the efficacy is one on average, so log fold changes of means are near the effects where these are small
    effect = law.log_rates[pair] - law.log_rates["control"]
    moved = np.expm1(law.sample(pair, 20_000, 1).astype(np.float64))
    small = np.abs(effect) < 0.5
    found = np.log(moved.mean(axis=0) / control.mean(axis=0))
    np.testing.assert_allclose(found[small], effect[small], atol=0.12)


def test_true_cells_are_not_those_of_training(law):
    held_out, validation = split_pairs(1)
    assert len(held_out) == 30 and len(validation) == 15 and not set(held_out) & set(validation)
    assert split_pairs(1) == (held_out, validation) and split_pairs(2)[0] != held_out
    train = norman_pairs(genes=40, cells_per_condition=5, control_cells=20)
    true = law.true_cells(train, held_out[:2], cells=5)
    np.testing.assert_array_equal(true.labels, [train.label(name) for name in held_out[:2]])
    assert not np.isin(true.x.sum(axis=1), train.x.sum(axis=1)).any()
