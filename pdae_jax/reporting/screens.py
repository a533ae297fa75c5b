"""Figures of one condition as people who measure cells draw them: embeddings, violins, volcanoes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pdae_jax.evaluation.differential import Differential, Summary, differential
from pdae_jax.reporting.panels import BLACK, BLUE, GREY, VERMILION, clean, label_points, limits_of, plane

_EMBEDDED = 1500  # cells of each sample
_VIOLIN_CELLS = 2000
_SMALLEST_P = 1e-50


def embedding(
    measured: Float[np.ndarray, "n d"],
    predicted: Float[np.ndarray, "m d"],
    control: Float[np.ndarray, "k d"],
    features: Sequence[str],
    *,
    method: str = "pca",
    title: str = "",
) -> Figure:
    """Measured and predicted cells in one embedding of both and of the control, side by side.

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
        project, axes_names = plane(cells, features)
        points = project(cells)
    elif method == "umap":
        points, axes_names = _umap(cells), ("UMAP 1", "UMAP 2")
    else:
        raise ValueError(f"method={method!r} is not known; pass 'pca' or 'umap'.")
    parts = np.split(points, np.cumsum([len(sample) for sample in samples])[:-1])
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    limits = [limits_of([part[:, axis] for part in parts]) for axis in (0, 1)]
    for axes, name, part, colour in zip(
        figure.subplots(1, 2), ("measured", "predicted"), parts[1:], (BLACK, BLUE), strict=True
    ):
        axes.plot(*parts[0].T, ".", ms=3, mew=0, color=GREY, alpha=0.35, label="control", rasterized=True)
        axes.plot(*part.T, ".", ms=3, mew=0, color=colour, alpha=0.5, label=name, rasterized=True)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[])
        legend = axes.legend(frameon=False, fontsize="small", markerscale=3)
        for handle in legend.legend_handles:
            handle.set_alpha(1.0)
        clean(axes)
    figure.suptitle(title)
    return figure


def violins(
    measured: Float[np.ndarray, "n d"],
    predicted: Float[np.ndarray, "m d"],
    control: Float[np.ndarray, "k d"],
    features: Sequence[str],
    *,
    shown: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Laws of chosen features in control, measured and predicted cells.

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
    columns = min(6, len(shown))
    grid = (-(-len(shown) // columns), columns)
    figure = Figure(figsize=(1.5 * columns + 0.8, 2.1 * grid[0] + 0.5), layout="constrained")
    panels = figure.subplots(*grid, squeeze=False).ravel()
    for axes, name in zip(panels, shown, strict=False):
        for place, (x, colour) in enumerate(zip(some.values(), (GREY, BLACK, BLUE), strict=True)):
            _violin(axes, place, x[:, position[name]], colour)
        axes.set_xticks(range(3), list(some), rotation=35, ha="right", fontsize="small")
        axes.set_title(name, fontsize=10)
        clean(axes)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    return figure


def volcano(
    measured: Float[np.ndarray, "n d"],
    predicted: Float[np.ndarray, "m d"],
    control: Float[np.ndarray, "k d"],
    features: Sequence[str],
    *,
    labelled: int = 6,
    title: str = "",
) -> Figure:
    """Differential features of measured and of predicted cells against the control, and their changes side by side.

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
    figure = Figure(figsize=(10.8, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, name, each in zip(panels, ("measured", "predicted"), found, strict=False):
        _volcano(axes, each)
        axes.set(xlabel="change of the mean", ylabel="-log10 adjusted p", title=name)
        clean(axes)
    changes = np.stack([each.change for each in found], axis=1)
    true = found[0].significant
    panels[2].axline((0, 0), slope=1, color=GREY, lw=1, zorder=0)
    for rows, colour in ((~true, GREY), (true, VERMILION)):
        panels[2].plot(*changes[rows].T, ".", ms=5, mew=0, alpha=0.6, color=colour, rasterized=True)
    panels[2].set(xlabel="measured change", ylabel="predicted change", title="changes")
    clean(panels[2])
    names = [str(features[int(column)]) for column in chosen]
    heights = [np.minimum(-np.log10(np.maximum(each.p_adjusted, _SMALLEST_P)), 50) for each in found]
    for axes, each, height in zip(panels[:2], found, heights, strict=True):
        label_points(figure, axes, np.stack([each.change[chosen], height[chosen]], axis=1), names)
    label_points(figure, panels[2], changes[chosen], names)
    figure.suptitle(title)
    return figure


def _volcano(axes: Axes, found: Differential) -> None:
    height = -np.log10(np.maximum(found.p_adjusted, _SMALLEST_P))
    for rows, colour in ((~found.significant, GREY), (found.significant, VERMILION)):
        axes.plot(found.change[rows], height[rows], ".", ms=5, mew=0, alpha=0.6, color=colour, rasterized=True)


def _violin(axes: Axes, place: int, values: np.ndarray, colour: str) -> None:
    """A violin with its mean; a line where all values are one."""
    if np.ptp(values) > 0:
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
    """Rows of at most so many cells, always the same."""
    return np.sort(np.random.default_rng(0).permutation(number)[:most])
