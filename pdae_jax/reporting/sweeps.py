"""A finished sweep as people read it: which settings were best, what each does, and what mattered."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pdae_jax.reporting.panels import BLUE, COLUMN, VERMILION, as_label, clean, in_column_style
from pdae_jax.types import Table

SCORE = "validation_share"  # the energy distances on validation conditions over those of the control
RESULTS = (SCORE, "seconds", "steps", "state", "error", "folder", "command")  # columns that are no settings


def read_sweep(workdir: str | pathlib.Path) -> Table:
    """Read ``sweep.csv`` of a sweep, the best point first."""
    import pandas as pd

    path = pathlib.Path(workdir) / "sweep.csv"
    if not path.exists():
        raise FileNotFoundError(f"No sweep in {str(workdir)!r}: it has no sweep.csv. Pass the workdir of a sweep.")
    return pd.read_csv(path, keep_default_na=True, dtype={"error": str, "folder": str, "command": str})


def settings_of(table: Any) -> list[str]:
    """Name the columns that are settings, and differ between points."""
    return [name for name in table if name not in RESULTS and table[name].nunique(dropna=False) > 1]


def leaderboard(table: Any, number: int = 20) -> Table:
    """List the best settings: means over seeds, where the sweep has some; error, its spread, and time."""
    names = [name for name in settings_of(table) if name != "seed"]
    done = table[table["state"] == "finished"]
    if not names:
        return done[[SCORE, "seconds"]].head(number)
    grouped = done.groupby(names, dropna=False)
    found = grouped[SCORE].agg(["mean", "std", "count"]).rename(columns={"mean": SCORE, "std": "spread"})
    found["seconds"] = grouped["seconds"].mean()
    if found["count"].max() == 1:
        found = found.drop(columns=["spread", "count"])
    return found.sort_values(SCORE).reset_index().head(number)


def trade_offs(table: Any) -> Table:
    """List points that no other beats in both error and time, the most accurate first."""
    done = table[table["state"] == "finished"].sort_values([SCORE, "seconds"], kind="stable")
    fastest = done["seconds"].cummin().shift(fill_value=np.inf)  # of the more accurate ones
    return done.loc[done["seconds"] < fastest, [*settings_of(table), SCORE, "seconds"]].reset_index(drop=True)


def importance(table: Any, seed: int = 0) -> Table:
    """Find the share of the score's variance that each setting explains, by optuna.

    Functional ANOVA of a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014).

    Raises:
        ImportError: optuna or scikit-learn is not installed.
        ValueError: fewer than four finished points, or no difference between their scores.
    """
    import optuna
    import pandas as pd

    done = table[(table["state"] == "finished") & np.isfinite(table[SCORE])]
    names = settings_of(done)
    if len(done) < 4 or not names:
        raise ValueError(f"{len(done)} finished points and {len(names)} settings that differ: too few to compare.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    values = {name: _as_numbers(done[name]) for name in names}
    spaces = {
        name: optuna.distributions.FloatDistribution(float(np.min(v)), float(np.max(v))) for name, v in values.items()
    }
    for row in range(len(done)):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: float(values[name][row]) for name in names},
                distributions=dict(spaces),
                value=float(np.log(max(done[SCORE].iloc[row], 1e-12))),
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError as error:  # its trees found no variance
        raise ValueError("The finished points have the same score.") from error
    return pd.DataFrame({"setting": list(found), "importance": list(found.values())})


def _as_numbers(column: Any) -> np.ndarray:
    """Put values of a setting on the scale they were chosen on; ranks of names, and where some are None."""
    if column.dtype.kind not in "fiu" or column.isna().any():
        ranks = {value: float(rank) for rank, value in enumerate(_levels(column))}
        return np.array([ranks[None if value != value or value is None else value] for value in column])
    values = column.to_numpy(float)
    return np.log(values) if _is_logarithmic(values) else values


def _levels(column: Any) -> list[Any]:
    """List the different values of a setting in order, None first."""
    levels = sorted(column.dropna().unique(), key=lambda value: (isinstance(value, str), value))
    return [*([None] if column.isna().any() else []), *levels]


def _name(value: Any) -> str:
    return value if isinstance(value, str) else "None" if value is None else f"{value:g}"


def _is_logarithmic(values: np.ndarray) -> bool:
    """Tell that values crowd at the lower end, as rates do that are even in the logarithm."""
    return bool(values.min() > 0 and np.median(values) < 0.3 * values.max())


@in_column_style
def parallel_coordinates(table: Any) -> Figure:
    """Draw a line for each point through its settings to its score; the best tenth in colour."""
    done = table[table["state"] == "finished"].sort_values(SCORE, ascending=False)
    names = [*settings_of(done), SCORE]
    figure = Figure(figsize=(max(COLUMN, 1.1 * len(names)), 2.6), layout="constrained")
    axis = figure.subplots()
    best = len(done) - max(1, len(done) // 10)
    for row in range(len(done)):
        heights = [_height(done[name])[row] for name in names]
        colour = (
            {"color": VERMILION, "zorder": 3, "linewidth": 1.6} if row >= best else {"color": "0.75", "linewidth": 0.6}
        )
        axis.plot(range(len(names)), heights, **colour)
    axis.set_xticks(range(len(names)), [as_label(name.removeprefix("fit.")) for name in names])
    axis.set_yticks([])
    axis.set_ylim(-0.1, 1.1)
    for place, name in enumerate(names):
        low, high = _ends(done[name])
        axis.annotate(low, (place, 0.0), (0, -4), textcoords="offset points", ha="center", va="top")
        axis.annotate(high, (place, 1.0), (0, 4), textcoords="offset points", ha="center", va="bottom")
        axis.axvline(place, color="0.5", linewidth=0.6)
    axis.tick_params(axis="x", pad=14)
    axis.set_title("each line a point; thick and in colour the best tenth")
    return figure


@in_column_style
def setting_effects(table: Any) -> Figure:
    """Draw the score against each setting by itself."""
    done = table[table["state"] == "finished"]
    names: Sequence[str] = settings_of(done) or [SCORE]
    figure = Figure(figsize=(max(COLUMN, 1.3 * len(names)), 2.1), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        column = done[name]
        if column.dtype.kind in "fiu" and column.nunique() > 6 and not column.isna().any():
            axis.scatter(column, done[SCORE], s=8, color=BLUE)
            if _is_logarithmic(column.to_numpy(float)):
                axis.set_xscale("log")
        else:
            groups = _levels(column)
            for place, value in enumerate(groups):
                scores = done.loc[column.isna() if value is None else column == value, SCORE]
                axis.scatter(np.full(len(scores), place), scores, s=8, color=BLUE)
                axis.hlines(scores.median(), place - 0.3, place + 0.3, color="k")
            axis.set_xticks(range(len(groups)), [as_label(_name(value), 12) for value in groups])
        axis.set_xlabel(as_label(name.removeprefix("fit.")))
        clean(axis)
        if done[SCORE].min() > 0:
            axis.set_yscale("log")
    axes[0, 0].set_ylabel("error on validation conditions,\nas a fraction of the control's")
    return figure


def _height(column: Any) -> np.ndarray:
    values = _as_numbers(column)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _ends(column: Any) -> tuple[str, str]:
    if column.dtype.kind not in "fiu" or column.isna().any():
        levels = _levels(column)
        return as_label(_name(levels[0]), 12), as_label(_name(levels[-1]), 12)
    return f"{column.min():.3g}", f"{column.max():.3g}"
