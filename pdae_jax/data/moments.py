"""Moments of cells: what a pass through all of them finds, kept as long as the data."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.types import PerturbationData, once_for_each

MIN_ZEROS = 0.05  # of all values, for data to be counts or their logarithms


class Moments(NamedTuple):
    """Moments of each feature, found in one pass through all cells."""

    mean: Float[np.ndarray, " features"]
    std: Float[np.ndarray, " features"]
    lowest: Float[np.ndarray, " features"]
    highest: Float[np.ndarray, " features"]
    zeros: float  # share of all values


@once_for_each
def moments(data: PerturbationData) -> Moments:
    """Return the mean, spread, extremes and zeros of all cells, in float64."""
    number, zeros = data.num_cells, 0
    total, square = np.zeros(data.num_features), np.zeros(data.num_features)
    lowest, highest = np.full(data.num_features, np.inf), np.full(data.num_features, -np.inf)
    about = data.x[:1].astype(np.float64)[0]  # near the cells: the squares of large values would lose their spread
    for block in data.blocks():
        lowest, highest = np.minimum(lowest, block.min(axis=0)), np.maximum(highest, block.max(axis=0))
        zeros += block.size - np.count_nonzero(block)
        off = block - about
        total, square = total + off.sum(axis=0), square + np.einsum("ij,ij->j", off, off)
    mean = total / number
    std = np.sqrt(np.maximum(square / number - mean**2, 0.0))
    return Moments(mean + about, std, lowest, highest, zeros / (number * data.num_features))


@once_for_each
def condition_means(train: PerturbationData) -> Float[np.ndarray, "conditions features"]:
    """Return the mean of each condition, in float64."""
    sums = [
        sum(block.sum(axis=0, dtype=np.float64) for block in train.blocks(rows)) / max(len(rows), 1)
        for rows in train.rows
    ]
    return np.stack([np.asarray(mean) for mean in sums])


@once_for_each
def weights_of_conditions(train: PerturbationData) -> Float[np.ndarray, " conditions"]:
    """Return what the precision of each condition's mean goes with: its cells, or where they are counts, the counts.

    These are in units of the average cell, of which all conditions together have as many as there are cells.
    """
    if train.size_factors is None:
        return train.counts.astype(np.float64)
    sizes = np.bincount(train.condition_index, weights=train.size_factors, minlength=train.num_conditions)
    return sizes / np.mean(train.size_factors, dtype=np.float64)


def has_zero_floor(data: PerturbationData) -> bool:
    """Tell whether nothing is below zero and at least `MIN_ZEROS` of all values are zero: counts, or their
    logarithms.
    """
    found = moments(data)
    return bool(found.lowest.min() == 0 and found.zeros >= MIN_ZEROS)
