r"""The energy distance between laws whose samples are made of the same cells.

Laws :math:`P_a` and :math:`P_b` of which samples :math:`T_a x_i` and :math:`T_b x_i` are made of the same cells are
compared as if all pairs :math:`(i, j)` were independent draws, and those with :math:`i = j` are not: a cell is nearer
to its own image than to those of others, and the distance comes out too small, below zero even. Left out of all means,

.. math:: \frac{1}{n (n - 1)} \sum_{i \neq j} 2 |T_a x_i - T_b x_j| - |T_a x_i - T_a x_j| - |T_b x_i - T_b x_j|

is a U-statistic of one sample: unbiased, exactly zero where the maps agree, and with much less noise than samples of
different cells have, whose own differences it does not see.
"""

import numpy as np
from jaxtyping import Bool, Float

from pdae_jax.two_sample.host_distances import HostCells, centre_of, matrix_within


def shared_cell_distances(
    x: Float[np.ndarray, "laws n d"], weight: Float[np.ndarray, "laws n"], shared: Bool[np.ndarray, "laws laws"]
) -> Float[np.ndarray, "laws laws"]:
    """Return the energy distances (U form) between all pairs of laws.

    Args:
        x: a sample of each law; rows `i` of laws that share cells are made of one cell.
        weight: of rows; zero masks a row, the others of a law are equal.
        shared: whether two laws are made of the same cells; every law is of its own.
    """
    laws, n, d = x.shape
    weight = weight / np.sum(weight, axis=1, keepdims=True)
    distances = _centred_distances(x.reshape(laws * n, d), np.flatnonzero(weight))
    member = np.einsum("an,ab->anb", weight, np.eye(laws)).reshape(laws * n, laws).astype(np.float32)
    sums = (member.T @ (distances @ member)).astype(np.float64)
    # of a cell's images under two laws
    own = np.einsum("aibi,ai,bi->ab", distances.reshape(laws, n, laws, n), weight, weight)
    # the pairs left out of a law with itself are those of a cell with itself, the usual U form
    mean = (sums - shared * own) / (1.0 - shared * (weight @ weight.T))
    within = np.diagonal(mean)
    return np.where(np.eye(laws, dtype=bool), 0.0, 2.0 * mean - within[:, None] - within)


def _centred_distances(cells: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "cells cells"]:
    """Distances between some of the rows less their mean, which cancels; those of the others are zero."""
    used = cells[rows]
    matrix = matrix_within(HostCells.of(used, centre_of(used)))
    matrix -= np.mean(matrix)
    if len(rows) == len(cells):
        return matrix
    every = np.zeros((len(cells), len(cells)), np.float32)
    every[np.ix_(rows, rows)] = matrix
    return every
