"""Arrays and tables in, matplotlib figures out. Reads no files, keeps no global state, never shows anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import ks_2samp

from pdae_jax.cells import evenly_spaced
from pdae_jax.evaluation.counts import CORRELATED_FEATURES, CountedCells, log_correlations
from pdae_jax.reporting.panels import (
    BLACK,
    BLUE,
    COLUMN,
    DASHES,
    FEWEST,
    GREY,
    MARKERS,
    MASSES,
    PALETTE,
    as_label,
    cap,
    clean,
    contours,
    cycle,
    distinct_colours,
    in_column_style,
    label_points,
    limits_of,
    log_where_it_helps,
    look_of,
    plane,
    words,
)
from pdae_jax.types import Table

ROW_LETTERS = 34  # of a name beside a row: two drugs with doses, in a line
NO_LOSS = ("step", "gradient_norm", "steps_per_second", "learning_rate")  # of a history; not plotted as loss


@in_column_style
def loss_curves(history: Sequence[Mapping[str, Any]], *, kept_step: int | None = None) -> Figure:
    """Draw loss terms against training steps, and the validation energy distance where it was computed.

    Args:
        history: entries with ``step`` and the terms; those of ``fitted.history`` or ``metrics.jsonl``. Terms that
            were never computed (all zero) are left out.
        kept_step: step whose parameters were kept, `Fitted.kept_step`; a vertical line.
    """
    if not history:
        raise ValueError("The history is empty: nothing was logged. Pass fitted.history of a run of at least one step.")
    names = list(dict.fromkeys(name for entry in history for name in entry if name not in NO_LOSS))
    validation = [name for name in names if name.startswith("validation")]
    terms = [name for name in names if name not in validation and any(entry.get(name, 0) for entry in history)]
    groups = [("training loss", terms), *([("validation conditions", validation)] if validation else [])]
    figure = Figure(figsize=(COLUMN, 2.1), layout="constrained")
    handles, mark = [], []
    for axes, (title, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for number, name in enumerate(group):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            steps, values = np.array(points, dtype=float).T
            style = {"color": PALETTE[number % len(PALETTE)], "ls": DASHES[number % len(DASHES)], "label": words(name)}
            axes.plot(steps, values, marker=MARKERS[number] if len(steps) < 20 else None, ms=2.5, **style)
        log_where_it_helps(axes)
        handles += axes.lines if group is terms else []
        if kept_step is not None:
            mark = [axes.axvline(kept_step, color=GREY, lw=0.8, zorder=0, label=f"kept: step {kept_step}")]
        axes.set(xlabel="step", title=title, ylabel="energy distance" if group is validation else "")
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        clean(axes)
    figure.legend(handles=handles + mark, loc="outside lower center", ncols=3, frameon=False)
    return figure


@in_column_style
def latent_space(
    latents: Float[np.ndarray, "cells latent"],
    condition_index: Int[np.ndarray, " cells"],
    conditions: Sequence[str],
    *,
    centres: Float[np.ndarray, "conditions latent"] | None = None,
    max_cells: int = 300,
) -> Figure:
    """Draw cells in latent space, a colour and a shape for each condition, which is named at its centre.

    Args:
        latents: of more than two, the plane of the first two principal components of the centres is shown.
        condition_index: row of `conditions`, per cell.
        conditions: names.
        centres: default the means of the latents; the shifts `W a` plus the control's mean show the model's view.
        max_cells: shown per condition.
    """
    if centres is None:
        centres = np.stack([latents[condition_index == i].mean(axis=0) for i in range(len(conditions))])
    names = [f"latent {i + 1}" for i in range(latents.shape[1])]
    project, (x_label, y_label) = plane(centres, names, "shift direction")
    points, middles = project(latents), project(centres)
    figure = Figure(figsize=(COLUMN, 3.1), layout="constrained")
    axes = figure.subplots()
    looks = zip(distinct_colours(len(conditions)), cycle(MARKERS, len(conditions)), strict=True)
    for i, (colour, marker) in enumerate(looks):
        rows = np.flatnonzero(condition_index == i)
        some = points[rows[evenly_spaced(len(rows), max_cells)]]
        axes.scatter(*some.T, s=5, marker=marker, color=colour, alpha=0.35, linewidths=0, rasterized=True, zorder=1)
        axes.plot(*middles[i], marker=marker, ms=5.0, color=colour, mec=BLACK, mew=0.6, zorder=3)
    axes.set(xlim=limits_of([points[:, 0]]), ylim=limits_of([points[:, 1]]), xlabel=x_label, ylabel=y_label)
    clean(axes)
    figure.draw_without_rendering()
    label_points(axes, middles, conditions)
    return figure


@in_column_style
def marginals(
    true: Float[np.ndarray, "n d"],
    samples: Mapping[str, Float[np.ndarray, "m d"]],
    features: Sequence[str],
    *,
    title: str = "",
    max_features: int = 6,
) -> Figure:
    """Draw true and predicted histograms, one panel per feature; of few measured cells the cells themselves.

    Args:
        true: measured cells.
        samples: method -> predicted cells; the last one, a baseline, decides which features are shown.
        features: names of the columns.
        title: of the figure.
        max_features: panels; of more features those where the last of `samples` is most wrong, by the largest
            difference of the distribution functions (Kolmogorov and Smirnov): rare counts make no large one.
    """
    reference = list(samples.values())[-1]
    tests: Any = [ks_2samp(x, y, method="asymp") for x, y in zip(true.T, reference.T, strict=True)]
    chosen = np.sort(np.argsort([-test.statistic for test in tests], kind="stable")[:max_features])
    columns = min(3, len(chosen))
    grid = (-(-len(chosen) // columns), columns)
    figure = Figure(figsize=(COLUMN, 1.05 * grid[0] + 0.6), layout="constrained")
    panels = figure.subplots(*grid, squeeze=False).ravel()
    for axes, j in zip(panels, chosen, strict=False):
        _marginal(axes, true[:, j], {name: x[:, j] for name, x in samples.items()})
        axes.set_title(as_label(features[j]))
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(3))
        clean(axes, left=False)
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    if title:
        figure.suptitle(as_label(title, 50))
    return figure


def _marginal(axes: Axes, true: np.ndarray, samples: Mapping[str, np.ndarray]) -> None:
    """Draw the law of one feature: shaded for measured cells, an outline for each method; of few cells ticks."""
    low, high = np.quantile(np.concatenate([true, *samples.values()]), [0.003, 0.997])
    bins = np.linspace(low, high if high > low else low + 1.0, 33)
    for number, (name, x) in enumerate({"true": true, **samples}.items()):
        colour = BLACK if name == "true" else look_of(name, number - 1).colour
        if len(x) < FEWEST:
            axes.plot(x, np.full(len(x), -0.07 * number), "|", color=colour, ms=5, label=words(name))
        elif name == "true":
            axes.hist(x, bins=bins, density=True, color="#C4C4C4", label="true")
        else:
            heights = np.histogram(x, bins=bins, density=True)[0]
            axes.stairs(heights, bins, color=colour, lw=1.0, ls=DASHES[(number - 1) % 3], label=words(name))
    if len(true) >= FEWEST:
        cap(axes, np.histogram(true, bins=bins, density=True)[0].max())


@in_column_style
def densities_2d(
    true: Float[np.ndarray, "n d"],
    samples: Mapping[str, Float[np.ndarray, "m d"]],
    *,
    features: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw true and predicted densities side by side, on shared axes; every panel repeats the true contours.

    Fewer than 20 cells are drawn as points: they have no density that could be seen.

    Args:
        true: measured cells; of more than two features the first two principal components of these are shown.
        samples: method -> predicted cells.
        features: names of the columns.
        title: of the figure.
    """
    names = [as_label(name) for name in features or ()] or [f"feature {j + 1}" for j in range(true.shape[1])]
    project, labels = plane(true, names)
    clouds = {"true": project(true), **{name: project(x) for name, x in samples.items()}}
    limits = [limits_of([cloud[:, axis] for cloud in clouds.values()]) for axis in (0, 1)]
    figure = Figure(figsize=(COLUMN, 0.55 + COLUMN / len(clouds)), layout="constrained")
    panels = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for number, (axes, (name, cloud)) in enumerate(zip(panels, clouds.items(), strict=True)):
        colour = GREY if name == "true" else look_of(name, number - 1).colour
        _density(axes, cloud, limits, colour, name == "true")
        _density(axes, clouds["true"], limits, None, True)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel=labels[0], title=words(name))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        clean(axes)
    panels[0].set_ylabel(labels[1])
    line = f"true density: {', '.join(f'{m:.0%}' for m in MASSES[::2])} of the cells inside"
    dots = Line2D([], [], color=BLACK, marker="o", ms=3, ls="", label=f"the {len(true)} true cells")
    handle = dots if len(true) < FEWEST else Line2D([], [], color=BLACK, lw=0.7, label=line)
    figure.legend(handles=[handle], loc="outside lower center", frameon=False)
    if title:
        figure.suptitle(as_label(title, 50))
    return figure


def _density(
    axes: Axes, cloud: np.ndarray, limits: Sequence[tuple[float, float]], colour: str | None, true: bool
) -> None:
    """Draw contours of a cloud, filled or as lines; of few cells points."""
    if len(cloud) >= FEWEST:
        contours(axes, cloud, limits, colour)
    else:
        axes.plot(*cloud.T, "o" if true else "s", ms=3, color=colour or BLACK, mec="white", mew=0.4)


@in_column_style
def condition_dots(table: Table, *, split: str = "test", metric: str = "energy_distance") -> Figure:
    """Draw a metric per condition and method, a row for each condition and one for their mean; zero is on the scale.

    The scale is linear within the largest absolute value of the ceiling `oracle_half`, what measuring again may give
    by chance (shaded), and logarithmic beyond it: no value, at or below zero as well, is cut off. Where conditions have
    too few cells for a ceiling it is linear to the lowest value's mirror. Bars are the 95 % bootstrap interval of the
    mean over conditions, and in the row of a condition the range of its seeds.

    Args:
        table: DataFrame of `evaluate`; methods are shown in its order.
        split: rows used.
        metric: any that is better the smaller it is.
    """
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    if len(rows) == 0:
        raise ValueError(f"No {metric!r} rows of split {split!r} in the table. Pass a metric and a split that it has.")
    grouped = rows.groupby(["condition", "method"], sort=False)["value"]
    wide, low, high = (getattr(grouped, name)().unstack() for name in ("mean", "min", "max"))
    methods = [str(name) for name in dict.fromkeys(rows["method"]) if wide[name].notna().any()]
    order = wide.sort_values(methods[0]).index[::-1]
    figure = Figure(figsize=(COLUMN, 1.25 + 0.13 * (len(wide) + 2)), layout="constrained")
    axes = figure.subplots()
    heights = np.arange(len(wide))
    for number, name in enumerate(methods):
        look = look_of(name, number)
        style = {"fmt": look.marker, "color": look.colour, "mec": BLACK, "mew": 0.9 if look.marker == "|" else 0.4}
        style |= {"ms": 6.0 if look.marker == "|" else 4.2 if name == methods[0] else 3.4, "elinewidth": 0.7}
        style |= {"label": words(name), "zorder": 4 if name == methods[0] else 3}
        middle, ends = wide.loc[order, name], [frame.loc[order, name].to_numpy() for frame in (low, high)]
        mean, interval = middle.mean(), _mean_interval(middle.dropna().to_numpy())
        x = np.append(middle.to_numpy(), mean)
        ends = [np.append(end, bound) for end, bound in zip(ends, interval, strict=True)]
        axes.errorbar(x, np.append(heights, len(wide) + 0.5), xerr=[x - ends[0], ends[1] - x], **style)
    _scale_with_zero(axes, wide[methods], "oracle_half" in methods)
    axes.axhline(len(wide) - 0.25, color=GREY, lw=0.5)
    axes.set_yticks(np.append(heights, len(wide) + 0.5), [*(as_label(name, ROW_LETTERS) for name in order), "mean"])
    axes.set(ylim=(-0.6, len(wide) + 1.1), xlabel=words(metric))
    axes.grid(axis="y", lw=0.3, color="#DDDDDD", zorder=0)
    clean(axes, left=False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, columnspacing=1.0, handletextpad=0.2)
    return figure


def _mean_interval(values: np.ndarray, level: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
    """Find an interval by a percentile bootstrap over conditions; the mean itself, twice, of a single one."""
    if len(values) < 2:
        return (float(values.mean()), float(values.mean())) if len(values) else (np.nan, np.nan)
    means = np.random.default_rng(0).choice(values, (resamples, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _scale_with_zero(axes: Axes, wide: Any, with_ceiling: bool) -> None:
    """Make a scale that is linear around zero, where values are those of chance, and logarithmic beyond."""
    low, largest = float(wide.min(axis=None)), float(wide.abs().max(axis=None)) or 1.0
    noise = float(wide["oracle_half"].abs().max()) if with_ceiling else 0.0
    linear = float(np.clip(noise or -low, 1e-3 * largest, largest))
    axes.set_xscale("symlog", linthresh=linear, linscale=0.6)
    if noise > 0:
        axes.axvspan(-noise, noise, color="#EEEEEE", lw=0, zorder=0)
    first = float(f"{linear:.1g}")
    decades = [tick for tick in 10.0 ** np.arange(-12, 13) if 2.5 * first <= tick <= 2 * largest]
    axes.set_xticks([*([-first] if low < -0.5 * first else []), 0.0, first, *decades])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")


@in_column_style
def count_laws(
    predicted: tuple[Int[np.ndarray, "cells features"], Float[np.ndarray, " cells"]],
    measured: tuple[Int[np.ndarray, "cells features"], Float[np.ndarray, " cells"]],
    *,
    title: str = "",
) -> Figure:
    """Draw zeros, spread and dependence of predicted and measured counts, a point per feature or pair of features.

    Args:
        predicted: counts and size factors, `evaluation.counts.CountedCells`.
        measured: the same; best as many cells.
        title: of the figure.
    """
    samples = {"measured": CountedCells(*measured), "predicted": CountedCells(*predicted)}
    figure = Figure(figsize=(COLUMN, 3.6), layout="constrained")
    panels = figure.subplot_mosaic([["zeros", "spread"], ["dependence", "dependence"]])
    zeros, spread, dependence = panels.values()
    shares = [np.mean(sample.counts == 0, axis=0) for sample in samples.values()]
    zeros.scatter(*shares, s=6, color=BLUE, alpha=0.5, linewidths=0)
    zeros.plot([0, 1], [0, 1], color=GREY, lw=1, zorder=0)
    zeros.set(xlabel="share of zeros, measured", ylabel="predicted", title="zeros, a feature each")
    for (name, sample), (colour, marker) in zip(samples.items(), ((BLACK, "o"), (BLUE, "^")), strict=True):
        mean, variance = sample.counts.mean(axis=0), sample.counts.var(axis=0)
        seen = (mean > 0) & (variance > 0)
        spread.loglog(mean[seen], variance[seen], marker, ms=2.5, color=colour, alpha=0.5, mew=0, label=name)
    spread.set(xlabel="mean count", ylabel="variance", title="mean and variance")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    abundant = np.argsort(-samples["measured"].counts.mean(axis=0), kind="stable")[:CORRELATED_FEATURES]
    pairs = np.triu_indices(len(abundant), 1)
    found = [log_correlations(sample, abundant)[pairs] for sample in samples.values()]
    dependence.scatter(*found, s=4, color=BLUE, alpha=0.3, linewidths=0, rasterized=True)
    dependence.plot([-1, 1], [-1, 1], color=GREY, lw=1, zorder=0)
    limits = limits_of([np.concatenate([*found, [0.0, 0.1]])])
    dependence.set(xlim=limits, ylim=limits, xlabel="correlation, measured", ylabel="predicted")
    dependence.set_title("pairs of features")
    dependence.set_aspect("equal")
    for axes in (zeros, spread, dependence):
        clean(axes)
    figure.suptitle(as_label(title, 50))
    return figure
