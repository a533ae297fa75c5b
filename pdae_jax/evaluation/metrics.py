r"""Metrics: how far predicted cells are from the true ones, one number each. `METRICS` is the table of them.

A metric is a function of a `Comparison`. :math:`\mu_P, \mu_T` are the means of the predicted and the true cells,
:math:`\mu_0` that of control cells. Where a metric is undefined (a correlation over one feature, a direction of length
zero) it is NaN, and so are all where a cell has a value that is NaN or infinite. Everything is computed in the space of
the data that were fitted: for log-normalised counts that of :math:`\log(1 + \text{counts per } 10{,}000)`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from pdae_jax.evaluation.differential import Differential, Summary, most_different
from pdae_jax.two_sample.target import Against, Halving, Target

P_VALUE_CELLS = 500  # per sample: a p-value depends on the sample size, so that is the same everywhere
CORRELATED_FEATURES = 100  # the true cells' most variable ones
# Lengths below this share of what they are differences of count as zero.
ROUNDING = 1e-6


class Reference(NamedTuple):
    """All that is known of a condition besides the predicted cells; the same for all methods."""

    control_mean: Float[np.ndarray, " d"]  # mean of all control cells
    centroid: Float[np.ndarray, " d"]  # mean of the means of the perturbed training conditions
    other_means: Float[np.ndarray, "others d"]  # true means of the other perturbed conditions
    bandwidth: float  # of the MMD: the median distance between true cells
    spread: float  # distance variance of the true cells; of few, that of training cells around their condition's mean
    lowest: Float[np.ndarray, " d"]  # of all training cells and the true ones
    highest: Float[np.ndarray, " d"]
    control_cells: Float[np.ndarray, "cells d"]  # at most `differential.CONTROL_CELLS`
    control: Summary  # of these
    true_change: Differential  # of the true cells, from these


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Predicted cells beside the true cells of a condition: what a metric is computed from."""

    predicted: Float[np.ndarray, "n d"]
    true: Float[np.ndarray, "m _"]
    reference: Reference
    distances: Against | Halving  # of the predicted cells from the true ones

    @classmethod
    def of(cls, predicted: Float[np.ndarray, "n d"], target: Target, reference: Reference) -> "Comparison":
        """Compare with the true cells of a target, which several methods share."""
        return cls(predicted, target.cells, reference, Against(predicted, target))

    @functools.cached_property  # several metrics ask for them
    def means(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Average the predicted and the true cells."""
        return self.predicted.mean(axis=0, dtype=np.float64), self.true.mean(axis=0, dtype=np.float64)

    @functools.cached_property  # every metric asks for it
    def are_numbers(self) -> bool:
        """Check that no value is NaN or infinite."""
        return bool(np.isfinite(self.predicted).all() and np.isfinite(self.true).all())

    @functools.cached_property  # coverages and quantile functions ask for them
    def ordered(self) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m _"]]:
        """Sort the predicted and the true values of every feature."""
        return np.sort(self.predicted, axis=0), np.sort(self.true, axis=0)


def energy_distance(comparison: Comparison) -> float:
    r"""Compute the energy distance :math:`2 E\|X-Y\| - E\|X-X'\| - E\|Y-Y'\|` (U form).

    Zero in expectation iff the laws agree. Szekely and Rizzo, J. Stat. Plan. Inference 143, 2013.
    """
    return comparison.distances.energy_distance


def mmd(comparison: Comparison) -> float:
    r"""Compute the squared MMD :math:`E k(X,X') + E k(Y,Y') - 2 E k(X,Y)` (U form) of a Gaussian mixture kernel.

    :math:`k(x,y) = \tfrac13 \sum_{c \in \{1/2, 1, 2\}} \exp(-\|x-y\|^2 / 2 (c s)^2)` with `s` the bandwidth of the
    reference, the median distance between TRUE cells: one kernel for all methods. Gretton et al., JMLR 13, 2012.
    """
    return comparison.distances.mmd


def mean_l2(comparison: Comparison) -> float:
    r"""Compute the distance of the means, :math:`\|\mu_P - \mu_T\|`."""
    predicted, true = comparison.means
    return float(np.linalg.norm(predicted - true))


def r2_mean(comparison: Comparison) -> float:
    r"""Compute :math:`1 - \|\mu_T - \mu_P\|^2 / \sum_j (\mu_{Tj} - \overline{\mu_T})^2` over features `j`."""
    predicted, true = comparison.means
    spread = np.sum((true - true.mean()) ** 2)
    if spread <= np.sum((ROUNDING * true) ** 2):
        return float("nan")
    return float(1.0 - np.sum((true - predicted) ** 2) / spread)


def cosine_delta(comparison: Comparison) -> float:
    r"""Compute the cosine of :math:`\mu_P - \mu_0` and :math:`\mu_T - \mu_0`."""
    origin = comparison.reference.control_mean
    predicted, true = comparison.means
    return _cosine(predicted - origin, true - origin, origin)


def pearson_delta(comparison: Comparison) -> float:
    r"""Correlate over features (Pearson) :math:`\mu_P - \mu_0` and :math:`\mu_T - \mu_0`.

    Roohani, Huang and Leskovec, Nature Biotechnology 42, 2024.
    """
    return _pearson(comparison, comparison.reference.control_mean)


def pearson_delta_centroid(comparison: Comparison) -> float:
    r"""Correlate over features (Pearson) :math:`\mu_P - c` and :math:`\mu_T - c`.

    `c` is the centroid of the perturbed training conditions' means: what all perturbations share earns nothing
    (Vinas Torne et al., "Systema", Nature Biotechnology 2025).
    """
    return _pearson(comparison, comparison.reference.centroid)


def coverage(level: float) -> Callable[[Comparison], float]:
    """Make the mean over features of `coverage_by_feature`; it is `level` for a prediction that is calibrated."""

    def metric(comparison: Comparison) -> float:
        return float(np.mean(_coverage(*comparison.ordered, level)))

    return metric


def coverage_by_feature(
    predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], level: float
) -> Float[np.ndarray, " d"]:
    """Find the share of true values inside the predicted central interval (ends included), for every feature.

    Args:
        predicted: its quantiles at ``(1 - level) / 2`` and ``(1 + level) / 2`` span the interval.
        true: the cells counted.
        level: in (0, 1).
    """
    return _coverage(np.sort(predicted, axis=0), true, level)


def _coverage(
    ordered: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], level: float
) -> Float[np.ndarray, " d"]:
    low, high = _quantiles(ordered, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return np.count_nonzero((true >= low) & (true <= high), axis=0) / len(true)


def _quantiles(ordered: Float[np.ndarray, "n d"], levels: Sequence[float]) -> Float[np.ndarray, "levels d"]:
    """Interpolate between the values of sorted columns, as NumPy does of unsorted ones in ten times the time."""
    place = np.asarray(levels) * (len(ordered) - 1)
    below = place.astype(int)
    low, high = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    return low + (place - below)[:, None].astype(low.dtype) * (high - low)


def rank(comparison: Comparison) -> float:
    r"""Count the other perturbed conditions whose mean is nearer to :math:`\mu_P` than :math:`\mu_T` is.

    As a share: 0 is best, 0.5 is chance, NaN when there is no other condition. Wu et al., "PerturBench", arXiv
    2408.10609, 2024, rank predictions by their distance to a true mean; here true means are ranked, to a prediction.
    """
    others = comparison.reference.other_means
    if len(others) == 0:
        return float("nan")
    predicted, true = comparison.means
    to_others, to_own = (cdist(predicted[None], means)[0] for means in (others, true[None]))
    return float(np.mean(to_others < to_own))


def mse(comparison: Comparison) -> float:
    r"""Average over features :math:`(\mu_P - \mu_T)^2`."""
    predicted, true = comparison.means
    return float(np.mean((predicted - true) ** 2))


def mse_of_top(number: int) -> Callable[[Comparison], float]:
    """Make `mse` over the features that differ most in the true cells, by the size of t; NaN where there are no more.

    Roohani, Huang and Leskovec, Nature Biotechnology 42, 2024, with 20.
    """

    def metric(comparison: Comparison) -> float:
        predicted, true = (mean[comparison.reference.true_change.order[:number]] for mean in comparison.means)
        return float(np.mean((predicted - true) ** 2)) if comparison.true.shape[1] > number else float("nan")

    return metric


def pearson_of_top(number: int) -> Callable[[Comparison], float]:
    """Make the Pearson correlation of the changes of the means over these features."""

    def metric(comparison: Comparison) -> float:
        rows, control = comparison.reference.true_change.order[:number], comparison.reference.control.mean
        predicted, true = ((mean - control)[rows] for mean in comparison.means)
        if comparison.true.shape[1] <= number or min(np.ptp(predicted), np.ptp(true)) == 0:
            return float("nan")
        return float(np.corrcoef(predicted, true)[0, 1])

    return metric


def de_overlap(comparison: Comparison) -> float:
    """Find the share of the N truly differential features that are among the N of the prediction with the largest t.

    NaN for N = 0.
    """
    significant = comparison.reference.true_change.significant
    number = int(significant.sum())
    if number == 0:
        return float("nan")
    order = most_different(Summary.of(comparison.predicted), comparison.reference.control)
    return float(np.mean(significant[order[:number]]))


def de_direction(comparison: Comparison) -> float:
    """Find the share of the truly differential features whose mean is predicted to change in the right direction."""
    true = comparison.reference.true_change
    rows = true.significant
    if not rows.any():
        return float("nan")
    change = comparison.means[0] - comparison.reference.control.mean
    return float(np.mean(np.sign(change[rows]) == np.sign(true.change[rows])))


def wasserstein(comparison: Comparison) -> float:
    r"""Average over features :math:`W_1`, the area between the two quantile functions of a feature."""
    return float(np.mean(_between_ordered(*comparison.ordered)))


def wasserstein_by_feature(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " d"]:
    """Compute :math:`W_1` of each feature (Vallender, Theory of Probability and its Applications 18, 1974)."""
    return _between_ordered(np.sort(x, axis=0), np.sort(y, axis=0))


def _between_ordered(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " d"]:
    # the quantile functions are constant between these levels
    levels = np.union1d(np.arange(1, len(x) + 1) / len(x), np.arange(1, len(y) + 1) / len(y))
    widths = np.diff(levels, prepend=0.0)
    middle = levels - widths / 2
    x, y = (ordered[(middle * len(ordered)).astype(int)].astype(np.float64) for ordered in (x, y))
    return widths @ np.abs(x - y)


def correlation_error(comparison: Comparison) -> float:
    """Compare the correlations between features by their root mean square difference.

    That is what distances of means and marginals miss. Over pairs of the 100 features that vary most in the true cells.
    Samples of few cells differ by chance; ``oracle_half`` says by how much.
    """
    spread = comparison.true.var(axis=0, dtype=np.float64)
    rows = np.argsort(-spread, kind="stable")[:CORRELATED_FEATURES]
    rows = rows[spread[rows] > 0]
    if len(rows) < 2:
        return float("nan")
    difference = correlations(comparison.predicted[:, rows]) - correlations(comparison.true[:, rows])
    return float(np.sqrt(np.mean(difference[np.triu_indices(len(rows), 1)] ** 2)))


def correlations(x: Float[np.ndarray, "cells d"]) -> Float[np.ndarray, "d d"]:
    """Compute Pearson correlations between features; 0 with a feature that is constant."""
    x = x - x.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(x, axis=0)
    x = x / np.where(length > 0, length, 1.0)
    return x.T @ x


def p_value(comparison: Comparison) -> float:
    """Test by permutations whether the laws differ: the p-value of the energy distance."""
    return comparison.distances.p_value


def energy_noise(reference: Reference, n_true: int, n_pred: int) -> float:
    """Find the standard deviation of the energy distance of an exact prediction, see `validate.null_variance`."""
    if min(n_true, n_pred) < 2:
        return math.nan
    return math.sqrt(2 * reference.spread) * (1 / n_true + 1 / n_pred)


def _cosine(a: np.ndarray, b: np.ndarray, origin: np.ndarray) -> float:
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    # a difference of means this far below the means themselves is rounding, and has no direction
    if min(lengths) <= ROUNDING * max(*lengths, np.linalg.norm(origin)):
        return float("nan")
    return float(np.clip(a @ b / (lengths[0] * lengths[1]), -1.0, 1.0))


def _pearson(comparison: Comparison, origin: np.ndarray) -> float:
    if len(origin) < 2:
        return float("nan")
    a, b = (mean - origin for mean in comparison.means)
    return _cosine(a - a.mean(), b - b.mean(), origin)


class Metric(NamedTuple):
    """A row of `METRICS`: all that the table, the scale, the summary and the report know of a metric."""

    name: str
    of: Callable[[Comparison], float]
    best: float | None = 0.0  # of an exact prediction with any number of cells; None: to be calibrated, has no scale
    from_control: bool = False  # measures changes from the control: halves of the ceiling have controls of their own
    heading: str | None = None  # of its column in the summary; None: it has none
    form: str = "#.3g"  # of its numbers there
    max_cells: int | None = None  # that it uses of each sample
    bandwidth: Callable[[Reference], float] | None = None  # of its kernel; the column of this name
    # (reference, n_true, n_pred) -> standard deviation that an exact prediction has; the column of this name
    noise: Callable[[Reference, int, int], float] | None = None

    def __call__(self, comparison: Comparison) -> float:
        """Compute the metric; NaN where a value is NaN or infinite, which ranks and choices of features would hide."""
        return self.of(comparison) if comparison.are_numbers else math.nan


#: Name -> metric, in the order of the table of `evaluate`.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("energy_distance", energy_distance, heading="mean", noise=energy_noise),
        Metric("mmd", mmd, heading="mmd", bandwidth=lambda reference: reference.bandwidth),
        Metric("mean_l2", mean_l2, heading="mean l2"),
        Metric("r2_mean", r2_mean, best=1.0, heading="r2"),
        Metric("cosine_delta", cosine_delta, best=1.0, from_control=True),
        Metric("pearson_delta", pearson_delta, best=1.0, from_control=True, heading="pearson"),
        Metric("pearson_delta_centroid", pearson_delta_centroid, best=1.0),
        Metric("coverage_50", coverage(0.5), best=None, heading="in 50 %", form=".3f"),
        Metric("coverage_90", coverage(0.9), best=None, heading="in 90 %", form=".3f"),
        Metric("rank", rank, heading="rank", form=".3f"),
        Metric("mse", mse),
        Metric("mse_top20", mse_of_top(20)),
        Metric("mse_top100", mse_of_top(100)),
        Metric("pearson_delta_top20", pearson_of_top(20), best=1.0, from_control=True),
        Metric("pearson_delta_top100", pearson_of_top(100), best=1.0, from_control=True),
        Metric("de_overlap", de_overlap, best=1.0),
        Metric("de_direction", de_direction, best=1.0),
        Metric("wasserstein", wasserstein),
        Metric("correlation_error", correlation_error),
        Metric("p_value", p_value, best=None, heading="p", form=".3f", max_cells=P_VALUE_CELLS),
    )
}
