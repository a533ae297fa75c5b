"""Figures of one condition as people who measure cells draw them: embeddings, violins, volcanoes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pdae_jax.evaluation.differential import Summary, differential
from pdae_jax.reporting.panels import (
    BLACK,
    BLUE,
    COLUMN,
    FEWEST,
    GREY,
    VERMILION,
    as_label,
    clean,
    in_column_style,
    label_points,
    limits_of,
    plane,
)

_EMBEDDED = 1500  # cells of each sample
_VIOLIN_CELLS = 2000
_SMALLEST_P = 1e-50


@in_column_style
def embedding(
    measured: Float[np.ndarray, "n d"],
    predicted: Float[np.ndarray, "m d"],
    control: Float[np.ndarray, "k d"],
    features: Sequence[str],
    *,
    method: str = "pca",
    title: str = "",
) -> Figure:
    """Draw measured and predicted cells side by side, in one embedding of both and of the control.

    Args:
        measured: cells of the condition.
        predicted: predicted cells.
        control: control cells.
        features: names of the columns.
        method: ``pca``, or ``umap`` (of 50 principal components; needs umap-learn, which comes with scanpy).
        title: of the figure.

    Raises:
        ValueError: an unknown method.
        ImportError: umap-learn is not installed.
    """
    samples = [sample[_some(len(sample), _EMBEDDED)] for sample in (control, measured, predicted)]
    cells = np.concatenate(samples)
    if method == "pca":
        project, axes_names = plane(cells, [as_label(name) for name in features[:2]])
        points = project(cells)
    elif method == "umap":
        points, axes_names = _umap(cells), ("UMAP 1", "UMAP 2")
    else:
        raise ValueError(f"method={method!r} is not known; pass 'pca' or 'umap'.")
    parts = np.split(points, np.cumsum([len(sample) for sample in samples])[:-1])
    figure = Figure(figsize=(COLUMN, 2.1), layout="constrained")
    limits = [limits_of([part[:, axis] for part in parts]) for axis in (0, 1)]
    looks = (("measured", BLACK, "o"), ("predicted", BLUE, "^"))
    handles = [Line2D([], [], color=GREY, marker="s", ms=3, ls="", label="control")]
    for axes, (name, colour, marker), part in zip(figure.subplots(1, 2), looks, parts[1:], strict=True):
        size = float(np.clip(90 / np.sqrt(len(part)), 1.2, 3.5))  # few cells are to be seen, many not to hide others
        axes.plot(*parts[0].T, "s", ms=size, mew=0, color=GREY, alpha=0.35, rasterized=True)
        axes.plot(*part.T, marker, ms=size, mew=0, color=colour, alpha=0.5, rasterized=True)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[])
        handles.append(Line2D([], [], color=colour, marker=marker, ms=3, ls="", label=name))
        clean(axes)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(as_label(title, 50))
    return figure


@in_column_style
def violins(
    measured: Float[np.ndarray, "n d"],
    predicted: Float[np.ndarray, "m d"],
    control: Float[np.ndarray, "k d"],
    features: Sequence[str],
    *,
    shown: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw the laws of chosen features in control, measured and predicted cells; of fewer than 20 the cells themselves.

    Args:
        measured: cells of the condition.
        predicted: predicted cells.
        control: control cells.
        features: names of the columns.
        shown: features to draw; None: the six that differ most between measured and control cells.
        title: of the figure.

    Raises:
        KeyError: a feature that is not there.
    """
    if shown is None:
        shown = [
            str(features[int(column)]) for column in differential(Summary.of(measured), Summary.of(control)).order[:6]
        ]
    position = {name: column for column, name in enumerate(features)}
    for name in shown:
        if name not in position:
            raise KeyError(f"No feature {name!r} to draw. Pass some of {', '.join(features[:5])}, ...")
    samples = {"control": control, "measured": measured, "predicted": predicted}
    some = {name: sample[_some(len(sample), _VIOLIN_CELLS)] for name, sample in samples.items()}
    columns = min(3, len(shown))
    grid = (-(-len(shown) // columns), columns)
    figure = Figure(figsize=(COLUMN, 1.35 * grid[0] + 0.4), layout="constrained")
    panels = figure.subplots(*grid, squeeze=False).ravel()
    for axes, name in zip(panels, shown, strict=False):
        for place, (x, colour) in enumerate(zip(some.values(), (GREY, BLACK, BLUE), strict=True)):
            _violin(axes, place, x[:, position[name]], colour)
        axes.set_xticks(range(3), list(some), rotation=30, ha="right", rotation_mode="anchor")
        axes.set_title(as_label(name))
        clean(axes)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(as_label(title, 50))
    return figure


@in_column_style
def volcano(
    measured: Float[np.ndarray, "n d"],
    predicted: Float[np.ndarray, "m d"],
    control: Float[np.ndarray, "k d"],
    features: Sequence[str],
    *,
    labelled: int = 6,
    title: str = "",
) -> Figure:
    """Draw differential features of measured and predicted cells against the control, and their changes side by side.

    As many predicted cells are tested as were measured, so that both tests have the same power (`differential`).

    Args:
        measured: cells of the condition.
        predicted: predicted cells.
        control: control cells.
        features: names of the columns.
        labelled: number of features named, those that differ most in the measured cells.
        title: of the figure.
    """
    number = min(len(measured), len(predicted))
    against = Summary.of(control)
    found = [differential(Summary.of(x[_some(len(x), number)]), against) for x in (measured, predicted)]
    chosen = found[0].order[:labelled]
    figure = Figure(figsize=(COLUMN, 4.0), layout="constrained")
    panels = list(figure.subplot_mosaic([["measured", "predicted"], ["changes", "changes"]]).values())
    heights = [np.minimum(-np.log10(np.maximum(each.p_adjusted, _SMALLEST_P)), 50) for each in found]
    changes = np.stack([each.change for each in found], axis=1)
    points = [*(np.stack([each.change, height], axis=1) for each, height in zip(found, heights, strict=True)), changes]
    panels[2].axline((0, 0), slope=1, color=GREY, lw=0.7, zorder=0)
    for axes, each, at in zip(panels, (*found, found[0]), points, strict=True):
        _features(axes, at, each.significant)
        axes.margins(0.15)
        clean(axes)
    for axes, name in zip(panels, ("measured", "predicted"), strict=False):
        axes.set(xlabel="change of the mean", ylabel="-log10 adjusted p", title=name)
    panels[2].set(xlabel="measured change", ylabel="predicted change", title="changes")
    figure.legend(*panels[2].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(as_label(title, 50))
    figure.draw_without_rendering()
    names = [str(features[int(column)]) for column in chosen]
    for axes, at, letters in zip(panels, points, (12, 12, 20), strict=True):
        label_points(axes, at[chosen], names, around=at[found[0].significant], letters=letters)
    return figure


def _features(axes: Axes, points: np.ndarray, significant: np.ndarray) -> None:
    """Draw a point for each feature, open where it does not differ."""
    style = {"ls": "", "alpha": 0.7, "rasterized": True}
    axes.plot(*points[~significant].T, "o", ms=2, mfc="none", mec=GREY, mew=0.5, label="no difference found", **style)
    axes.plot(*points[significant].T, "o", ms=3, mew=0, color=VERMILION, label="differs from the control", **style)


def _violin(axes: Axes, place: int, values: np.ndarray, colour: str) -> None:
    """Draw a violin with its mean; of few cells the cells, and a line where all values are one."""
    if len(values) < FEWEST:
        axes.plot(np.full(len(values), place), values, "o", ms=3, color=colour, alpha=0.55, mew=0)
    elif np.ptp(values) > 0:
        bodies: Any = axes.violinplot(values, positions=[place], widths=0.85, showextrema=False)["bodies"]
        body = bodies[0]
        body.set(facecolor=colour, alpha=0.55)
    axes.plot([place - 0.2, place + 0.2], [values.mean()] * 2, color=colour, lw=2)


def _umap(cells: np.ndarray) -> np.ndarray:
    try:
        import umap  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "method='umap' needs umap-learn. Run make .venv/scanpy.stamp in the repository, or pip install "
            "'pdae_jax[scanpy]' elsewhere; or pass method='pca'."
        ) from error
    centred = cells - cells.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return umap.UMAP(random_state=0, n_jobs=1).fit_transform((left * singular)[:, :50])


def _some(number: int, most: int) -> np.ndarray:
    """Choose rows of at most so many cells, always the same."""
    return np.sort(np.random.default_rng(0).permutation(number)[:most])
