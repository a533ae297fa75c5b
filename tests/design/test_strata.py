"""A combination is one of perturbations: strata make none, and none is held out of one stratum while another trains."""

import itertools

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.configs import anndata as own
from pdae_jax import build, check_guarantee, fit, from_arrays, hold_out
from pdae_jax.data.own_data import choose_held_out
from pdae_jax.design.design import design_of
from pdae_jax.design.protocols import held_out
from pdae_jax.design.split import random_conditions
from pdae_jax.runs.store import fingerprint, load_data, save_data
from pdae_jax.training.folds import folds_to_leave_out

KEY = jax.random.key(0)
DRUGS, DONORS = ("A", "B", "C", "D"), ("D1", "D2", "D3")
PAIRS = tuple(itertools.combinations(DRUGS, 2))


def screen(combinations=PAIRS, strata=DONORS[1:]):
    """Drugs alone and combined in three donors, whose first is the control's."""
    treatments = ["", *DRUGS, *("+".join(drugs) for drugs in combinations)]
    names = ["+".join(filter(None, (drug, "" if d == "D1" else d))) or "none" for drug in treatments for d in DONORS]
    return from_arrays(
        np.random.default_rng(0).normal(size=(2 * len(names), 2)), names * 2, control="none", strata=strata
    )


def drugs_of(name):
    return frozenset(name.split("+")) - set(DONORS)


def check_apart(train, held):
    """Nothing that trains has the drugs of a held-out combination, and the others determine it."""
    assert all(len(drugs_of(name)) > 1 for name in held)
    assert not {drugs_of(name) for name in held} & {drugs_of(name) for name in train.conditions}
    assert all(check_guarantee(train, name).identified for name in held)


def test_orders_count_perturbations():
    data = screen()
    assert data.orders.tolist() == [len(drugs_of(name) - {"none"}) for name in data.conditions]
    assert (
        design_of(data).measured_alone.all()
        and not design_of(data.select(["none", "A", "A+D2+B"])).measured_alone.all()
    )
    # a donor without unperturbed cells is known from a drug that is known from another donor
    known = design_of(data.select(["none", "A", "A+D2", "B+D2"])).measured_alone
    assert set(itertools.compress(data.perturbations, known)) == {"A", "B", "D2"}


@pytest.mark.parametrize("seed", range(3))
def test_what_is_chosen_is_held_out_of_all_strata(seed):
    data = screen()
    chosen = choose_held_out(data, 0.3, seed)
    assert len(chosen) == 6  # two combinations of six, in three donors
    check_apart(hold_out(data, chosen)[0], chosen)
    for protocol in ("doubles", "seen2", "tenth"):
        found = held_out(data, protocol, seed)
        check_apart(hold_out(data, [*found.test, *found.validation])[0], found.test + found.validation)
    found = held_out(data, "seen1", seed)
    check_apart(data.select([c for c in data.conditions if c not in found.test]), ())
    assert {len(drugs_of(name)) for name in found.test} == {2}
    drawn = random_conditions(jax.random.key(seed), data, 2)
    assert len(drawn) == 6
    check_apart(hold_out(data, drawn)[0], drawn)
    folds = folds_to_leave_out(data, jax.random.key(seed))
    assert len(folds) > 1
    for fold in folds:
        check_apart(hold_out(data, fold)[0], fold)


def test_one_drug_in_one_line_is_no_combination():
    data = screen(combinations=())
    assert choose_held_out(data, 0.5, 0) == () and folds_to_leave_out(data, KEY) == []
    with pytest.raises(ValueError, match="leaves no pair"):
        held_out(data, "doubles")
    with pytest.raises(ValueError, match="of 0 eligible"):
        random_conditions(KEY, data, 1)
    assert set(held_out(data, "stratum", 1).test) == {"A+D3", "B+D3", "C+D3", "D+D3"}  # those of the data
    assert hold_out(data, "A+D2")[1].conditions == ("A+D2",)


def test_a_combination_that_stays_in_another_stratum_is_refused():
    data = screen()
    with pytest.raises(ValueError, match=r"'A\+B\+D2' is held out, but 'A\+B', 'A\+B\+D3' would train.*of_all_strata"):
        hold_out(data, "A+B+D2")
    assert hold_out(data, ["B+A+D2"], of_all_strata=False)[1].conditions == ("A+B+D2",)
    assert hold_out(data, ["A+B+D2", "A+B", "D3+B+A"])[0].orders.sum() == data.orders.sum() - 6


def test_validation_is_apart_by_label():
    data = from_arrays(np.random.default_rng(0).normal(size=(12, 2)), ["control", "A", "B", "A+B", "c", "d"] * 2)
    other = from_arrays(data.x[:4], ["B+A"] * 4, like=data)
    with pytest.raises(ValueError, match=r"shared with the training data: \['B\+A'\]"):
        fit(data, key=KEY, validation=other)


def test_a_run_knows_its_strata(tmp_path):
    data = screen()
    save_data(tmp_path / "data.npz", data)
    again = load_data(tmp_path / "data.npz")
    assert again.strata == data.strata and fingerprint(again) == fingerprint(data)
    plain = screen(strata=())
    save_data(tmp_path / "plain.npz", plain)
    assert load_data(tmp_path / "plain.npz").strata == () and "strata" not in np.load(tmp_path / "plain.npz")
    assert fingerprint(plain) != fingerprint(data)


def test_a_file_with_strata_is_split_by_combinations(tmp_path):
    data = screen(combinations=[("A", "B"), ("C", "D"), ("A", "C")])
    names = np.array(data.conditions)[data.condition_index]
    frame = pd.DataFrame(data.x, columns=["f", "g"])
    frame["drug"] = ["+".join(sorted(drugs_of(name))) or "none" for name in names]
    frame["donor"] = [next((d for d in DONORS if d in name.split("+")), "D1") for name in names]
    frame.to_csv(tmp_path / "cells.csv", index=False)
    config = own.get_config()
    config.data.update(path=str(tmp_path / "cells.csv"), condition="drug", control="none")
    config.data.update(stratum="donor", reference="D1")
    found = build.experiment(config)
    check_apart(found.train, found.test.conditions + found.validation.conditions)
    text = found.describe()
    assert "9 combinations, 9 identified by the singles" in text and "stratum" in text
    config.split.protocol = "stratum"
    found = build.experiment(config)
    assert all("D2" in name for name in found.test.conditions) and found.test.num_conditions == 7
    config.split.update(protocol="", test=("A+B+D2",))
    with pytest.raises(ValueError, match="other strata"):
        build.experiment(config)
