"""The evaluation table in a few lines: one row per method, and how it compares with the best simple baseline."""

from typing import Any

import numpy as np
from jaxtyping import Float

from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.metrics import METRICS
from pdae_jax.spelling import markdown_table
from pdae_jax.types import Table

CEILING = "oracle_half"
#: Standard deviations up to which a difference is taken for chance.
BY_CHANCE = 2.0
#: Cells of a condition below which its law is not judged. Between two samples of 20 cells of one normal feature, chance
#: (two standard deviations) makes an energy distance as large as a shift by half a standard deviation does.
MIN_CELLS_OF_A_LAW = 20
#: The baselines that use the label; the best of them is what a model has to beat.
COMPARED = ("additive", "linear_regression", "latent_additive", "ridge_additive", "ridge")
#: Column -> heading: of energy distances, then of the other metrics that have one.
HEADINGS = {
    "energy_distance": "mean",
    "energy_distance_median": "median",
    "ratio": "ratio",
    "interval": "95 % interval",
    "num_worse": "worse",
    **{metric.name: metric.heading for metric in METRICS.values() if metric.heading},
    "out_of_range": "beyond",
}


def judged_split(table: Table) -> str:
    """Find the split that a table is about: ``test``, or where nothing was held out ``validation``, else ``train``."""
    found = set(table["split"])
    return next((split for split in ("test", "validation") if split in found), "train")


def summary_table(table: Table, *, split: str = "test", num_resamples: int = 4000) -> Table:
    r"""Summarise the long table of `evaluate`, one row per method.

    The best baseline is the one of `COMPARED` with the smallest mean energy distance. The interval of a method's
    ratio to it is a paired bootstrap over conditions: conditions are drawn with replacement, for both methods alike,
    and the 2.5 and 97.5 % quantiles of :math:`\log(\overline{d_{method}} / \overline{d_{best}})` are taken.

    Args:
        table: DataFrame of `evaluate`, or ``evaluation.csv`` read back; several seeds may be stacked.
        split: rows used.
        num_resamples: of the bootstrap; it always draws the same ones.

    A difference below `BY_CHANCE` standard deviations of what an exact prediction has (the column ``noise``; in tables
    without it, the root mean square of the ceiling's own distances) is taken for chance.

    Returns:
        DataFrame indexed by method: the mean over conditions of every metric, NaN for a method with cells that are no
        numbers; ``energy_distance_median``; ``noise`` (mean over conditions); ``out_of_range`` (mean) and ``farthest``
        (largest), see `evaluate`; ``ratio``, ``ratio_low``, ``ratio_high`` (mean to mean of the best baseline, 95 %
        interval), ``ratio_median`` (median to the smallest median of the compared baselines), ``num_worse`` (conditions
        with a larger energy distance than the best baseline OF THAT CONDITION, by more than chance),
        ``num_conditions``. Ratios are NaN where none of the compared baselines is in the table, and where the best of
        them is equal to measuring again but for chance; the interval also with a single condition.
        ``attrs["best_baseline"]`` is its name, ``attrs["equal"]`` are the methods that are equal to measuring again but
        for chance, and ``attrs["warnings"]`` the `warnings_of` the rows.

    Raises:
        ValueError: the table has no rows of the split.
    """
    # pandas has no types of its own, and what checkers infer of it is wrong more often than not
    rows: Any = table[table["split"] == split]
    if len(rows) == 0:
        raise ValueError(f"No rows of split {split!r} in the table; it has {sorted(set(table['split']))}. Pass one.")
    methods, metrics = (list(dict.fromkeys(rows[name])) for name in ("method", "metric"))
    summary = rows.pivot_table(index="method", columns="metric", values="value", aggfunc="mean", dropna=False)
    summary = summary.reindex(index=methods, columns=metrics)
    summary.loc[_no_numbers(rows), metrics] = np.nan  # a mean over the other conditions would be of easier ones
    summary.columns.name = None
    summary["num_conditions"] = len(rows[["seed", "condition"]].drop_duplicates())
    for column in ("energy_distance_median", "noise", "ratio", "ratio_low", "ratio_high", "ratio_median", "num_worse"):
        summary[column] = np.nan
    for column, over in (("out_of_range", "mean"), ("farthest", "max")):
        if column in rows:
            summary[column] = rows.groupby("method")[column].agg(over)
    summary.attrs |= {"best_baseline": None, "equal": (), "warnings": warnings_of(rows)}
    if "energy_distance" in metrics:
        _compare(summary, rows[rows["metric"] == "energy_distance"], num_resamples)
    return summary


def _compare(summary: Any, rows: Any, num_resamples: int) -> None:
    """Fill in what a summary says of energy distances, from their rows."""
    case, methods = ["seed", "condition"], list(summary.index)
    distances = rows.pivot(index=case, columns="method", values="value")[methods]
    if "noise" in rows:
        noise = rows.pivot(index=case, columns="method", values="noise")[methods].fillna(0.0)
    else:
        noise = distances * 0.0 + (np.sqrt(np.mean(distances[CEILING] ** 2)) if CEILING in methods else 0.0)
    chance, mean = BY_CHANCE * noise, summary["energy_distance"]
    summary["energy_distance_median"], summary["noise"] = distances.median(), noise.mean()
    # noise of conditions that are predicted from the same cells does not average out
    equal = [name for name in methods if mean[name] <= chance[name].mean()]
    compared = [name for name in COMPARED if name in methods and np.isfinite(mean[name])]
    summary.attrs["equal"] = tuple(equal)
    if not compared:
        return
    best, limit = str(mean[compared].idxmin()), distances[compared].min(axis=1)
    summary.attrs["best_baseline"] = best
    # what is NaN is no better than anything, but where the ceiling has too few cells
    worse = ~distances.le(chance.add(limit, axis=0)) & ~(distances.isna() & (distances.columns == CEILING))
    summary["num_worse"] = worse.sum()
    if best in equal or mean[best] <= 0:
        return
    summary["ratio"] = mean.clip(lower=0.0) / mean[best]
    summary["ratio_median"] = distances.median().clip(lower=0.0) / distances[compared].median().min()
    for method in methods if len(distances) > 1 else ():
        low, high = ratio_interval(distances[method].to_numpy(), distances[best].to_numpy(), num_resamples)
        summary.loc[method, ["ratio_low", "ratio_high"]] = low, high


def _no_numbers(rows: Any) -> list[str]:
    """Name the methods with an energy distance that is NaN, as predicted cells that are no numbers have."""
    bad = rows[(rows["metric"] == "energy_distance") & rows["value"].isna() & (rows["method"] != CEILING)]
    return list(dict.fromkeys(bad["method"]))


def warnings_of(table: Table) -> tuple[str, ...]:
    """Say what a reader of a table of `evaluate` must know before the numbers: sentences, none where all is well.

    Of the model and further methods: cells like none that was measured, and cells that are no numbers. Of conditions:
    too few cells to judge a distribution.
    """
    rows: Any = table
    cases = rows[rows["method"] != CEILING].drop_duplicates(["seed", "split", "condition"])
    few, found = cases[cases["n_true"] < MIN_CELLS_OF_A_LAW], []
    if len(few):
        found.append(
            f"{len(few)} of {len(cases)} conditions have fewer than {MIN_CELLS_OF_A_LAW} cells ({few['n_true'].min()} "
            f"at fewest): too few to judge a distribution. Read the metrics of means only."
        )
    predictions = rows[~rows["method"].isin([*BASELINES, CEILING])]
    for method in _no_numbers(predictions):
        found.append(f"{method}: some predicted cells are NaN or infinite, so that it has no numbers.")
    if "out_of_range" in rows:
        far = predictions[predictions["out_of_range"] > 0].drop_duplicates(["seed", "split", "condition", "method"])
        for method, of in far.groupby("method", sort=False):
            worst = of.loc[of["out_of_range"].idxmax()]
            found.append(
                f"{method}: predicted cells of {len(of)} of {len(cases)} conditions have values outside the measured "
                f"range widened by half its width, most of them {worst['condition']} ({worst['out_of_range']:.2%} of "
                f"its cells; up to {of['farthest'].max():.3g} halves of the range from its middle). Energy distances "
                f"hardly see a few such cells: look at them before using predictions."
            )
    return tuple(found)


def ratio_interval(
    numerator: Float[np.ndarray, " conditions"],
    denominator: Float[np.ndarray, " conditions"],
    num_resamples: int = 4000,
) -> tuple[float, float]:
    """Find the 95 % interval of the ratio of two means by a paired bootstrap over conditions.

    Percentiles (Efron and Tibshirani, An Introduction to the Bootstrap, 1993); it always draws the same ones.
    """
    draws = np.random.default_rng(0).integers(len(numerator), size=(num_resamples, len(numerator)))
    # U forms can be slightly negative: a ratio that is not positive counts as zero, log ratio minus infinity
    numerators, denominators = np.maximum(numerator[draws].mean(axis=1), 0.0), denominator[draws].mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # beside a denominator that is not positive any distance is infinitely large
        ratios = np.where(denominators > 0, numerators / denominators, np.where(np.isnan(numerators), np.nan, np.inf))
    # quantiles commute with the logarithm, up to interpolation between neighbours
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def format_table(table: Table, *, split: str = "test") -> str:
    """Write the summary as aligned plain text, for terminals and reports.

    Args:
        table: DataFrame of `evaluate`, or of `summary_table`.
        split: rows used of the former.
    """
    summary = summary_table(table, split=split) if "metric" in table else table
    columns = [name for name in HEADINGS if name in summary or (name == "interval" and "ratio" in summary)]
    cells = [["method", *(HEADINGS[name] for name in columns)]]
    for method, row in summary.iterrows():
        cells.append([str(method), *(_cell(row, name) for name in columns)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:], rule, *summary.attrs.get("warnings", ()), *_notes(summary)])


def scaled_table(table: Table, *, split: str = "test") -> Table:
    """Average every metric on the scale from the mean response (0) to measuring again (1): the table of reviewers.

    Args:
        table: DataFrame of `evaluate`.
        split: rows used.

    Returns:
        DataFrame indexed by metric: the mean of ``scaled`` over conditions for each method, and ``seed noise``, the
        standard deviation of such a mean that comes from which cells were measured.
    """
    rows: Any = table[(table["split"] == split) & table["scaled"].notna()]
    methods, metrics = (list(dict.fromkeys(rows[name])) for name in ("method", "metric"))
    means = rows.pivot_table(index="metric", columns="method", values="scaled", aggfunc="mean")
    noise = rows[rows["method"] == methods[0]].groupby("metric")["scaled_noise"] if methods else None
    result = means.reindex(index=metrics, columns=methods)
    if noise is not None:
        result["seed noise"] = noise.apply(lambda values: float(np.sqrt(np.sum(values**2)) / len(values)))
    return result


def format_scaled(table: Table, *, split: str = "test") -> str:
    """Write `scaled_table` as markdown, with what the numbers mean."""
    found: Any = scaled_table(table, split=split)
    if not len(found):
        return ""
    rows = [[metric, *("-" if np.isnan(v) else f"{v:.2f}" for v in row)] for metric, row in found.iterrows()]
    return (
        "Every metric on one scale, (u - b) / (r - b): 0 is the mean response of all training conditions (`pool_all`), "
        "1 is measuring the condition again (`oracle_half`). Means over conditions, in the space of the data; *seed "
        "noise* is what they change by with other cells.\n\n" + markdown_table(["metric", *found.columns], rows)
    )


def _cell(row: Any, name: str) -> str:
    if name == "interval":
        return "-" if np.isnan(row["ratio_low"]) else f"{row['ratio_low']:.3f} - {row['ratio_high']:.3f}"
    value = row[name]
    if np.isnan(value):
        return "-"
    if name == "out_of_range":
        return f"{100 * value:.2g}%"
    if name == "num_worse":
        return f"{value:.0f}/{row['num_conditions']:.0f}"
    form = METRICS[name].form if name in METRICS else ".3f" if name == "ratio" else "#.3g"
    return f"{value:{form}}"


def _notes(summary: Any) -> list[str]:
    best, cases = summary.attrs.get("best_baseline"), int(summary["num_conditions"].iloc[0])
    over = f"{cases} condition{'s' * (cases != 1)}"
    notes = [f"mean, median: energy distance (U form) over {over}; the other columns are means, where defined."]
    if "out_of_range" in summary:
        notes.append("beyond: share of cells with a value outside of the measured range widened by half its width.")
    if not best:
        return notes
    if np.isnan(summary.loc[best, "ratio"]):
        notes.append(f"ratio: none, as the best baseline, {best}, is equal to measuring again but for chance.")
    else:
        notes.append(f"ratio: mean energy distance over that of the best baseline, {best}; paired bootstrap interval.")
    notes.append(
        "worse: conditions where the energy distance is above the smallest of "
        f"{', '.join(COMPARED)} by more than chance."
    )
    return notes
