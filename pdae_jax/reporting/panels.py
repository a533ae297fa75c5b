"""What figures share: colours of methods, projections to a plane, density contours, labels that keep clear."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.ndimage import gaussian_filter

# Okabe & Ito: told apart with every common kind of colour vision
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
METHOD_COLOURS = {
    "pdae": BLUE,
    "additive": ORANGE,
    "linear_regression": YELLOW,
    "latent_additive": PURPLE,
    "pseudobulk": "#E8E8E8",
    "pool_all": "#C4C4C4",
    "control": GREY,
    "oracle_half": BLACK,
}
HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]
MASSES = (0.9, 0.7, 0.5, 0.3, 0.1)  # probability inside each contour, outermost first


def plane(reference: np.ndarray, names: Sequence[str], component: str = "PC") -> tuple[Any, tuple[str, str]]:
    """Map to the plane and names of its axes: the columns themselves if two, else principal components."""
    if reference.shape[1] == 1:
        return lambda x: np.column_stack([x[:, 0], np.zeros(len(x))]), (names[0], "")
    if reference.shape[1] == 2:
        return lambda x: x, (names[0], names[1])
    mean = reference.mean(axis=0, dtype=np.float64)
    rows = np.linspace(0, len(reference) - 1, min(len(reference), 1000)).astype(int)  # enough, and fast for many genes
    _, spread, directions = np.linalg.svd(reference[rows] - mean, full_matrices=False)
    directions = np.pad(directions, ((0, max(0, 2 - len(directions))), (0, 0)))[:2]
    share = np.pad(spread**2, (0, 2))[:2] / max(np.sum(spread**2), 1e-300)
    # the sign of a component is arbitrary
    directions = directions * np.sign(directions.sum(axis=1, keepdims=True) + 1e-12)
    first, second = (f"{component} {i + 1} ({share[i]:.0%})" for i in (0, 1))
    return lambda x: (x - mean) @ directions.T, (first, second)


def label_points(figure: Figure, axes: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Names beside points, each where it covers as few other names and points as possible."""
    figure.draw_without_rendering()  # settles the layout, hence the transform
    at = axes.transData.transform(points) * 72 / figure.dpi
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    places = [
        (r * np.cos(t), r * np.sin(t))
        for r in (8, 16, 26, 38)
        for t in np.pi * np.array([0, 1, 0.25, 0.75, 1.25, 1.75])
    ]
    for (x, y), point, name in zip(at, points, names, strict=True):
        boxes = []
        for dx, dy in places:
            left = x + dx if dx > 0 else x + dx - 6.0 * len(name)
            boxes.append((left, y + dy - 5.5, left + 6.0 * len(name), y + dy + 5.5))
        best = int(np.argmin([sum(_overlap(box, other) for other in taken) for box in boxes]))
        dx, dy = places[best]
        taken.append(boxes[best])
        axes.annotate(
            name,
            (point[0], point[1]),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right",
            va="center",
            fontsize=9,
            path_effects=HALO,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "shrinkB": 3} if np.hypot(dx, dy) > 10 else None,
            zorder=4,
        )


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def limits_of(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Range that holds all but the far tails of every part."""
    low = min(np.quantile(part, 0.003) for part in parts)
    high = max(np.quantile(part, 0.997) for part in parts)
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def contours(axes: Axes, cloud: np.ndarray, limits: Sequence[tuple[float, float]], colour: str | None) -> None:
    """Highest-density regions of a smoothed histogram, filled in shades of `colour`, or as thin black lines."""
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
        axes.contour(*grid, density.T, levels=np.unique(ordered[steps[::2]]), colors=BLACK, linewidths=0.9)
        return
    levels = np.unique(ordered[steps])
    shades = [(*to_rgb(colour), alpha) for alpha in np.linspace(0.18, 0.95, len(levels))]
    axes.contourf(*grid, density.T, levels=[*levels, np.inf], colors=shades)


def colour_of(method: str, number: int) -> str:
    """A method keeps its colour in every figure; others take turns with what those leave."""
    free = [colour for colour in PALETTE if colour not in METHOD_COLOURS.values()]
    return METHOD_COLOURS.get(method, free[number % len(free)])


def cycle(values: Sequence[str], count: int) -> list[str]:
    """The first `count` values, starting over when they run out."""
    return [values[i % len(values)] for i in range(count)]


def words(name: str) -> str:
    """A name as people read it."""
    return name.replace("_", " ")


def log_where_it_helps(axes: Axes) -> None:
    """Log scale with plain numbers, where curves span a factor and stay positive (U forms may not)."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.zeros(1)])
    if np.min(values) > 0 and np.max(values) > 5 * np.min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def cap(axes: Axes, top: float) -> None:
    """A spike (point mass, narrow prediction) must not flatten everything else."""
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.7 * top))


def clean(axes: Axes, *, left: bool = True) -> None:
    """No frame around the axes."""
    axes.spines[["top", "right"] + ([] if left else ["left"])].set_visible(False)
