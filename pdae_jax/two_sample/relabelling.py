r"""Statistics of two samples under many relabellings of their cells: what the tests of equal laws share.

All relabellings act on one matrix :math:`D` of dissimilarities of the pooled cells. With :math:`s` the 0/1 membership
of a relabelled first sample, the sums within and across are quadratic forms,

.. math:: \sum_{i,j \in X} D_{ij} = s^\top D s, \quad \sum_{i \in X, j \in Y} D_{ij} = s^\top D 1 - s^\top D s,

so that one matrix product :math:`S D` serves all of them. Labels are drawn on the host, because XLA permutes by
sorting, which takes most of a second on a CPU; sizes are padded and masked, so that samples share compilations.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.two_sample.samples import SampleLike
from pdae_jax.two_sample.statistics import checked_samples
from pdae_jax.two_sample.units import unit_on_host
from pdae_jax.types import AnyArray

# Pooled samples are padded to a power of two, at least this many rows, so that sizes share compilations.
MIN_PADDED = 64
# Column blocks of a quadratic form: those left of the diagonal are never computed, which saves 3/8 of the products.
NUM_BLOCKS = 4
# Rows of labels drawn at once, in 8-byte numbers, which NumPy permutes twice as fast as 4-byte ones.
LABELS_AT_ONCE = 256
# Statistics closer than this share of the mean absolute (centred) dissimilarity are ties up to rounding.
TIE = 1e-6


# --- on the host ---------------------------------------------------------------------------------------------------


def checked_pair(x: SampleLike, y: SampleLike, max_cells: int | None, pad_to: int | None) -> tuple[AnyArray, AnyArray]:
    """Check what users pass as two samples, as finite ones of one dimension that fit into `pad_to` rows.

    Raises:
        ValueError, TypeError: they are not.
    """
    x, y = checked_samples(x, y)
    if max_cells is not None and max_cells < 2:
        raise ValueError(f"max_cells={max_cells}, but it must be at least 2, or None for all cells.")
    n, m = (len(sample) if max_cells is None else min(len(sample), max_cells) for sample in (x, y))
    if pad_to is not None and n + m > pad_to:
        raise ValueError(
            f"pad_to={pad_to}, but the pooled sample has {n} + {m} cells. Pass pad_to={n + m} or more, "
            f"or max_cells={pad_to // 2} or less."
        )
    for name, sample in (("x", x), ("y", y)):
        bad = np.argwhere(~np.isfinite(np.asarray(sample)))
        if len(bad):
            row, column = bad[0]
            raise ValueError(
                f"{name}[{row}, {column}] is {sample[row, column]}. A two-sample test needs finite values: drop "
                f"those cells or features first."
            )
    return x, y


def centred_samples(
    random: np.random.Generator, x: Float[AnyArray, "n d"], y: Float[AnyArray, "m d"], max_cells: int | None
) -> tuple[Float[np.ndarray, "n_used d"], Float[np.ndarray, "m_used d"], float]:
    """Return both samples, at most `max_cells` random rows of each, less the mean of the pool, over their unit; and
    that unit.

    In float64, before distances are taken in float32: an offset would cost accuracy, and squares may have no number.
    """
    x, y = (np.asarray(sample, dtype=np.float64) for sample in (x, y))
    if max_cells is not None:
        x, y = (s if len(s) <= max_cells else s[random.permutation(len(s))[:max_cells]] for s in (x, y))
    pooled = np.concatenate([x, y])
    pooled -= pooled.mean(axis=0)
    unit = unit_on_host(pooled)
    return pooled[: len(x)] / unit, pooled[len(x) :] / unit, unit


def padded_size(num_cells: int, pad_to: int | None) -> int:
    """Return rows that a pooled sample is padded to: `pad_to`, or the next power of two."""
    return max(MIN_PADDED, 1 << (num_cells - 1).bit_length()) if pad_to is None else pad_to


def padded_rows(cells: Float[np.ndarray, "cells d"], size: int) -> Float[np.ndarray, "size d"]:
    """Append zero rows, in float32."""
    return np.pad(cells.astype(np.float32), ((0, size - len(cells)), (0, 0)))


def draw_members(
    random: np.random.Generator, n: int, m: int, num_draws: int, size: int
) -> Float[np.ndarray, "labels size"]:
    """Draw 0/1 memberships of the first sample among `n + m` rows: row 0 as observed, then `num_draws` permutations."""
    member = np.zeros((1 + num_draws, size), dtype=np.float32)
    member[:, :n] = 1.0
    for start in range(1, 1 + num_draws, LABELS_AT_ONCE):
        rows = member[start : start + LABELS_AT_ONCE, : n + m]
        rows[:] = random.permuted(rows.astype(np.float64), axis=1)
    return member


def draw_signs(random: np.random.Generator, n: int, num_draws: int, size: int) -> Float[np.ndarray, "labels size"]:
    """Draw Rademacher signs of `n` pairs: row 0 all one, as observed; zeros are padding."""
    sign = np.zeros((1 + num_draws, size), dtype=np.float32)
    sign[0, :n] = 1.0
    sign[1:, :n] = 2.0 * random.integers(0, 2, size=(num_draws, n), dtype=np.int8) - 1.0
    return sign


# --- on the device -------------------------------------------------------------------------------------------------


def unbiased_statistics(
    dissimilarity: Float[Array, "size size"],
    member: Float[Array, "labels size"],
    n: Float[Array, ""],
    m: Float[Array, ""],
) -> tuple[Float[Array, " labels"], Float[Array, ""]]:
    r"""Return statistics of permuted labels, U form, and the difference up to which two of them are ties.

    .. math:: 2\,\overline{D}_{XY} - \overline{D}_{XX} - \overline{D}_{YY}

    with means over distinct cells. The first `n + m` rows count.
    """
    position = jnp.arange(dissimilarity.shape[0])
    valid = position < n + m
    distinct = valid[:, None] & valid[None, :] & (position[:, None] != position[None, :])
    pairs = (n + m) * (n + m - 1)
    # a constant taken off all pairs of distinct cells cancels in the statistic, and leaves sums that round less
    mean = jnp.sum(jnp.where(distinct, dissimilarity, 0.0)) / pairs
    centred = jnp.where(distinct, dissimilarity - mean, 0.0)
    row_sum = jnp.sum(centred, axis=1)
    within_x = quadratic_forms(member, centred)
    cross = jnp.matmul(member, row_sum, precision=jax.lax.Precision.HIGHEST) - within_x
    within_y = jnp.sum(row_sum) - within_x - 2.0 * cross
    statistic = 2.0 * cross / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))
    return statistic, TIE * jnp.sum(jnp.abs(centred)) / pairs


def paired_statistics(
    dissimilarity: Float[Array, "size size"], sign: Float[Array, "labels half"], n: Float[Array, ""]
) -> tuple[Float[Array, " labels"], Float[Array, ""]]:
    r"""Return statistics of swapped pairs (wild bootstrap), and the difference up to which two of them are ties.

    .. math:: \frac{1}{n (n-1)} \sum_{i \ne j} \varepsilon_i \varepsilon_j
        \left(D_{x_i y_j} + D_{y_i x_j} - D_{x_i x_j} - D_{y_i y_j}\right)

    A sign of -1 swaps the cells of a pair. The first `half` rows are x, the others y; the first `n` of each count.
    """
    half = sign.shape[1]
    cross = dissimilarity[:half, half:]
    core = cross + cross.T - dissimilarity[:half, :half] - dissimilarity[half:, half:]
    position = jnp.arange(half)
    valid = position < n
    core = jnp.where(valid[:, None] & valid[None, :] & (position[:, None] != position[None, :]), core, 0.0)
    pairs = n * (n - 1)
    return quadratic_forms(sign, core) / pairs, TIE * jnp.sum(jnp.abs(core)) / pairs


def quadratic_forms(s: Float[Array, "labels size"], matrix: Float[Array, "size size"]) -> Float[Array, " labels"]:
    r"""Return :math:`s^\top D s` of every row of `s`, for a symmetric matrix."""
    edges = [matrix.shape[0] * block // NUM_BLOCKS for block in range(NUM_BLOCKS + 1)]
    total = jnp.zeros(s.shape[0], s.dtype)
    for start, stop in itertools.pairwise(edges):
        # HIGHEST: accelerators would otherwise round the products to 10 or fewer bits
        product = jnp.matmul(s[:, start:stop], matrix[start:stop, start:stop], precision=jax.lax.Precision.HIGHEST)
        if start:
            above = jnp.matmul(s[:, :start], matrix[:start, start:stop], precision=jax.lax.Precision.HIGHEST)
            product = product + 2.0 * above
        total = total + jnp.sum(product * s[:, start:stop], axis=1)
    return total
