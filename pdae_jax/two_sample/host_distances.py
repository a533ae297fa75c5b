"""Euclidean distances between some hundreds to thousands of cells, in NumPy: nothing to compile for any size.

A product of matrices gives squared distances in float32, as in `distances`. Pairs too near to each other for that,
which it would give with few digits or none, are taken again by their differences: identical cells are at exactly zero.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from pdae_jax.two_sample.distances import DIRECT_DIM
from pdae_jax.two_sample.units import unit_on_host

# A product is off by eps of the squared distances to the origin; pairs nearer than this share of them are taken again.
NEAR = 1e-3
NEAR_SHARE = 0.02  # if these are more than this share of all pairs, all are
ROWS = 1000  # of a matrix that exist at once
NUMBERS = 2**22  # of differences that exist at once: 16 MB


class HostCells(NamedTuple):
    """Cells from which distances are taken."""

    rows: Float[np.ndarray, "n d"]  # float32, less the centre, over the unit
    unit: float  # see `units`

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"], centre: Float[np.ndarray, " d"]) -> "HostCells":
        """Subtract a centre near to the cells, in float32, from what they are in: so an offset costs no digits."""
        x = x - centre
        unit = unit_on_host(x)
        return cls(np.asarray(x if unit == 1 else x / unit, np.float32), unit)

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "HostCells":
        """Take some of the cells."""
        return HostCells(self.rows[rows], self.unit)


def centre_of(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """Find the mean of cells, in float32: all samples that are compared are to have one."""
    return x.mean(axis=0, dtype=np.float64).astype(np.float32)


def matrix_across(x: HostCells, y: HostCells) -> Float[np.ndarray, "n m"]:
    """Take the distances between two samples with one centre, in the units of the user."""
    if _is_one_profile(x):  # all pairs might be near
        return np.repeat(matrix_across(x.take(slice(1)), y), len(x.rows), axis=0)
    unit = max(x.unit, y.unit)
    rows, columns = (c.rows if c.unit == unit else c.rows * np.float32(c.unit / unit) for c in (x, y))
    return _times(np.sqrt(_squared(rows, columns)), unit)


def triangle(x: HostCells) -> Iterator[tuple[slice, Float[np.ndarray, "rows columns"]]]:
    """Take the distances within a sample some rows at a time: these rows, and columns from the first of them on."""
    if _is_one_profile(x):
        x = HostCells(np.zeros((len(x.rows), 1), np.float32), x.unit)
    for start in range(0, len(x.rows), ROWS):
        rows = slice(start, min(start + ROWS, len(x.rows)))
        sq = _squared(x.rows[rows], x.rows[start:], within=True)
        yield rows, _times(np.sqrt(sq), x.unit)


def _is_one_profile(x: HostCells) -> bool:
    rows = x.rows
    return len(rows) > 1 and np.array_equal(rows[0], rows[1]) and bool(np.all(rows == rows[0]))


def matrix_within(x: HostCells) -> Float[np.ndarray, "n n"]:
    """Take all distances within a sample, as one matrix."""
    if len(x.rows) <= ROWS:
        return next(triangle(x))[1]
    matrix = np.empty((len(x.rows), len(x.rows)), np.float32)
    for rows, block in triangle(x):
        matrix[rows, rows.start :], matrix[rows.start :, rows] = block, block.T
    return matrix


def _squared(x: np.ndarray, y: np.ndarray, within: bool = False) -> Float[np.ndarray, "n m"]:
    """Squared distances; `within` a sample the k-th row of `x` is that of `y`."""
    if x.shape[1] <= DIRECT_DIM:
        return _direct(x, y)
    size_x, size_y = (np.einsum("ij,ij->i", a, a) for a in (x, y))
    sq = x @ y.T
    sq *= -2
    sq += size_x[:, None]
    sq += size_y
    near = sq < np.add.outer(NEAR * size_x, NEAR * size_y)
    if within:
        np.fill_diagonal(near, False)
        np.fill_diagonal(sq, 0.0)
    number = np.count_nonzero(near)
    if number > NEAR_SHARE * near.size:
        return _direct(x, y)
    i, j = np.nonzero(near) if number else ((), ())
    for start in range(0, number, step := max(1, NUMBERS // x.shape[1])):
        first, second = i[start : start + step], j[start : start + step]
        sq[first, second] = np.sum((x[first] - y[second]) ** 2, axis=1)
    return sq


def _direct(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "n m"]:
    return cdist(x, y, "sqeuclidean").astype(np.float32)


def _times(distances: np.ndarray, unit: float) -> np.ndarray:
    return distances if unit == 1 else distances * np.float32(unit)
