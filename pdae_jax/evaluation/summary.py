"""The evaluation table in a few lines: one row per method, and how it compares with the best simple baseline."""

from typing import Any

import numpy as np
from jaxtyping import Float

from pdae_jax.spelling import markdown_table
from pdae_jax.types import Table

#: The baselines that use the label; the best of them is what a model has to beat.
COMPARED = ("additive", "linear_regression", "latent_additive", "ridge")
HEADINGS = {
    "energy_distance": "mean",
    "energy_distance_median": "median",
    "ratio": "ratio",
    "interval": "95 % interval",
    "num_worse": "worse",
    "mmd": "mmd",
    "mean_l2": "mean l2",
    "r2_mean": "r2",
    "pearson_delta": "pearson",
    "coverage_50": "in 50 %",
    "coverage_90": "in 90 %",
    "rank": "rank",
    "p_value": "p",
}


def judged_split(table: Table) -> str:
    """The split that a table is about: ``test``, or where nothing was held out ``validation``, else ``train``."""
    found = set(table["split"])
    return next((split for split in ("test", "validation") if split in found), "train")


def summary_table(table: Table, *, split: str = "test", num_resamples: int = 4000) -> Table:
    r"""One row per method, from the long table of `evaluate`.

    The best baseline is the one of `COMPARED` with the smallest mean energy distance. The interval of a method's
    ratio to it is a paired bootstrap over conditions: conditions are drawn with replacement, for both methods alike,
    and the 2.5 and 97.5 % quantiles of :math:`\log(\overline{d_{method}} / \overline{d_{best}})` are taken.

    Args:
        table: DataFrame of `evaluate`, or ``evaluation.csv`` read back; several seeds may be stacked.
        split: rows used.
        num_resamples: of the bootstrap; it always draws the same ones.

    Returns:
        DataFrame indexed by method: the mean over conditions of every metric; ``energy_distance_median``; ``ratio``,
        ``ratio_low``, ``ratio_high`` (mean to mean of the best baseline, 95 % interval), ``ratio_median`` (median to
        the smallest median of the compared baselines), ``num_worse`` (conditions with a larger energy distance than
        the best baseline OF THAT CONDITION), ``num_conditions``. Ratios are NaN where none of the compared baselines
        is in the table, the interval also with a single condition. ``attrs["best_baseline"]`` is its name.

    Raises:
        ValueError: the table has no rows of the split.
    """
    # pandas has no types of its own, and what checkers infer of it is wrong more often than not
    rows: Any = table[table["split"] == split]
    if len(rows) == 0:
        raise ValueError(f"No rows of split {split!r} in the table; it has {sorted(set(table['split']))}. Pass one.")
    methods = list(dict.fromkeys(rows["method"]))
    summary = rows.pivot_table(index="method", columns="metric", values="value", aggfunc="mean", dropna=False)
    summary = summary.reindex(index=methods, columns=list(dict.fromkeys(rows["metric"])))
    summary.columns.name = None
    cases = len(rows[["seed", "condition"]].drop_duplicates())
    summary["num_conditions"] = cases
    for column in ("energy_distance_median", "ratio", "ratio_low", "ratio_high", "ratio_median", "num_worse"):
        summary[column] = np.nan
    summary.attrs["best_baseline"] = None
    if "energy_distance" not in summary:
        return summary
    distances: Any = rows[rows["metric"] == "energy_distance"].pivot(
        index=["seed", "condition"], columns="method", values="value"
    )[methods]
    summary["energy_distance_median"] = distances.median()
    compared = [name for name in COMPARED if name in methods]
    if not compared:
        return summary
    best = str(distances[compared].mean().idxmin())
    summary.attrs["best_baseline"] = best
    summary["ratio"] = summary["energy_distance"] / summary.loc[best, "energy_distance"]
    summary["ratio_median"] = distances.median() / distances[compared].median().min()
    summary["num_worse"] = distances.gt(distances[compared].min(axis=1), axis=0).sum()
    for method in methods if cases > 1 else ():
        low, high = ratio_interval(distances[method].to_numpy(), distances[best].to_numpy(), num_resamples)
        summary.loc[method, ["ratio_low", "ratio_high"]] = low, high
    return summary


def ratio_interval(
    numerator: Float[np.ndarray, " conditions"],
    denominator: Float[np.ndarray, " conditions"],
    num_resamples: int = 4000,
) -> tuple[float, float]:
    """95 % interval of the ratio of two means: a paired bootstrap over conditions that always draws the same ones."""
    draws = np.random.default_rng(0).integers(len(numerator), size=(num_resamples, len(numerator)))
    # U forms can be slightly negative: a ratio that is not positive counts as zero, log ratio minus infinity
    ratios = np.maximum(numerator[draws].mean(axis=1), 0.0) / denominator[draws].mean(axis=1)
    # quantiles commute with the logarithm, up to interpolation between neighbours
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def format_table(table: Table, *, split: str = "test") -> str:
    """The summary as aligned plain text, for terminals and reports.

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
    return "\n".join([lines[0], rule, *lines[1:], rule, *_notes(summary)])


def scaled_table(table: Table, *, split: str = "test") -> Table:
    """The table of reviewers: every metric on the scale from the mean response (0) to measuring again (1).

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
    """`scaled_table` as markdown, with what the numbers mean."""
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
    if name == "num_worse":
        return f"{value:.0f}/{row['num_conditions']:.0f}"
    return f"{value:.3f}" if name in ("ratio", "coverage_50", "coverage_90", "rank", "p_value") else f"{value:#.3g}"


def _notes(summary: Any) -> list[str]:
    best, cases = summary.attrs.get("best_baseline"), int(summary["num_conditions"].iloc[0])
    over = f"{cases} condition{'s' * (cases != 1)}"
    notes = [f"mean, median: energy distance (U form) over {over}; the other columns are means, where defined."]
    if best:
        notes.append(f"ratio: mean energy distance over that of the best baseline, {best}; paired bootstrap interval.")
        notes.append(
            "worse: conditions where the energy distance is above the smallest of " + ", ".join(COMPARED) + "."
        )
    return notes
