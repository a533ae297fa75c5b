r"""Permutation test of two samples: is a predicted sample distinguishable from the true one?

All permutations act on one pooled matrix of dissimilarities `D`. With `s` the 0/1 membership of a relabelled first
sample, its sums within and across are quadratic forms: :math:`s^\top D s`, :math:`s^\top D 1 - s^\top D s`. One
matrix product `S D` serves all permutations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax import kernels
from pdae_jax.kernels import Kernel, squared_distances
from pdae_jax.losses import check_samples

# Pooled samples are padded to a power of two, at least this many rows, so that sizes share compilations.
MIN_PADDED = 64


class TwoSampleTest(NamedTuple):
    """Outcome of `two_sample_test`."""

    statistic: float  # U form
    p_value: float  # in [1 / (1 + permutations), 1]
    null: Float[np.ndarray, " permutations"]  # statistics of relabelled cells
    n: int  # cells of x used
    m: int  # cells of y used


def two_sample_test(
    x: Float[Array | np.ndarray, "n d"],
    y: Float[Array | np.ndarray, "m _"],
    *,
    key: Array,
    num_permutations: int = 999,
    kernel: Kernel | None = None,
    max_cells: int | None = None,
) -> TwoSampleTest:
    r"""Permutation test of equal laws, with the energy distance or an MMD as statistic (U form).

    .. math:: p = (1 + \#\{T_b \ge T\}) / (1 + B)

    has level exactly `p` or less under exchangeable cells, at any sample size (Phipson & Smyth 2010). Time and memory
    grow with the square of the number of cells.

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        key: typed PRNG key of the permutations and the subsamples.
        num_permutations: B.
        kernel: a function of `pdae_jax.kernels`; default ``energy(1.0)``.
        max_cells: larger samples are subsampled to this many cells, each by itself.

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows or a value that is not finite, or
            `num_permutations` or `max_cells` is too small.
    """
    _check(x, y, num_permutations, max_cells)
    # NumPy's generator: XLA permutes by sorting, which takes most of a second here on a CPU
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    x, y = _subsample(random, x, max_cells), _subsample(random, y, max_cells)
    n, m = len(x), len(y)
    pooled = np.concatenate([x, y])
    pooled = pooled - pooled.mean(axis=0)  # in float64, before distances are taken in float32
    size = max(MIN_PADDED, 1 << (n + m - 1).bit_length())
    rows = jnp.asarray(np.pad(pooled, ((0, size - n - m), (0, 0))).astype(np.float32))
    dissimilarity = (kernel or kernels.energy(1.0))(squared_distances(rows, rows))
    member = np.zeros((1 + num_permutations, size), dtype=np.float32)  # row 0: as observed
    member[:, :n] = 1.0
    member[1:, : n + m] = random.permuted(member[1:, : n + m], axis=1)
    statistics, rounding = _statistics(dissimilarity, jnp.asarray(member), jnp.float32(n), jnp.float32(m))
    statistics = np.asarray(statistics, dtype=np.float64)
    # relabellings that are the observed one must count as ties, whatever their rounding
    exceeding = np.sum(statistics[1:] >= statistics[0] - float(rounding))
    p_value = (1 + exceeding) / (1 + num_permutations)
    return TwoSampleTest(float(statistics[0]), float(p_value), statistics[1:], n, m)


def benjamini_hochberg(p_values: Float[np.ndarray, " tests"] | Sequence[float]) -> Float[np.ndarray, " tests"]:
    r"""Adjusted p-values; those at most `q` are the discoveries at false discovery rate `q`.

    .. math:: \tilde p_{(i)} = \min_{j \ge i} \min(1, p_{(j)} M / j)

    for the sorted p-values (Benjamini & Hochberg, JRSS B 1995).

    Raises:
        ValueError: a p-value outside [0, 1] or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    bad = ~((p >= 0) & (p <= 1))
    if p.ndim != 1 or bad.any():
        found = f"values {p[bad][:5].tolist()}" if p.ndim == 1 else f"shape {p.shape}"
        raise ValueError(f"p_values has {found}. Pass one p-value in [0, 1] per test, without NaN.")
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def _check(x: Array | np.ndarray, y: Array | np.ndarray, num_permutations: int, max_cells: int | None) -> None:
    check_samples(jnp.asarray(x), jnp.asarray(y))
    for name, sample in (("x", x), ("y", y)):
        bad = np.argwhere(~np.isfinite(np.asarray(sample)))
        if len(bad):
            row, column = bad[0]
            raise ValueError(
                f"{name}[{row}, {column}] is {sample[row, column]}. A two-sample test needs finite values: drop "
                f"those cells or features first."
            )
    if num_permutations < 1:
        raise ValueError(f"num_permutations={num_permutations}, but it must be at least 1; 999 gives p >= 0.001.")
    if max_cells is not None and max_cells < 2:
        raise ValueError(f"max_cells={max_cells}, but it must be at least 2, or None for all cells.")


def _subsample(random: np.random.Generator, x: Array | np.ndarray, max_cells: int | None) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x if max_cells is None or len(x) <= max_cells else x[random.permutation(len(x))[:max_cells]]


@jax.jit
def _statistics(
    dissimilarity: Float[Array, "size size"], member: Float[Array, "labelings size"], n: Array, m: Array
) -> tuple[Float[Array, " labelings"], Float[Array, ""]]:
    """Statistic of each 0/1 labelling of the first n + m rows, and what counts as rounding."""
    position = jnp.arange(dissimilarity.shape[0])
    valid = position < n + m
    distinct = valid[:, None] & valid[None, :] & (position[:, None] != position[None, :])
    mean = jnp.sum(jnp.where(distinct, dissimilarity, 0.0)) / jnp.sum(distinct, dtype=jnp.float32)
    # a constant taken off all pairs of distinct cells cancels in the statistic, and leaves sums that round less
    centred = jnp.where(distinct, dissimilarity - mean, 0.0)
    to_x = jnp.matmul(member, centred, precision=jax.lax.Precision.HIGHEST)
    within_x = jnp.sum(to_x * member, axis=1)
    cross = jnp.sum(to_x * valid, axis=1) - within_x
    within_y = jnp.sum(centred) - within_x - 2.0 * cross
    statistic = 2.0 * cross / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))
    return statistic, 1e-6 * mean
