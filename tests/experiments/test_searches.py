"""What a search proposes, and what it refuses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from pdae_jax.cli import base
from pdae_jax.cli.command import Call
from pdae_jax.cli.sweeps import options, searches
from pdae_jax.cli.sweeps.points import Point, Result, grid_of
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


@pytest.mark.slow
def test_a_poor_point_is_stopped_and_a_good_one_is_not(tmp_path):
    pytest.importorskip("optuna")

    def point_of(settings, number):
        return Point(settings, tmp_path / str(number), "", trial=number)

    search = searches.Optuna(tmp_path, SPACE, 5, 0, ["error"], point_of)
    points = search.ask(5)
    assert [point.trial for point in points] == [0, 1, 2, 3, 4] and search.ask(1) == []

    def stopped_at(point, error):
        """The evaluation at which a point with this error is stopped, out of twenty; None: it went on to its end."""
        report = searches.reporter(tmp_path, point.trial, lambda step: step)
        for step in range(1, 21):
            if report(error, step):
                search.tell(point, Result(float("nan"), 1.0, step, "stopped"))
                return step
        search.tell(point, Result(error, 1.0, 20, "finished"))
        return None

    assert [stopped_at(point, error) for point, error in zip(points, (0.1, 0.5, 0.4, 0.05, 0.3), strict=True)] == [
        *(None, searches.FIRST_RUNG, searches.FIRST_RUNG),
        *(None, searches.FIRST_RUNG),
    ]
    again = searches.Optuna(tmp_path, SPACE, 6, 0, ["error"], point_of)
    assert [point.trial for point in again.earlier()] == [0, 1, 2, 3, 4]
    (more,) = again.ask(10)
    assert more.trial == 5 and more.settings not in [point.settings for point in points]
    # its process is killed: it is handed out again
    (same,) = searches.Optuna(tmp_path, SPACE, 6, 0, ["error"], point_of).ask(10)
    assert same == more
    with pytest.raises(ValueError, match="1 objectives, not 2"):
        searches.Optuna(tmp_path, SPACE, 6, 0, ["error", "seconds"], point_of)


@pytest.mark.slow
def test_values_of_any_kind_can_be_searched(tmp_path):
    """Widths are tuples, None a default: a study goes on with them, and by more than its random first points."""
    pytest.importorskip("optuna")
    space = {"fit.hidden": [(32, 32), (64, 64, 64)], "fit.components": [None, 50]}

    def point_of(settings, number):
        return Point(settings, tmp_path / str(number), "", trial=number)

    for number in (11, 14):
        search = searches.Optuna(tmp_path, space, number, 0, ["error", "seconds"], point_of)
        while points := search.ask(3):
            for point in points:
                assert point.settings["fit.hidden"] in space["fit.hidden"]
                assert point.settings["fit.components"] in space["fit.components"]
                wide = point.settings["fit.hidden"] == (64, 64, 64)
                search.tell(point, Result(0.1 if wide else 0.2, 2.0 if wide else 1.0, 1, "finished"))
    assert len(search.earlier()) == 14
    best = {trial.params["fit.hidden"]: trial.values for trial in search.study.best_trials}
    assert best == {"(32, 32)": [0.2, 1.0], "(64, 64, 64)": [0.1, 2.0]}
    with pytest.raises(ValueError, match=r"'fit.hidden' with .*does not list any more"):
        searches.Optuna(tmp_path, {**space, "fit.hidden": [(8,)]}, 14, 0, ["error", "seconds"], point_of).earlier()


def test_replicas_are_no_setting(tmp_path):
    with pytest.raises(ValueError, match="'replicas' cannot be varied"):
        searches.random_settings({"replicas": [1, 3]}, 1, seed=0)


def test_a_point_that_stands_twice_is_named():
    class Module:
        def get_sweep():
            yield {"fit.latent_dim": np.int64(2)}
            yield {"fit.latent_dim": 2}

    with pytest.raises(ValueError, match=r"yields \{'fit.latent_dim': 2\} twice"):
        grid_of(Module, "tiny.py")


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


def test_what_no_point_beats_in_error_and_time():
    pd = pytest.importorskip("pandas")
    rows = [(0.1, 9.0), (0.2, 4.0), (0.2, 5.0), (0.3, 4.0), (0.4, 1.0), (0.5, 2.0)]
    table = pd.DataFrame(rows, columns=["validation_share", "seconds"]).assign(state="finished")
    table = table.assign(width=range(6)).sample(frac=1, random_state=0)
    found = sweeps.trade_offs(table)
    assert found["width"].tolist() == [0, 1, 4] and found["seconds"].tolist() == [9.0, 4.0, 1.0]


def test_none_is_a_value_like_others():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"fit.components": [None, 50, 100, None], "validation_share": [0.1, 0.2, 0.3, 0.4]})
    table = table.assign(state="finished", seconds=1.0)
    (axis,) = sweeps.setting_effects(table).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["None", "50", "100"]
    points = [each.get_offsets() for each in axis.collections if isinstance(each, PathCollection)]
    assert [sorted(np.asarray(each)[:, 1]) for each in points] == [[0.1, 0.4], [0.2], [0.3]]
    heights = [line.get_ydata()[0] for line in sweeps.parallel_coordinates(table).axes[0].lines[:4]]
    assert heights == [0.0, 1.0, 0.5, 0.0]  # the worst point first


def test_none_is_shown_among_many_values_too():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"fit.patience": [None, *range(1, 9)], "validation_share": 0.1, "state": "finished"})
    (axis,) = sweeps.setting_effects(table.assign(seconds=1.0)).axes
    assert [label.get_text() for label in axis.get_xticklabels()][:2] == ["None", "1"]


def test_figures_of_a_sweep_show_every_point():
    table = table_of()
    lines = sweeps.parallel_coordinates(table).axes[0].lines
    assert sum(len(line.get_xdata()) == 4 for line in lines) == len(table)  # three settings and the score
    axes = sweeps.setting_effects(table).axes
    assert [axis.get_xscale() for axis in axes] == ["log", "linear", "linear"]
    assert len(axes[0].collections[0].get_offsets()) == len(table)


@pytest.mark.parametrize("name", ["validation", "validation_fraction", "protocol", "column"])
def test_what_names_validation_conditions_lets_points_be_ranked(name):
    config = base.get_config()
    values = {"dry_run": False, "launcher": "inline", "search": "grid", "objectives": [], "at_once": None}
    flags: Any = SimpleNamespace(config=config, **values)
    sweep = options.Sweep(flags, Call(("pdae-jax", "sweep"), ()), Path("runs"))
    with pytest.raises(ValueError, match="no validation conditions"):
        options.check(sweep)
    config.split[name] = ("A+B",) if name == "validation" else "part"
    options.check(sweep)
