"""The user's units and the model's."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pdae_jax.types import PerturbationData, once_for_each

_BITS = 20  # of a label that count
MIN_ZEROS = 0.05  # of all values, for data to be counts or their logarithms


class Standardizer(NamedTuple):
    """The affine map between the user's units of cells and the model's, and the model's unit of each dose."""

    mean: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    dose: Float[np.ndarray, " perturbations"]  # `dose_units` of the training data

    def forward(self, x):
        """The user's units to the model's."""
        return (x - self.mean) / self.scale

    def backward(self, x):
        """The model's units to the user's."""
        return x * self.scale + self.mean

    def label(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch perturbations"]:
        """Doses in the user's units to the model's."""
        return in_dose_units(label, self.dose)


def dose_units(labels: Float[np.ndarray, "conditions perturbations"]) -> Float[np.ndarray, " perturbations"]:
    """The largest size of the doses of each perturbation: the unit in which nM and uM are the same experiment."""
    largest = np.max(np.abs(labels.astype(np.float64)), axis=0)
    return np.where(largest > 0, largest, 1.0)


def in_dose_units(
    label: Float[np.ndarray, "*batch perturbations"], units: Float[np.ndarray, " perturbations"]
) -> Float[np.ndarray, "*batch perturbations"]:
    """Labels over their units, to six digits: what the factor between nM and uM does to a float32 leaves no trace."""
    mantissa, exponent = np.frexp(np.asarray(label, np.float64) / units)
    return np.ldexp(np.round(mantissa * 2**_BITS) / 2**_BITS, exponent).astype(np.float32)


def dose_status(
    labels: Float[np.ndarray, "conditions perturbations"], label: Float[np.ndarray, " perturbations"]
) -> str:
    """Whether the doses of a label are among those that were measured, each perturbation by itself.

    Returns:
        ``measured``: each dose is in some condition, or 0; ``between``: one is not, but lies between doses that are (0
        is one of them); ``beyond``: one lies outside of them.
    """
    new, known = new_doses(labels, label), np.asarray(labels, np.float64)
    outside = (label < np.min(known, axis=0, initial=0.0)) | (label > np.max(known, axis=0, initial=0.0))
    return "beyond" if np.any(new & outside) else "between" if new.any() else "measured"


def new_doses(
    labels: Float[np.ndarray, "conditions perturbations"], label: Float[np.ndarray, " perturbations"]
) -> Bool[np.ndarray, " perturbations"]:
    """Which doses of a label no condition has."""
    units = dose_units(labels)
    known, asked = np.asarray(labels, np.float64) / units, np.asarray(label, np.float64) / units
    return (asked != 0) & ~np.any(np.isclose(known, asked, rtol=1e-5, atol=0.0), axis=0)


class Moments(NamedTuple):
    """What one pass through all cells finds of each feature."""

    mean: Float[np.ndarray, " features"]
    std: Float[np.ndarray, " features"]
    lowest: Float[np.ndarray, " features"]
    highest: Float[np.ndarray, " features"]
    zeros: float  # share of all values


@once_for_each
def moments(data: PerturbationData) -> Moments:
    """Mean, spread, extremes and zeros of all cells, in float64."""
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
    """Mean of each condition, in float64."""
    sums = [
        sum(block.sum(axis=0, dtype=np.float64) for block in train.blocks(rows)) / max(len(rows), 1)
        for rows in train.rows
    ]
    return np.stack([np.asarray(mean) for mean in sums])


def has_zero_floor(data: PerturbationData) -> bool:
    """Whether nothing is below zero and at least `MIN_ZEROS` of all values are zero: counts, or their logarithms."""
    found = moments(data)
    return bool(found.lowest.min() == 0 and found.zeros >= MIN_ZEROS)


def make_standardizer(data: PerturbationData, kind: str) -> Standardizer:
    """Means and scales over all cells: per ``feature``, one ``global`` scale, or ``none``."""
    dose = dose_units(data.labels)
    if kind == "none":
        return Standardizer(np.zeros(data.num_features, np.float32), np.ones(data.num_features, np.float32), dose)
    found = moments(data)
    mean, scale = found.mean, found.std
    if kind == "global":
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    # a feature that is constant in this subset stays where it is
    scale = np.where(scale > 1e-12, scale, 1.0)
    return Standardizer(mean.astype(np.float32), scale.astype(np.float32), dose)


def zero_floor(standardizer: Standardizer) -> Float[np.ndarray, " features"]:
    """Where the user's zero lies in the model's units."""
    return standardizer.forward(np.zeros_like(standardizer.mean))
