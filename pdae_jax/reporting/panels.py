"""What figures share: size and type, looks of methods, projections to a plane, density contours, names beside points.

Figures are drawn for a column of a journal, 85 mm wide, in type of 6 to 8 points, and say nothing by colour alone.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.ndimage import gaussian_filter

from pdae_jax.cells import evenly_spaced
from pdae_jax.spelling import visible

COLUMN = 85 / 25.4  # inches
FEWEST = 20  # cells that a density is drawn of; of fewer the cells are
MOST_LETTERS = 22  # of a name in a figure

# Okabe & Ito: told apart with every common kind of colour vision
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"
WINE, TEAL, INDIGO, OLIVE = "#882255", "#44AA99", "#332288", "#999933"  # Tol's muted ones, for more
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW, WINE, TEAL, INDIGO, OLIVE)
MARKERS = "osD^vP<X>*hp"
DASHES = ("-", (0, (4, 1)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 2)), (0, (1, 3)))
HALO = [patheffects.withStroke(linewidth=1.5, foreground="white")]
MASSES = (0.9, 0.7, 0.5, 0.3, 0.1)  # probability inside each contour, outermost first
_Arguments = ParamSpec("_Arguments")
_STYLE: dict[Any, Any] = {
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "axes.labelsize": 7.0,
    "figure.titlesize": 7.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "text.usetex": False,
}


class Look(NamedTuple):
    """Look of a method in every figure."""

    colour: str
    marker: str


METHOD_LOOKS = {
    "pdae": Look(BLUE, "o"),
    "additive": Look(ORANGE, "s"),
    "linear_regression": Look(YELLOW, "^"),
    "latent_additive": Look(PURPLE, "v"),
    "ridge_additive": Look("#9BCF9B", "d"),
    "ridge": Look(GREEN, "D"),
    "pseudobulk": Look("#E8E8E8", "P"),
    "pool_all": Look("#C4C4C4", "X"),
    "control": Look(GREY, "h"),
    "oracle_half": Look(BLACK, "|"),
}


def in_column_style(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Draw in small type and thin lines, without a trace in the user's settings."""

    @functools.wraps(draw)
    def styled(*args: _Arguments.args, **options: _Arguments.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return styled


def as_label(name: object, most: int = MOST_LETTERS) -> str:
    """Write a name as text of a figure: not mathematics, and its middle left out where it is long."""
    text = visible(name)
    if len(text) > most:
        text = f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"
    return text.replace("$", r"\$")


def words(name: str) -> str:
    """Write a name of our own, or of a method, as people read it."""
    return as_label(name.replace("_", " "))


def plane(reference: np.ndarray, names: Sequence[str], component: str = "PC") -> tuple[Any, tuple[str, str]]:
    """Map to the plane and names of its axes: the columns themselves if two, else principal components."""
    if reference.shape[1] == 1:
        return lambda x: np.column_stack([x[:, 0], np.zeros(len(x))]), (names[0], "")
    if reference.shape[1] == 2:
        return lambda x: x, (names[0], names[1])
    mean = reference.mean(axis=0, dtype=np.float64)
    rows = evenly_spaced(len(reference), 1000)  # enough, and fast for many genes
    _, spread, directions = np.linalg.svd(reference[rows] - mean, full_matrices=False)
    directions = np.pad(directions, ((0, max(0, 2 - len(directions))), (0, 0)))[:2]
    share = np.pad(spread**2, (0, 2))[:2] / max(np.sum(spread**2), 1e-300)
    # the sign of a component is arbitrary
    directions = directions * np.sign(directions.sum(axis=1, keepdims=True) + 1e-12)
    first, second = (f"{component} {i + 1} ({share[i]:.0%})" for i in (0, 1))
    return lambda x: (x - mean) @ directions.T, (first, second)


def label_points(
    axes: Axes, points: np.ndarray, names: Sequence[str], around: np.ndarray | None = None, letters: int = MOST_LETTERS
) -> None:
    """Write names beside points, where they cover neither each other nor points; places are found by textalloc.

    Args:
        axes: whose limits and layout are settled, `Figure.draw_without_rendering`.
        points: ``[names, 2]``, in data units.
        names: of the points.
        around: further points to keep clear of.
        letters: of a name at most.
    """
    import textalloc

    if not len(points):
        return
    avoided = points if around is None else np.concatenate([points, around])
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where a place is hard to find
        _, lines, texts, _ = textalloc.allocate(
            axes,
            points[:, 0],
            points[:, 1],
            [as_label(name, letters) for name in names],
            x_scatter=avoided[:, 0],
            y_scatter=avoided[:, 1],
            textsize=6.5,
            max_distance=0.4,
            draw_lines=False,
            zorder=4,
            path_effects=HALO,
        )
    for line in filter(None, lines):
        axes.add_artist(PathPatch(Path(np.transpose(line[:2])), color=BLACK, lw=0.4, fill=False, zorder=2))
    written: Any = texts
    for text in written:  # kept where they were put, whatever is drawn later
        text.set_in_layout(False)


def limits_of(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Find the range that holds all but the far tails of every part."""
    low = min(np.quantile(part, 0.003) for part in parts)
    high = max(np.quantile(part, 0.997) for part in parts)
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def contours(axes: Axes, cloud: np.ndarray, limits: Sequence[tuple[float, float]], colour: str | None) -> None:
    """Draw highest-density regions of a smoothed histogram, in shades of `colour` or as thin black lines."""
    counts, *edges = np.histogram2d(*cloud.T, bins=80, range=limits)
    # width by Scott's rule, in bins: cells ~ n^(-1/6) standard deviations
    sigma = [
        max(1.0, len(cloud) ** (-1 / 6) * np.std(cloud[:, i]) / (edge[1] - edge[0])) for i, edge in enumerate(edges)
    ]
    density = gaussian_filter(counts, sigma)
    ordered = np.sort(density.ravel())[::-1]
    inside = np.cumsum(ordered) / max(ordered.sum(), 1e-300)
    steps = np.minimum(np.searchsorted(inside, MASSES), ordered.size - 1)
    grid = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
    if colour is None:
        axes.contour(*grid, density.T, levels=np.unique(ordered[steps[::2]]), colors=BLACK, linewidths=0.7)
        return
    levels = np.unique(ordered[steps])
    shades = [(*to_rgb(colour), alpha) for alpha in np.linspace(0.18, 0.95, len(levels))]
    axes.contourf(*grid, density.T, levels=[*levels, np.inf], colors=shades)


def look_of(method: str, number: int) -> Look:
    """Give a method its look in every figure; others take turns with what those leave."""
    free = [(VERMILION, "<"), (SKY, ">"), (WINE, "*"), (TEAL, "p")]
    return METHOD_LOOKS.get(method, Look(*free[number % len(free)]))


def distinct_colours(number: int) -> list[str]:
    """Find as many colours, no two alike: of the palette, or where there are more from dark to light."""
    if number <= len(PALETTE):
        return list(PALETTE[:number])
    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.95, number))]


def cycle(values: Sequence[Any], count: int) -> list[Any]:
    """Take the first `count` values, starting over when they run out."""
    return [values[i % len(values)] for i in range(count)]


def log_where_it_helps(axes: Axes) -> None:
    """Set a log scale with plain numbers where curves span a factor and stay positive (U forms may not)."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.zeros(1)])
    if np.min(values) > 0 and np.max(values) > 5 * np.min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def cap(axes: Axes, top: float) -> None:
    """Cut the axis where a spike (point mass, narrow prediction) would flatten everything else."""
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.7 * top))


def clean(axes: Axes, *, left: bool = True) -> None:
    """Take the frame off the axes, and make ticks small."""
    axes.spines[["top", "right"] + ([] if left else ["left"])].set_visible(False)
    axes.tick_params(labelsize=6.5, width=0.6, length=2.5)
    axes.tick_params(which="minor", width=0.4, length=1.5)
