r"""Sums over matrices of distances, in NumPy: means of a distance and a kernel, and statistics of relabelled cells.

The Gaussian kernels have bandwidths half, one and two times `s`: with :math:`e = \exp(-r^2 / 8 s^2)` their sum is
:math:`e + e^4 + e^{16}`, one exponential for all three. The algebra of relabelling is that of `relabelling`.
"""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.two_sample.relabelling import NUM_BLOCKS, TIE

Block = tuple[slice, Float[np.ndarray, "rows columns"]]  # of a matrix within a sample, see `triangle`


class Means(NamedTuple):
    """Over pairs of distinct cells."""

    distance: float
    kernel: float  # the Gaussian mixture; NaN where it has no bandwidth


# --- means ----------------------------------------------------------------------------------------------------------


def means_within(blocks: Iterable[Block], number: int, scale: float) -> Means:
    """Average over pairs of distinct cells of a sample."""
    total = np.zeros(2)
    for rows, block in blocks:
        own = rows.stop - rows.start
        total += _sums(block[:, :own], scale) + 2.0 * _sums(block[:, own:], scale)
    return Means(*map(float, (total - [0.0, number]) / (number * (number - 1))))  # a cell's kernel with itself is 1


def means_across(rows: Iterable[Float[np.ndarray, "rows m"]], pairs: int, scale: float) -> Means:
    """Average over the pairs of two samples."""
    return Means(*map(float, sum((_sums(block, scale) for block in rows), start=np.zeros(2)) / pairs))


def _sums(distances: Float[np.ndarray, "n m"], scale: float) -> Float[np.ndarray, "2"]:
    """Sums of the distances and of the kernel."""
    return np.array([sum_of(distances), sum_of(mixture(distances, scale)) if scale > 0 else math.nan])


def sum_of(matrix: Float[np.ndarray, "n m"]) -> float:
    """Sum pairs in float32 within a row, in float64 over rows."""
    return float(np.sum(np.sum(matrix, axis=1), dtype=np.float64))


def sums_of_halves(
    matrix: np.ndarray, first: np.ndarray, second: np.ndarray, rows: slice, half: int
) -> Float[np.ndarray, " halvings"]:
    """Add up a block for the U form of each pair of halves; pairs beyond its own rows stand for two."""
    own, columns = rows.stop - rows.start, slice(rows.start, None)
    of_first, of_second = first[:, rows] @ matrix, second[:, rows] @ matrix
    times = np.where(np.arange(matrix.shape[1]) < own, 1.0, 2.0)
    within = (of_first * first[:, columns] + of_second * second[:, columns]) @ times
    across = np.sum(of_first * second[:, columns], axis=1) + np.sum((of_second * first[:, columns])[:, own:], axis=1)
    return 2.0 * across / half**2 - within / (half * (half - 1))


def mixture(distances: Float[np.ndarray, "n m"], scale: float) -> Float[np.ndarray, "n m"]:
    """Average Gaussian kernels of bandwidths half, one and two times `scale`."""
    e = distances * np.float32(1 / (math.sqrt(8.0) * scale))
    with np.errstate(over="ignore"):  # far beyond the bandwidth
        np.exp(np.negative(np.square(e, out=e), out=e), out=e)
    total = e.copy()
    for _ in range(2):
        np.square(np.square(e, out=e), out=e)
        total += e
    total /= 3
    return total


# --- relabellings ---------------------------------------------------------------------------------------------------


def centred(distances: Float[np.ndarray, "n m"], offset: float) -> Float[np.ndarray, "n m"]:
    """Subtract a constant from pairs of distinct cells: it cancels in a statistic, and sums round less."""
    found = distances - np.float32(offset)
    np.fill_diagonal(found, 0.0)
    return found


def quadratic_forms(s: Float[np.ndarray, "labels n"], matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " labels"]:
    r"""Compute :math:`s^\top D s` of every row of `s`; of the symmetric matrix no block below the diagonal is used."""
    edges = [len(matrix) * block // NUM_BLOCKS for block in range(NUM_BLOCKS + 1)]
    total = np.zeros(len(s), np.float32)
    for start, stop in itertools.pairwise(edges):
        product = s[:, start:stop] @ matrix[start:stop, start:stop] + 2.0 * (s[:, :start] @ matrix[:start, start:stop])
        total += np.einsum("ij,ij->i", product, s[:, start:stop])
    return total


def unbiased(
    within_x: np.ndarray, touching_x: np.ndarray, total: float, n: int, m: int
) -> Float[np.ndarray, " labels"]:
    """Compute U forms from sums over pairs in the first sample, over pairs with one cell in it, and over all pairs."""
    within_x, touching_x = within_x.astype(np.float64), touching_x.astype(np.float64)
    cross = touching_x - within_x
    within_y = total - within_x - 2.0 * cross
    return 2.0 * cross / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))


def tie_of(absolute: float, cells: int) -> float:
    """Find the difference up to which two statistics are ties, from the sum of sizes of all centred distances."""
    return TIE * absolute / (cells * (cells - 1))


def p_values_of(observed: np.ndarray, null: np.ndarray, tie: float) -> Float[np.ndarray, " observed"]:
    """Rank each statistic among itself and those of relabelled cells (Phipson & Smyth 2010)."""
    return (1 + np.sum(null >= observed[:, None] - tie, axis=1)) / (1 + len(null))


def members_of(chosen: Int[np.ndarray, "samples n"], cells: int) -> Float[np.ndarray, "samples cells"]:
    """Mark the cells of each sample by 1."""
    member = np.zeros((len(chosen), cells), np.float32)
    np.put_along_axis(member, chosen, 1.0, axis=1)
    return member
