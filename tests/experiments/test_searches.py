"""What a search proposes, and what it refuses."""

import numpy as np
import pytest

from experiments.sweeps import searches
from pdae_jax.reporting import sweeps

SPACE = {"a": [1, 2, 4], "rate": ("log", 1e-4, 1e-1), "weight": ("uniform", 0.0, 2.0), "cells": ("int", 3, 5)}


def test_random_settings_follow_the_space():
    found = searches.random_settings(SPACE, 400, seed=0)
    assert found == searches.random_settings(SPACE, 400, seed=0) != searches.random_settings(SPACE, 400, seed=1)
    assert {setting["a"] for setting in found} == {1, 2, 4} and {s["cells"] for s in found} == {3, 4, 5}
    rates = np.log10([setting["rate"] for setting in found])
    assert rates.min() >= -4 and rates.max() <= -1 and abs(rates.mean() + 2.5) < 0.2  # uniform in the logarithm
    assert abs(np.mean([setting["weight"] for setting in found]) - 1.0) < 0.15


@pytest.mark.parametrize("values", [[], ("log", 0.0, 1.0), ("uniform", 2.0, 1.0), ("normal", 0.0, 1.0), 3, ("int", 1)])
def test_a_space_that_makes_no_sense_is_named(values):
    with pytest.raises(ValueError, match=r"get_space\(\) has 'b'"):
        searches.random_settings({**SPACE, "b": values}, 1, seed=0)


def table_of(number=60):
    """A sweep in which one setting is all that matters."""
    pd = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    rate, weight = np.exp(random.uniform(np.log(1e-4), np.log(1e-1), number)), random.uniform(0, 1, number)
    score = np.exp(np.abs(np.log(rate / 1e-2)) + 0.01 * random.normal(size=number))
    table = pd.DataFrame({"fit.learning_rate": rate, "fit.contrast": weight, "seed": np.arange(number) % 2})
    table = table.assign(validation_share=score, seconds=1.0, steps=1, state="finished", error="", folder="f")
    return table.assign(command="c").sort_values("validation_share")


def test_what_mattered_is_found():
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    found = sweeps.importance(table_of()).set_index("setting")["importance"]
    assert found["fit.learning_rate"] > 0.9 and found.sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="too few"):
        sweeps.importance(table_of(3))


def test_the_leaderboard_is_over_seeds():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(
        {
            "fit.latent_dim": [1, 1, 2, 2],
            "seed": [0, 1, 0, 1],
            "validation_share": [0.1, 0.5, 0.2, 0.2],
            "seconds": [1.0, 3.0, 2.0, 2.0],
            "state": "finished",
        }
    )
    found = sweeps.leaderboard(table)
    assert found["fit.latent_dim"].tolist() == [2, 1] and found["seconds"].tolist() == [2.0, 2.0]
    assert found["validation_share"].tolist() == pytest.approx([0.2, 0.3]) and found["count"].tolist() == [2, 2]


def test_figures_of_a_sweep_show_every_point():
    table = table_of()
    lines = sweeps.parallel_coordinates(table).axes[0].lines
    assert sum(len(line.get_xdata()) == 4 for line in lines) == len(table)  # three settings and the score
    axes = sweeps.setting_effects(table).axes
    assert [axis.get_xscale() for axis in axes] == ["log", "linear", "linear"]
    assert len(axes[0].collections[0].get_offsets()) == len(table)
