r"""How far a predicted sample is from the true one: one number each.

A metric is ``(predicted [n, d], true [m, d], context) -> float``. :math:`\mu_P, \mu_T` are the means of the two
samples, :math:`\mu_0` that of control. Where a metric is undefined (a correlation over one feature, a direction of
length zero) it is NaN, and so it is where a sample has a value that is NaN or infinite. Sums run in float64;
distance matrices in float32 after the true mean is subtracted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import cdist, pdist

from pdae_jax.cells import evenly_spaced
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.statistics import check_samples, two_sample_statistic

# Bandwidths of the MMD's Gaussian mixture, in units of the median distance between true cells.
MMD_SCALES = (0.5, 1.0, 2.0)
# Samples are padded to powers of two, at least this many rows: a handful of compilations for all sample sizes.
MIN_PADDED = 64
# Lengths below this share of what they are differences of count as zero.
ROUNDING = 1e-6


class Context(NamedTuple):
    """What a metric may know besides the two samples; the same for all methods."""

    control_mean: Float[np.ndarray, " d"]  # mean of the control cells
    centroid: Float[np.ndarray, " d"]  # mean of the means of the perturbed training conditions
    other_means: Float[np.ndarray, "others d"]  # true means of the other perturbed conditions
    bandwidth: float  # of the MMD: `median_distance` of the true cells


def energy_distance(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m _"], context: Context) -> float:
    r""":math:`2 E\|X-Y\| - E\|X-X'\| - E\|Y-Y'\|` (U form, beta 1): zero in expectation iff the laws agree."""
    return float(_energy(*padded_pair(predicted, true)))


def mmd(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m _"], context: Context) -> float:
    r""":math:`E k(X,X') + E k(Y,Y') - 2 E k(X,Y)` (U form), squared MMD of a Gaussian mixture kernel.

    :math:`k(x,y) = \tfrac13 \sum_{c \in \{1/2, 1, 2\}} \exp(-\|x-y\|^2 / 2 (c s)^2)` with `s` the bandwidth of the
    context, the median distance between TRUE cells: one kernel for all methods.
    """
    if not context.bandwidth > 0:
        return float("nan")
    bandwidths = jnp.asarray(MMD_SCALES) * context.bandwidth
    return float(_gaussian_mmd(*padded_pair(predicted, true), bandwidths))


def mean_l2(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    r""":math:`\|\mu_P - \mu_T\|`."""
    return float(np.linalg.norm(_mean(predicted) - _mean(true)))


def r2_mean(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    r""":math:`1 - \sum_j (\mu_{Tj} - \mu_{Pj})^2 / \sum_j (\mu_{Tj} - \overline{\mu_T})^2` over features `j`."""
    truth = _mean(true)
    spread = np.sum((truth - truth.mean()) ** 2)
    if spread <= np.sum((ROUNDING * truth) ** 2):
        return float("nan")
    return float(1.0 - np.sum((truth - _mean(predicted)) ** 2) / spread)


def cosine_delta(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    r"""Cosine of :math:`\mu_P - \mu_0` and :math:`\mu_T - \mu_0`."""
    return _cosine(_mean(predicted) - context.control_mean, _mean(true) - context.control_mean, context.control_mean)


def pearson_delta(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    r"""Pearson correlation over features of :math:`\mu_P - \mu_0` and :math:`\mu_T - \mu_0`."""
    return _pearson(_mean(predicted), _mean(true), context.control_mean)


def pearson_delta_centroid(
    predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context
) -> float:
    r"""Pearson correlation over features of :math:`\mu_P - c` and :math:`\mu_T - c`.

    `c` is the centroid of the perturbed training conditions' means: what all perturbations share earns nothing.
    """
    return _pearson(_mean(predicted), _mean(true), context.centroid)


def coverage_50(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    """Share of true values inside the predicted central 50 % interval, mean over features; 0.5 when calibrated."""
    return float(np.mean(coverage_by_feature(predicted, true, 0.5)))


def coverage_90(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    """Share of true values inside the predicted central 90 % interval, mean over features; 0.9 when calibrated."""
    return float(np.mean(coverage_by_feature(predicted, true, 0.9)))


def rank(predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], context: Context) -> float:
    r"""Share of the other perturbed conditions whose mean is nearer to :math:`\mu_P` than :math:`\mu_T` is.

    0 is best, 0.5 is chance, NaN when there is no other condition.
    """
    if len(context.other_means) == 0:
        return float("nan")
    mean = _mean(predicted)
    others, own = (cdist(mean[None], means)[0] for means in (context.other_means, _mean(true)[None]))
    return float(np.mean(others < own)) if np.isfinite(own).all() else float("nan")


#: Name -> ``(predicted, true, context) -> float``.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray, Context], float]] = {
    "energy_distance": energy_distance,
    "mmd": mmd,
    "mean_l2": mean_l2,
    "r2_mean": r2_mean,
    "cosine_delta": cosine_delta,
    "pearson_delta": pearson_delta,
    "pearson_delta_centroid": pearson_delta_centroid,
    "coverage_50": coverage_50,
    "coverage_90": coverage_90,
    "rank": rank,
}


def coverage_by_feature(
    predicted: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"], level: float
) -> Float[np.ndarray, " d"]:
    """Share of true values inside the predicted central interval (ends included), for every feature.

    Args:
        predicted: its quantiles at ``(1 - level) / 2`` and ``(1 + level) / 2`` span the interval.
        true: the cells counted.
        level: in (0, 1).
    """
    low, high = np.quantile(predicted, [0.5 - 0.5 * level, 0.5 + 0.5 * level], axis=0)
    inside = np.mean((true >= low) & (true <= high), axis=0)
    return np.where(np.isfinite(predicted).all(axis=0) & np.isfinite(true).all(axis=0), inside, np.nan)


def median_distance(true: Float[np.ndarray, "m d"], *, max_cells: int = 1000) -> float:
    """Median distance between distinct cells, over at most `max_cells` evenly spaced rows.

    The mean distance where the median is zero (most cells identical, as in sparse counts).
    """
    rows = evenly_spaced(len(true), max_cells)
    distances = pdist(true[rows].astype(np.float64))
    return float(np.median(distances) or np.mean(distances))


def padded_pair(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m _"]
) -> tuple[Float[Array, "n2 d"], Float[Array, "m2 d"], Float[Array, " n2"], Float[Array, " m2"]]:
    """Both samples centred at the mean of `y` and padded to fixed sizes, with weight 0 on the padding.

    Of a sample whose cells are all one profile two are kept: a U form of any of the kernels is the same with any
    number of them, and without a product of matrices to tell zero distances apart each of them costs a lot.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    check_samples(jnp.asarray(x), jnp.asarray(y))
    centre = _mean(y)
    x = x[:2] if np.all(x == x[0]) else x
    (x_rows, weights_x), (y_rows, weights_y) = _padded(x, centre), _padded(y, centre)
    return x_rows, y_rows, weights_x, weights_y


def _padded(x: np.ndarray, centre: np.ndarray) -> tuple[Array, Array]:
    size = max(MIN_PADDED, 1 << (len(x) - 1).bit_length())
    x = (x - centre).astype(np.float32)
    # padding sits at the sample's mean, which leaves the mean, hence rounding, as it was
    rows = np.concatenate([x, np.broadcast_to(x.mean(axis=0), (size - len(x), x.shape[1]))])
    return jnp.asarray(rows), jnp.asarray(np.arange(size) < len(x), dtype=jnp.float32)


@jax.jit
def _energy(x: Array, y: Array, weights_x: Array, weights_y: Array) -> Array:
    return two_sample_statistic(x, y, kernels.energy(1.0), weights_x=weights_x, weights_y=weights_y)


@jax.jit
def _gaussian_mmd(x: Array, y: Array, weights_x: Array, weights_y: Array, bandwidths: Array) -> Array:
    return two_sample_statistic(x, y, kernels.gaussian(bandwidths), weights_x=weights_x, weights_y=weights_y)


def _mean(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinities of both signs
        mean = x.mean(axis=0, dtype=np.float64)
    return np.where(np.isfinite(mean), mean, np.nan)


def _cosine(a: np.ndarray, b: np.ndarray, reference: np.ndarray) -> float:
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    # a difference of means this far below the means themselves is rounding, and has no direction
    if min(lengths) <= ROUNDING * max(*lengths, np.linalg.norm(reference)):
        return float("nan")
    return float(np.clip(a @ b / (lengths[0] * lengths[1]), -1.0, 1.0))


def _pearson(predicted_mean: np.ndarray, true_mean: np.ndarray, reference: np.ndarray) -> float:
    if len(reference) < 2:
        return float("nan")
    a, b = predicted_mean - reference, true_mean - reference
    return _cosine(a - a.mean(), b - b.mean(), reference)
