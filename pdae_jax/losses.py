r"""Two-sample statistics and scores.

Every statistic says whether it is the U form (unbiased, pairs of distinct cells) or the V form (all pairs; biased
by about `E h(X, X') / n`). The U form can be slightly negative: that is correct. Scores compare a predicted law with
observations (Gneiting & Raftery, JASA 2007); they are smallest, in expectation, for the right law.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pdae_jax import kernels
from pdae_jax.kernels import Kernel, squared_distances
from pdae_jax.types import AnyArray

# Elements of one tile of the distance matrix: 16 MB in float32, so that it stays near the processor.
TILE_ELEMENTS = 2**22


# --- two-sample statistics -----------------------------------------------------------------------------------------


def energy_distance(
    x: Float[AnyArray, "n d"], y: Float[AnyArray, "m _"], *, beta: float = 1.0, unbiased: bool = True
) -> Float[Array, ""]:
    r"""Energy distance between two samples.

    .. math:: 2\,E\|X-Y\|^\beta - E\|X-X'\|^\beta - E\|Y-Y'\|^\beta

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        beta: exponent in (0, 2).
        unbiased: U form (default) or V form.

    Returns:
        Scalar. Zero in expectation (U form) iff the laws agree (Szekely & Rizzo, 2013).

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or beta is outside (0, 2).
    """
    return two_sample_statistic(x, y, kernels.energy(beta), unbiased=unbiased)


def mmd2(
    x: Float[AnyArray, "n d"], y: Float[AnyArray, "m _"], *, kernel: Kernel | None = None, unbiased: bool = True
) -> Float[Array, ""]:
    r"""Squared maximum mean discrepancy, :math:`E k(X,X') + E k(Y,Y') - 2 E k(X,Y)` (Gretton et al., JMLR 2012).

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        kernel: a function of `pdae_jax.kernels`; default Gaussian at half, one and two times the median distance
            in the pooled sample (median over at most 1,000 cells of it).
        unbiased: U form (default) or V form.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    check_samples(x, y)
    if kernel is None:
        pooled = jnp.concatenate([jnp.asarray(x), jnp.asarray(y)])
        median = kernels.median_bandwidth(jax.random.key(0), pooled)
        kernel = kernels.gaussian(jnp.array([0.5, 1.0, 2.0]) * median)
    return two_sample_statistic(x, y, kernel, unbiased=unbiased)


def two_sample_statistic(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m _"],
    kernel: Kernel,
    *,
    weights_x: Float[Array, " n"] | None = None,
    weights_y: Float[Array, " m"] | None = None,
    unbiased: bool = True,
) -> Float[Array, ""]:
    r""":math:`2 E h(X,Y) - E h(X,X') - E h(Y,Y')` for any kernel, in tiles: memory O(tile + (n + m) d).

    Weights need not sum to one; zero weights mask rows, so that one compiled shape serves many sample sizes.
    """
    check_samples(x, y)
    x, y = jnp.asarray(x), jnp.asarray(y)
    centre = jax.lax.stop_gradient(0.5 * (jnp.mean(x, 0) + jnp.mean(y, 0)))
    x, y = x - centre, y - centre
    w_x = jnp.ones(x.shape[0], x.dtype) if weights_x is None else weights_x
    w_y = jnp.ones(y.shape[0], y.dtype) if weights_y is None else weights_y
    cross = _mean_dissimilarity(x, y, w_x, w_y, kernel)
    within_x = _mean_dissimilarity(x, x, w_x, w_x, kernel, itself=True) * _u_factor(w_x, unbiased)
    within_y = _mean_dissimilarity(y, y, w_y, w_y, kernel, itself=True) * _u_factor(w_y, unbiased)
    return 2.0 * cross - within_x - within_y


def _u_factor(weights: Array, unbiased: bool) -> Array | float:
    """From the mean over all pairs (V) to that over distinct pairs (U); n / (n - 1) for equal weights."""
    if not unbiased:
        return 1.0
    total = jnp.sum(weights)
    return total**2 / (total**2 - jnp.sum(weights**2))


def _mean_dissimilarity(x: Array, y: Array, w_x: Array, w_y: Array, kernel: Kernel, itself: bool = False) -> Array:
    """Weighted mean of h over all pairs, one tile of rows of x at a time; h of a cell to itself is exactly 0."""
    n, m = x.shape[0], y.shape[0]
    rows = max(1, min(n, TILE_ELEMENTS // m))
    num_tiles = math.ceil(n / rows)
    pad = num_tiles * rows - n
    x_tiles = jnp.pad(x, ((0, pad), (0, 0))).reshape(num_tiles, rows, -1)
    w_tiles = jnp.pad(w_x, (0, pad)).reshape(num_tiles, rows)

    def one_tile(start: Array, x_tile: Array, w_tile: Array) -> Array:
        sq = squared_distances(x_tile, y)
        if itself:  # rounding must not leave a distance between a cell and itself
            sq = jnp.where(start + jnp.arange(rows)[:, None] == jnp.arange(m)[None, :], 0.0, sq)
        return w_tile @ (kernel(sq) @ w_y)

    starts = rows * jnp.arange(num_tiles)
    if num_tiles == 1:
        total = one_tile(starts[0], x_tiles[0], w_tiles[0])
    else:
        # checkpoint: the backward pass recomputes a tile instead of keeping all of them
        total = jnp.sum(jax.lax.map(lambda args: jax.checkpoint(one_tile)(*args), (starts, x_tiles, w_tiles)))
    return total / (jnp.sum(w_x) * jnp.sum(w_y))


def check_samples(x: AnyArray, y: AnyArray) -> None:
    """Two samples ``[n, d]`` and ``[m, d]`` with n, m >= 2; ``ValueError`` otherwise."""
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim != 2 or sample.shape[0] < 2:
            raise ValueError(
                f"Sample {name} has shape {tuple(sample.shape)}; a two-sample statistic needs [cells >= 2, features]."
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features but y has {y.shape[1]}. Pass the same features, in one order.")


# --- scores --------------------------------------------------------------------------------------------------------


def energy_score(samples: Float[AnyArray, "m d"], y: Float[AnyArray, "n _"], *, beta: float = 1.0) -> Float[Array, ""]:
    r"""Energy score of a predicted sample against observations, mean over the observations (U form).

    .. math:: E\|X - y\|^\beta - \tfrac12 E\|X - X'\|^\beta

    Strictly proper: in expectation smallest when the samples follow the law of `y` (Gneiting & Raftery 2007).

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or beta is outside (0, 2).
    """
    check_samples(samples, y)
    return kernel_score(jnp.asarray(samples), jnp.asarray(y), kernels.energy(beta))


def kernel_score(
    samples: Float[Array, "*batch m d"], y: Float[Array, "*batch n d"], kernel: Kernel
) -> Float[Array, "*batch"]:
    """`energy_score` for any kernel, over leading batch axes; whole distance matrices, for training batches."""
    m = samples.shape[-2]
    cross = jnp.mean(kernel(squared_distances(samples, y)), axis=(-2, -1))
    distinct = ~jnp.eye(m, dtype=bool)
    within = kernel(jnp.where(distinct, squared_distances(samples, samples), 0.0))
    return cross - 0.5 * jnp.sum(within, axis=(-2, -1)) / (m * (m - 1))


def grouped_score(
    decoded: Float[Array, "labels cells d"], x: Float[Array, "cells d"], group: Int[Array, " cells"], kernel: Kernel
) -> Float[Array, ""]:
    r"""Every cell of a batch as its own target, computed once per distinct label.

    The ungrouped loss scores cell `i` against the translations of all other cells `j != i` to `i`'s label:
    `B x B` decodes and `B x B x B` distances for a batch of `B`. Cells with one label share those decodes. With
    :math:`D_e` the dissimilarities among cells decoded to label `e` and :math:`r_e[j] = \sum_k D_e[j,k]`, the
    diversity term of all cells `i` of `e` is :math:`n_e \sum_j r_e[j] - 2 \sum_{i \in e} r_e[i]`.

    Args:
        decoded: all cells of the batch translated to each distinct label.
        x: the cells themselves.
        group: index into the distinct labels, per cell.
        kernel: a function of `pdae_jax.kernels`.
    """
    num_labels, num_cells, _ = decoded.shape
    others = num_cells - 1
    member = jax.nn.one_hot(group, num_labels, dtype=decoded.dtype).T  # [labels, cells]
    cross = kernel(squared_distances(decoded, jnp.broadcast_to(x, (num_labels, *x.shape))))  # [labels, source, target]
    own = jnp.diagonal(cross, axis1=-2, axis2=-1)  # a cell does not predict itself
    attraction = jnp.sum(member * (jnp.sum(cross, axis=-2) - own)) / others
    distinct = ~jnp.eye(num_cells, dtype=bool)
    row_sums = jnp.sum(kernel(jnp.where(distinct, squared_distances(decoded, decoded), 0.0)), axis=-1)
    diversity = jnp.sum(jnp.sum(member, axis=1) * jnp.sum(row_sums, axis=1)) - 2.0 * jnp.sum(member * row_sums)
    return (attraction - 0.5 * diversity / (others * (others - 1))) / num_cells
