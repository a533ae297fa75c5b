"""Distances between two samples of any sizes, compiled for a handful of sizes.

Sums run in float64; distance matrices in float32, after the mean of the second sample is subtracted.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import pdist

from pdae_jax.cells import evenly_spaced
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.statistics import check_samples, two_sample_statistic

# Bandwidths of the MMD's Gaussian mixture, in units of the median distance between true cells.
MMD_SCALES = (0.5, 1.0, 2.0)
# Samples are padded to powers of two, at least this many rows: a handful of compilations for all sample sizes.
MIN_PADDED = 64


def energy(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m _"]) -> float:
    """Compute the energy distance, U form with exponent 1.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    return float(_energy(*padded_pair(x, y)))


def gaussian_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m _"], bandwidth: float) -> float:
    """Compute the squared MMD, U form, of a mixture of three Gaussian kernels; NaN where the bandwidth is not positive.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    if not bandwidth > 0:
        return float("nan")
    return float(_gaussian_mmd(*padded_pair(x, y), jnp.asarray(MMD_SCALES) * bandwidth))


def median_distance(true: Float[np.ndarray, "m d"], *, max_cells: int = 1000) -> float:
    """Find the median distance between distinct cells, over at most `max_cells` evenly spaced rows.

    The mean distance where the median is zero (most cells identical, as in sparse counts).
    """
    rows = evenly_spaced(len(true), max_cells)
    distances = pdist(true[rows].astype(np.float64))
    return float(np.median(distances) or np.mean(distances))


def padded_pair(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m _"]
) -> tuple[Float[Array, "n2 d"], Float[Array, "m2 d"], Float[Array, " n2"], Float[Array, " m2"]]:
    """Centre both samples at the mean of `y` and pad them to fixed sizes, with weight 0 on the padding.

    Of a sample whose cells are all one profile two are kept: a U form of any of the kernels is the same with any
    number of them, and without a product of matrices to tell zero distances apart each of them costs a lot.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    check_samples(jnp.asarray(x), jnp.asarray(y))
    centre = y.mean(axis=0, dtype=np.float64)
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
