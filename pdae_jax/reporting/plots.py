"""Arrays and tables in, matplotlib figures out. Reads no files, keeps no global state, never shows anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pdae_jax.evaluation.counts import CORRELATED_FEATURES, CountedCells, log_correlations
from pdae_jax.reporting.panels import (
    BLACK,
    BLUE,
    GREY,
    MASSES,
    METHOD_COLOURS,
    PALETTE,
    cap,
    clean,
    colour_of,
    contours,
    cycle,
    label_points,
    limits_of,
    log_where_it_helps,
    plane,
    words,
)
from pdae_jax.types import Table

NO_LOSS = ("step", "gradient_norm", "steps_per_second", "learning_rate")  # of a history; not plotted as loss


def loss_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss terms against training steps, and the validation energy distance where it was computed.

    Args:
        history: entries with ``step`` and the terms; those of ``fitted.history`` or ``metrics.jsonl``. Terms that
            were never computed (all zero) are left out.
    """
    if not history:
        raise ValueError("The history is empty: nothing was logged. Pass fitted.history of a run of at least one step.")
    names = list(dict.fromkeys(name for entry in history for name in entry if name not in NO_LOSS))
    validation = [name for name in names if name.startswith("validation")]
    terms = [name for name in names if name not in validation and any(entry.get(name, 0) for entry in history)]
    groups = [("training loss", terms), *([("validation conditions", validation)] if validation else [])]
    figure = Figure(figsize=(4.2 * len(groups), 3.2), layout="constrained")
    for axes, (title, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for colour, name in zip(cycle(PALETTE, len(group)), group, strict=True):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            steps, values = np.array(points, dtype=float).T
            marker = "." if len(steps) < 60 else None
            axes.plot(steps, values, color=colour, marker=marker, lw=1.5, label=words(name))
        log_where_it_helps(axes)
        axes.set(xlabel="step", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(frameon=False, fontsize="small")
        clean(axes)
    return figure


def latent_space(
    latents: Float[np.ndarray, "cells latent"],
    condition_index: Int[np.ndarray, " cells"],
    conditions: Sequence[str],
    *,
    centres: Float[np.ndarray, "conditions latent"] | None = None,
    max_cells: int = 300,
) -> Figure:
    """Cells in latent space, coloured by condition, each condition named at its centre.

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
    figure = Figure(figsize=(6.0, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, colour in enumerate(cycle(PALETTE, len(conditions))):
        rows = np.flatnonzero(condition_index == i)
        shown = points[rows[np.linspace(0, len(rows) - 1, min(len(rows), max_cells)).astype(int)]]
        axes.scatter(*shown.T, s=6, color=colour, alpha=0.3, linewidths=0, rasterized=True, zorder=1)
        marker = "osD^vPX"[i // len(PALETTE) % 7]  # colours come round again: the shape differs
        axes.plot(*middles[i], marker=marker, ms=8, color=colour, mec="white", mew=1.2, zorder=3)
    axes.set(xlim=limits_of([points[:, 0]]), ylim=limits_of([points[:, 1]]), xlabel=x_label, ylabel=y_label)
    clean(axes)
    label_points(figure, axes, middles, conditions)
    return figure


def marginals(
    true: Float[np.ndarray, "n d"],
    samples: Mapping[str, Float[np.ndarray, "m d"]],
    features: Sequence[str],
    *,
    title: str = "",
    max_features: int = 8,
) -> Figure:
    """True and predicted histograms, one panel per feature.

    Args:
        true: measured cells.
        samples: method -> predicted cells; the last one, a baseline, decides which features are shown.
        features: names of the columns.
        title: of the figure.
        max_features: panels; of more features those where the last of `samples` is most wrong, in standard deviations
            of the mean and spread.
    """
    reference, spread = list(samples.values())[-1], true.std(axis=0) + 1e-12
    wrong = np.abs(true.mean(0) - reference.mean(0)) / spread + np.abs(reference.std(0) / spread - 1)
    shown = np.sort(np.argsort(-wrong)[:max_features])
    columns = min(4, len(shown))
    grid = (-(-len(shown) // columns), columns)
    figure = Figure(figsize=(max(2.3 * columns, 4.0), 1.9 * grid[0] + 0.6), layout="constrained")
    panels = figure.subplots(*grid, squeeze=False).ravel()
    for axes, j in zip(panels, shown, strict=False):
        low, high = np.quantile(np.concatenate([true[:, j], *(x[:, j] for x in samples.values())]), [0.003, 0.997])
        bins = np.linspace(low, high if high > low else low + 1.0, 33)
        axes.hist(true[:, j], bins=bins, density=True, color="#C4C4C4", label="true")
        for number, (name, x) in enumerate(samples.items()):
            heights = np.histogram(x[:, j], bins=bins, density=True)[0]
            axes.stairs(
                heights,
                bins,
                color=colour_of(name, number),
                lw=1.6,
                ls=("-", (0, (4, 1)), ":")[number % 3],
                label=words(name),
            )
        cap(axes, np.histogram(true[:, j], bins=bins, density=True)[0].max())
        axes.set_title(features[j], fontsize=10)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        clean(axes, left=False)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def densities_2d(
    true: Float[np.ndarray, "n d"],
    samples: Mapping[str, Float[np.ndarray, "m d"]],
    *,
    features: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """True and predicted densities side by side, on shared axes; the true contours are repeated in every panel.

    Args:
        true: measured cells; of more than two features the first two principal components of these are shown.
        samples: method -> predicted cells.
        features: names of the columns.
        title: of the figure.
    """
    names = features or [f"feature {j + 1}" for j in range(true.shape[1])]
    project, labels = plane(true, names)
    clouds = {"true": project(true), **{name: project(x) for name, x in samples.items()}}
    limits = [limits_of([cloud[:, axis] for cloud in clouds.values()]) for axis in (0, 1)]
    figure = Figure(figsize=(2.9 * len(clouds), 3.3), layout="constrained")
    panels = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for number, (axes, (name, cloud)) in enumerate(zip(panels, clouds.items(), strict=True)):
        colour = GREY if name == "true" else colour_of(name, number - 1)
        contours(axes, cloud, limits, colour)
        contours(axes, clouds["true"], limits, None)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel=labels[0], title=words(name))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        clean(axes)
    panels[0].set_ylabel(labels[1])
    figure.legend(
        [Line2D([], [], color=BLACK, lw=0.9)],
        [f"true density: {', '.join(f'{m:.0%}' for m in MASSES[::2])} of the cells inside"],
        loc="outside lower center",
        frameon=False,
        fontsize="small",
    )
    if title:
        figure.suptitle(title)
    return figure


def condition_bars(table: Table, *, split: str = "test", metric: str = "energy_distance") -> Figure:
    """A metric per condition and method, on a log scale; a black line marks the ceiling `oracle_half`.

    Args:
        table: DataFrame of `evaluate`.
        split: rows used.
        metric: any that is positive unless perfect. Values at or below zero (U forms of equal laws) and anything
            under a thousandth of the largest stop at the bottom of the axes.
    """
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    if len(rows) == 0:
        raise ValueError(f"No {metric!r} rows of split {split!r} in the table. Pass a metric and a split that it has.")
    wide = rows.pivot_table(index="condition", columns="method", values="value", aggfunc="mean")
    methods = [name for name in METHOD_COLOURS if name in wide and name != "oracle_half"]
    methods += [name for name in wide if name not in METHOD_COLOURS]
    wide = wide.sort_values(methods[0]) if methods else wide
    bottom = 0.5 * max(wide[wide > 0].min(axis=None), 1e-3 * wide.max(axis=None))
    figure = Figure(figsize=(float(np.clip(3.2 + 1.1 * len(wide), 6.5, 16.0)), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / max(len(methods), 1)
    centre, handles = np.arange(len(wide)), []
    for i, name in enumerate(methods):
        heights = np.maximum(wide[name].to_numpy(), bottom)
        style = {"color": colour_of(name, i), "edgecolor": "#555555", "linewidth": 0.4, "label": words(name)}
        handles.append(axes.bar(centre + (i + 0.5) * width - 0.42, heights - bottom, width, bottom=bottom, **style))
    if "oracle_half" in wide:
        ceiling = np.maximum(wide["oracle_half"].to_numpy(), bottom)
        style = {"color": BLACK, "lw": 2.2, "clip_on": False, "zorder": 5, "label": "oracle half"}
        handles.append(axes.hlines(ceiling, centre - 0.46, centre + 0.46, **style))
    axes.set_yscale("log")
    axes.set_ylim(bottom, None)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(-0.6, len(wide) - 0.4)
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, wide.index)) > 9 else {}
    axes.set_xticks(centre, wide.index, **slanted)
    axes.set_ylabel(words(metric))
    axes.tick_params(axis="x", length=0)
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize="small")
    clean(axes)
    return figure


def count_laws(
    predicted: tuple[Int[np.ndarray, "cells features"], Float[np.ndarray, " cells"]],
    measured: tuple[Int[np.ndarray, "cells features"], Float[np.ndarray, " cells"]],
    *,
    title: str = "",
) -> Figure:
    """Zeros, spread and dependence of predicted counts against measured ones, a point per feature or pair of features.

    Args:
        predicted: counts and size factors, `evaluation.counts.CountedCells`.
        measured: the same; best as many cells.
        title: of the figure.
    """
    samples = {"measured": CountedCells(*measured), "predicted": CountedCells(*predicted)}
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    zeros, spread, dependence = figure.subplots(1, 3)
    shares = [np.mean(sample.counts == 0, axis=0) for sample in samples.values()]
    zeros.scatter(*shares, s=10, color=BLUE, alpha=0.5, linewidths=0)
    zeros.plot([0, 1], [0, 1], color=GREY, lw=1, zorder=0)
    zeros.set(xlabel="share of zeros, measured", ylabel="predicted", title="zeros of a feature")
    for (name, sample), colour in zip(samples.items(), (BLACK, BLUE), strict=True):
        mean, variance = sample.counts.mean(axis=0), sample.counts.var(axis=0)
        seen = (mean > 0) & (variance > 0)
        spread.loglog(mean[seen], variance[seen], ".", ms=5, color=colour, alpha=0.5, mew=0, label=name)
    spread.set(xlabel="mean count", ylabel="variance", title="mean and variance of a feature")
    spread.legend(frameon=False, fontsize="small")
    abundant = np.argsort(-samples["measured"].counts.mean(axis=0), kind="stable")[:CORRELATED_FEATURES]
    pairs = np.triu_indices(len(abundant), 1)
    found = [log_correlations(sample, abundant)[pairs] for sample in samples.values()]
    dependence.scatter(*found, s=6, color=BLUE, alpha=0.3, linewidths=0, rasterized=True)
    dependence.plot([-1, 1], [-1, 1], color=GREY, lw=1, zorder=0)
    limits = limits_of([np.concatenate([*found, [0.0, 0.1]])])
    dependence.set(xlim=limits, ylim=limits, xlabel="correlation, measured", ylabel="predicted")
    dependence.set_title("pairs of features")
    for axes in (zeros, spread, dependence):
        clean(axes)
    figure.suptitle(title)
    return figure
