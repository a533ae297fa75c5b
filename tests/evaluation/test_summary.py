import io

import numpy as np
import pandas as pd
import pytest

from pdae_jax.evaluation.summary import format_table, ratio_interval, summary_table, warnings_of


def make_table(distances, *, split="test", seed=0):
    """Long table from ``{method: [energy distance per condition]}``; the mmd is a tenth of it."""
    return pd.DataFrame(
        [
            {
                "condition": f"c{i}", "split": split, "method": method, "metric": metric,
                "value": scale * value, "n_true": 10, "n_pred": 10, "seed": seed,
            }
            for method, found in distances.items()
            for i, value in enumerate(found)
            for metric, scale in (("energy_distance", 1.0), ("mmd", 0.1))
        ]
    )  # fmt: skip


DISTANCES = {
    "pdae": [0.1, 0.2, 0.9],
    "control": [4.0, 5.0, 6.0],
    "additive": [1.0, 2.0, 1.5],
    "linear_regression": [0.4, 3.0, 0.8],
    "oracle_half": [0.01, -0.01, 0.0],
}


def test_numbers_by_hand():
    summary = summary_table(make_table(DISTANCES))
    assert list(summary.index) == list(DISTANCES)
    assert summary.attrs["best_baseline"] == "linear_regression"  # mean 1.4 against 1.5
    pdae = summary.loc["pdae"]
    assert pdae["energy_distance"] == pytest.approx(0.4)
    assert pdae["mmd"] == pytest.approx(0.04)
    assert pdae["energy_distance_median"] == pytest.approx(0.2)
    assert pdae["ratio"] == pytest.approx(0.4 / 1.4)
    assert pdae["ratio_median"] == pytest.approx(0.2 / 0.8)
    assert pdae["num_worse"] == 1  # the last: 0.9 against 0.8
    assert summary["num_worse"].to_dict() == {
        "pdae": 1, "control": 3, "additive": 2, "linear_regression": 1, "oracle_half": 0,
    }  # fmt: skip
    assert (summary["num_conditions"] == 3).all()


def test_interval_covers_the_ratio_and_is_exact_where_nothing_varies():
    random = np.random.default_rng(0)
    base = random.uniform(1.0, 9.0, size=40)
    summary = summary_table(make_table({"pdae": 0.25 * base, "control": 9 + random.uniform(size=40), "additive": base}))
    # the pairing counts: conditions differ by a factor of nine, the ratio not at all
    assert summary.loc["pdae", ["ratio_low", "ratio_high"]].tolist() == pytest.approx([0.25, 0.25])
    control = summary.loc["control"]
    assert control["ratio_low"] < control["ratio"] < control["ratio_high"]
    # delta method: relative variance of the mean of `base`, as the control hardly varies
    width = np.log(control["ratio_high"] / control["ratio_low"]) / (2 * 1.96)
    assert width == pytest.approx(base.std() / base.mean() / np.sqrt(40), rel=0.15)


def test_one_condition_has_no_interval_and_no_baseline_has_no_ratio():
    one = summary_table(make_table({"pdae": [0.1], "additive": [0.2]}))
    assert one.loc["pdae", "ratio"] == pytest.approx(0.5)
    assert one[["ratio_low", "ratio_high"]].isna().all(axis=None)
    none = summary_table(make_table({"pdae": [0.1], "control": [0.2]}))
    assert none["ratio"].isna().all()
    assert none.attrs["best_baseline"] is None
    assert "0.100" in format_table(none)


def test_seeds_stack_and_splits_stay_apart():
    first, second = make_table(DISTANCES), make_table({k: 2 * np.array(v) for k, v in DISTANCES.items()}, seed=1)
    train = make_table({k: 100 * np.array(v) for k, v in DISTANCES.items()}, split="train")
    summary = summary_table(pd.concat([first, second, train]))
    assert (summary["num_conditions"] == 6).all()
    assert summary.loc["pdae", "energy_distance"] == pytest.approx(0.6)
    assert summary_table(train, split="train").loc["pdae", "energy_distance"] == pytest.approx(40.0)
    with pytest.raises(ValueError, match=r"No rows of split 'validation' in the table; it has \['test'\]"):
        summary_table(first, split="validation")


def test_the_text_is_aligned_and_can_be_made_from_the_file():
    table = make_table(DISTANCES)
    text = format_table(table)
    lines = text.splitlines()
    assert len({len(line) for line in lines[: 2 + len(DISTANCES)]}) == 1
    assert [line.split()[0] for line in lines[2 : 2 + len(DISTANCES)]] == list(DISTANCES)
    assert "linear_regression" in lines[-2]
    assert "1/3" in lines[2]
    assert format_table(summary_table(table)) == text
    assert format_table(pd.read_csv(io.StringIO(table.to_csv(index=False)))) == text


def test_metrics_that_are_undefined_everywhere_show_a_dash():
    table = make_table(DISTANCES)
    table.loc[table["metric"] == "mmd", "value"] = np.nan
    assert summary_table(table)["mmd"].isna().all()
    assert " - " in format_table(table)


def with_columns(table, *, noise, out_of_range=0.0):
    return table.assign(noise=noise, out_of_range=out_of_range, farthest=1.0)


def test_at_the_noise_there_is_no_ratio_and_nothing_is_worse():
    values = {"pdae": [-0.02, 0.03, 0.01], "control": [0.4, 1.0, 2.0], "ridge": [-0.01, -0.03, 0.015]}
    values["oracle_half"] = [0.01, -0.02, np.nan]
    for table in (make_table(values), with_columns(make_table(values), noise=0.015)):
        summary = summary_table(table)
        assert summary[["ratio", "ratio_low", "ratio_high", "ratio_median"]].isna().all(axis=None)
        assert summary["num_worse"][["control", "ridge", "oracle_half"]].tolist() == [3, 0, 0]
        assert summary.loc["pdae", "num_worse"] == 1  # 0.03 against -0.03 is more than two standard deviations
        assert set(summary.attrs["equal"]) == {"pdae", "ridge", "oracle_half"}
        assert "equal to measuring again" in format_table(table) and "nan" not in format_table(table)
    # a baseline that is clearly off has ratios, which are never below zero
    ratio = summary_table(with_columns(make_table(values | {"ridge": [0.5, 0.6, 0.7]}), noise=0.015))["ratio"]
    assert ratio["pdae"] == pytest.approx(0.02 / 3 / 0.6) and ratio["ridge"] == 1.0
    assert ratio_interval(np.array([1.0, 1.0]), np.array([-1.0, 2.0]))[0] >= 0.0


def test_numbers_that_are_none_are_not_the_best():
    table = make_table(DISTANCES | {"pdae": [0.1, np.nan, 0.2]})
    summary = summary_table(table)
    assert summary.loc["pdae", ["energy_distance", "mmd", "ratio"]].isna().all()
    assert summary.loc["pdae", "num_worse"] == 1  # of NaN nothing can be said in its favour
    broken = make_table(DISTANCES | {"linear_regression": [np.nan] * 3})
    assert summary_table(broken).attrs["best_baseline"] == "additive"
    assert "pdae: some predicted cells are NaN" in format_table(table)


def test_cells_far_off_and_conditions_of_few_cells_are_said_first():
    table = with_columns(make_table(DISTANCES), noise=0.01)
    table.loc[(table["method"] == "pdae") & (table["condition"] == "c1"), ["out_of_range", "farthest"]] = 0.002, 5e3
    few, far = warnings_of(table)
    assert "3 of 3 conditions have fewer than 20 cells (10 at fewest): too few" in few
    assert "pdae: predicted cells of 1 of 3 conditions" in far and "c1 (0.20% of its cells; up to 5e+03" in far
    assert {few, far} <= set(format_table(table).splitlines())
    assert "0.067%" in format_table(table).splitlines()[2]
    calm = with_columns(make_table(DISTANCES), noise=0.01).assign(n_true=20)
    assert warnings_of(calm) == ()
