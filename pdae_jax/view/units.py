"""The user's units and the model's."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.data.moments import moments
from pdae_jax.types import PerturbationData


class Standardizer(NamedTuple):
    """The affine map between the user's units of cells and the model's."""

    mean: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    def forward(self, x):
        """Turn the user's units into the model's."""
        return (x - self.mean) / self.scale

    def backward(self, x):
        """Turn the model's units into the user's."""
        return x * self.scale + self.mean


def make_standardizer(data: PerturbationData, kind: str) -> Standardizer:
    """Find means and scales over all cells: per ``feature``, one ``global`` scale, or ``none``."""
    if kind == "none":
        return Standardizer(np.zeros(data.num_features, np.float32), np.ones(data.num_features, np.float32))
    found = moments(data)
    mean, scale = found.mean, found.std
    if kind == "global":
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    # a feature that is constant in this subset stays where it is
    scale = np.where(scale > 1e-12, scale, 1.0)
    return Standardizer(mean.astype(np.float32), scale.astype(np.float32))
