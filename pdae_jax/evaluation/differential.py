"""Differential features: those whose mean differs between cells and control cells, by Welch's t-test."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.05  # false discovery rate
CONTROL_CELLS = 2000  # of a t-test, at most


class Differential(NamedTuple):
    """Differences of a sample's features from the control's, by Welch's t-test."""

    order: Int[np.ndarray, " features"]  # from the largest to the smallest size of t
    significant: Bool[np.ndarray, " features"]
    change: Float[np.ndarray, " features"]  # of the mean
    p_adjusted: Float[np.ndarray, " features"]  # Benjamini-Hochberg over features


class Summary(NamedTuple):
    """Moments of a sample of cells that Welch's t-test asks for."""

    number: int
    mean: Float[np.ndarray, " features"]
    variance: Float[np.ndarray, " features"]  # of a cell

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"]) -> "Summary":
        """Summarise cells, at least two; the variance is the unbiased one."""
        return cls(len(x), x.mean(axis=0, dtype=np.float64), x.var(axis=0, ddof=1, dtype=np.float64))


def differential(x: Summary, control: Summary) -> Differential:
    """Test every feature of cells against control cells; ones that are constant in both do not differ.

    Welch, Biometrika 34, 1947; the false discovery rate of Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995.
    """
    import scipy.stats  # takes as long to import as JAX

    own, other = (sample.variance / sample.number for sample in (x, control))  # of the means
    t = _sizes_of_t(x, control)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (own + other) ** 2 / (own**2 / (x.number - 1) + other**2 / (control.number - 1))
        p = 2 * scipy.stats.t.sf(t, np.nan_to_num(freedom, nan=np.inf))
    adjusted = scipy.stats.false_discovery_control(p)
    return Differential(np.argsort(-t, kind="stable"), adjusted <= LEVEL, x.mean - control.mean, adjusted)


def most_different(x: Summary, control: Summary) -> Int[np.ndarray, " features"]:
    """Order features from the largest to the smallest size of t: the part of `differential` that takes no time."""
    return np.argsort(-_sizes_of_t(x, control), kind="stable")


def _sizes_of_t(x: Summary, control: Summary) -> Float[np.ndarray, " features"]:
    """Welch's t; by hand, as SciPy's test warns of samples that are constant, as of a prediction without a spread."""
    change, variance = x.mean - control.mean, x.variance / x.number + control.variance / control.number
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(change == 0, 0.0, np.abs(change) / np.sqrt(variance))
