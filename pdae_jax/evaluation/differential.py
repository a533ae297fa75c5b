r"""Metrics of differential expression, of single features and of their dependence, as reviewers of screens ask for.

A feature is *differential* in a sample of cells where Welch's t-test against control cells finds it at a false
discovery rate of 5 % (Benjamini-Hochberg over features). Everything is computed in the space of the data that were
fitted: for log-normalised counts that of :math:`\log(1 + \text{counts per } 10{,}000)`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.05  # false discovery rate
CORRELATED_FEATURES = 100  # the true cells' most variable ones
CONTROL_CELLS = 2000  # of a t-test, at most


class Differential(NamedTuple):
    """How features of a sample differ from the control's, by Welch's t-test."""

    order: Int[np.ndarray, " features"]  # from the largest to the smallest size of t
    significant: Bool[np.ndarray, " features"]
    change: Float[np.ndarray, " features"]  # of the mean
    p_adjusted: Float[np.ndarray, " features"]  # Benjamini-Hochberg over features


class Summary(NamedTuple):
    """What Welch's t-test asks of a sample of cells."""

    number: int
    mean: Float[np.ndarray, " features"]
    variance: Float[np.ndarray, " features"]  # of a cell

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"]) -> "Summary":
        """Of cells, at least two; the variance is the unbiased one."""
        return cls(len(x), x.mean(axis=0, dtype=np.float64), x.var(axis=0, ddof=1, dtype=np.float64))


def differential(x: Summary, control: Summary) -> Differential:
    """Features of cells against those of control cells; ones that are constant in both do not differ."""
    import scipy.stats  # takes as long to import as JAX

    # of the means; by hand, where SciPy's test warns of samples that are constant, as of a prediction without a spread
    own, other = (sample.variance / sample.number for sample in (x, control))
    change, variance = x.mean - control.mean, own + other
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(change == 0, 0.0, np.abs(change) / np.sqrt(variance))
        freedom = variance**2 / (own**2 / (x.number - 1) + other**2 / (control.number - 1))
        p = 2 * scipy.stats.t.sf(t, np.nan_to_num(freedom, nan=np.inf))
    adjusted = scipy.stats.false_discovery_control(p)
    return Differential(np.argsort(-t, kind="stable"), adjusted <= LEVEL, change, adjusted)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What the metrics of this module are computed from."""

    predicted: Float[np.ndarray, "n d"]
    true: Float[np.ndarray, "m d"]
    control: Summary
    true_change: Differential  # of `true`

    @functools.cached_property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        return self.predicted.mean(axis=0, dtype=np.float64), self.true.mean(axis=0, dtype=np.float64)

    @functools.cached_property
    def are_numbers(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(np.isfinite(self.predicted).all() and np.isfinite(self.true).all())


def mse(samples: Samples) -> float:
    r"""Mean over features of :math:`(\mu_P - \mu_T)^2`."""
    predicted, true = samples.means
    return float(np.mean((predicted - true) ** 2))


def mse_of_top(number: int) -> Callable[[Samples], float]:
    """`mse` over the features that differ most in the true cells, by the size of t; NaN where there are no more."""

    def metric(samples: Samples) -> float:
        predicted, true = (mean[samples.true_change.order[:number]] for mean in samples.means)
        return float(np.mean((predicted - true) ** 2)) if samples.true.shape[1] > number else float("nan")

    return metric


def pearson_of_top(number: int) -> Callable[[Samples], float]:
    """Pearson correlation of the changes of the means over these features."""

    def metric(samples: Samples) -> float:
        rows = samples.true_change.order[:number]
        predicted, true = ((mean - samples.control.mean)[rows] for mean in samples.means)
        if samples.true.shape[1] <= number or min(np.ptp(predicted), np.ptp(true)) == 0:
            return float("nan")
        return float(np.corrcoef(predicted, true)[0, 1])

    return metric


def de_overlap(samples: Samples) -> float:
    """Share of the N truly differential features among the N of the prediction with the largest t; NaN for N = 0."""
    number = int(samples.true_change.significant.sum())
    if number == 0:
        return float("nan")
    predicted = differential(Summary.of(samples.predicted), samples.control).order[:number]
    return float(np.mean(samples.true_change.significant[predicted]))


def de_direction(samples: Samples) -> float:
    """Share of the truly differential features whose mean is predicted to change in the right direction."""
    rows = samples.true_change.significant
    if not rows.any():
        return float("nan")
    change = samples.means[0] - samples.control.mean
    return float(np.mean(np.sign(change[rows]) == np.sign(samples.true_change.change[rows])))


def wasserstein(samples: Samples) -> float:
    r"""Mean over features of :math:`W_1`, the area between the two quantile functions of a feature."""
    return float(np.mean(wasserstein_by_feature(samples.predicted, samples.true)))


def wasserstein_by_feature(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " d"]:
    """:math:`W_1` of each feature."""
    x, y = np.sort(x, axis=0).astype(np.float64), np.sort(y, axis=0).astype(np.float64)
    # the quantile functions are constant between these levels
    levels = np.union1d(np.arange(1, len(x) + 1) / len(x), np.arange(1, len(y) + 1) / len(y))
    widths = np.diff(levels, prepend=0.0)
    middle = levels - widths / 2
    difference = x[(middle * len(x)).astype(int)] - y[(middle * len(y)).astype(int)]
    return widths @ np.abs(difference)


def correlation_error(samples: Samples) -> float:
    """Root mean square difference of the correlations between features: what distances of means and marginals miss.

    Over pairs of the 100 features that vary most in the true cells. Samples of few cells differ by chance;
    ``oracle_half`` says by how much.
    """
    spread = samples.true.var(axis=0, dtype=np.float64)
    rows = np.argsort(-spread, kind="stable")[:CORRELATED_FEATURES]
    rows = rows[spread[rows] > 0]
    if len(rows) < 2:
        return float("nan")
    difference = correlations(samples.predicted[:, rows]) - correlations(samples.true[:, rows])
    return float(np.sqrt(np.mean(difference[np.triu_indices(len(rows), 1)] ** 2)))


def correlations(x: Float[np.ndarray, "cells d"]) -> Float[np.ndarray, "d d"]:
    """Pearson correlations; 0 with a feature that is constant."""
    x = x - x.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(x, axis=0)
    x = x / np.where(length > 0, length, 1.0)
    return x.T @ x


def _of_numbers(metric: Callable[[Samples], float]) -> Callable[[Samples], float]:
    """The metric, NaN where a value is NaN or infinite: features that it ranks or leaves out would hide it."""
    return lambda samples: metric(samples) if samples.are_numbers else float("nan")


#: Name -> function of `Samples`.
FIELD_METRICS: dict[str, Callable[[Samples], float]] = {
    name: _of_numbers(metric)
    for name, metric in {
        "mse": mse,
        "mse_top20": mse_of_top(20),
        "mse_top100": mse_of_top(100),
        "pearson_delta_top20": pearson_of_top(20),
        "pearson_delta_top100": pearson_of_top(100),
        "de_overlap": de_overlap,
        "de_direction": de_direction,
        "wasserstein": wasserstein,
        "correlation_error": correlation_error,
    }.items()
}
