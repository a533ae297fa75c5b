import io

import numpy as np
import pandas as pd
import pytest

from pdae_jax.evaluation.summary import format_table, summary_table


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
