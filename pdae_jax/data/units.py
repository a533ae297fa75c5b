"""The user's units and the model's."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.types import PerturbationData

MIN_ZEROS = 0.05  # of all values, for data to be counts or their logarithms


class Standardizer(NamedTuple):
    """The affine map between the user's units and the model's."""

    mean: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    def forward(self, x):
        """The user's units to the model's."""
        return (x - self.mean) / self.scale

    def backward(self, x):
        """The model's units to the user's."""
        return x * self.scale + self.mean


def has_zero_floor(x: Float[np.ndarray, "cells features"]) -> bool:
    """Whether nothing is below zero and at least `MIN_ZEROS` of all values are zero: counts, or their logarithms."""
    return bool(x.min() == 0 and np.mean(x == 0) >= MIN_ZEROS)


def make_standardizer(data: PerturbationData, kind: str) -> Standardizer:
    """Means and scales over all cells: per ``feature``, one ``global`` scale, or ``none``."""
    if kind == "none":
        return Standardizer(np.zeros(data.num_features, np.float32), np.ones(data.num_features, np.float32))
    mean, scale = data.x.mean(axis=0, dtype=np.float64), data.x.std(axis=0, dtype=np.float64)
    if kind == "global":
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    # a feature that is constant in this subset stays where it is
    scale = np.where(scale > 1e-12, scale, 1.0)
    return Standardizer(mean.astype(np.float32), scale.astype(np.float32))


def zero_floor(standardizer: Standardizer) -> Float[np.ndarray, " features"]:
    """Where the user's zero lies in the model's units."""
    return standardizer.forward(np.zeros_like(standardizer.mean))
