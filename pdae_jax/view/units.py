"""The user's units and the model's."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.data.moments import moments
from pdae_jax.design.effects import dose_units, in_dose_units
from pdae_jax.types import PerturbationData


class Standardizer(NamedTuple):
    """The affine map between the user's units of cells and the model's, and the model's unit of each dose."""

    mean: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    dose: Float[np.ndarray, " perturbations"]  # `dose_units` of the training data

    def forward(self, x):
        """Turn the user's units into the model's."""
        return (x - self.mean) / self.scale

    def backward(self, x):
        """Turn the model's units into the user's."""
        return x * self.scale + self.mean

    def label(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch perturbations"]:
        """Doses in the user's units to the model's."""
        return in_dose_units(label, self.dose)


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
