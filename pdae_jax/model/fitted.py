"""A trained model with all it needs to predict; and the model that a recipe and data define."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.data.units import Standardizer
from pdae_jax.model.model import Model
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData

_BLOCK = 8192  # cells encoded at once: bounds memory, and one compiled shape serves all sample sizes


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` returns: a model that predicts in the user's units, with its data and its record."""

    model: Model
    params: dict  # averaged over steps; those that `fit` kept where there is a validation set
    standardizer: Standardizer
    train: PerturbationData  # in the user's units
    validation: PerturbationData | None
    validation_errors: dict[str, dict[str, float]]  # of a condition: "pdae", "start", "control"
    recipe: Recipe
    history: list[dict[str, Any]]  # the entries of metrics.jsonl
    seed: int  # of evaluations that are given no key; drawn from the key of the fit
    workdir: pathlib.Path | None = None

    def encode(self, x: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, "cells latent"]:
        """Latents of cells given in the user's units."""
        if x.ndim != 2 or x.shape[1] != self.model.num_features:
            raise ValueError(
                f"Cells of shape {x.shape}, but the model was fitted on [cells, {self.model.num_features}] "
                f"({', '.join(self.train.features[:5])}, ...). Pass the same features in the same order."
            )
        x = np.asarray(self.standardizer.forward(x), dtype=np.float32)
        padded = np.pad(x, ((0, -len(x) % min(_BLOCK, max(len(x), 1))), (0, 0)))
        blocks = [_encode(self.model, self.params, jnp.asarray(b)) for b in _blocks(padded)]
        return np.concatenate([np.asarray(b) for b in blocks])[: len(x)]

    @property
    def shift_matrix(self) -> Float[np.ndarray, "perturbations latent"]:
        """`W`: the latent shift of each perturbation at dose 1."""
        return np.asarray(self.params["shift"]["matrix"])

    def __repr__(self) -> str:
        steps = self.history[-1]["step"] if self.history else 0
        return (
            f"Fitted({self.train}, latent_dim={self.model.latent_dim}, noise_dim={self.model.noise_dim}, {steps} steps)"
        )


_encode = jax.jit(lambda model, params, x: model.encode(params, x), static_argnums=0)


def _blocks(x: np.ndarray) -> list[np.ndarray]:
    return [x[i : i + _BLOCK] for i in range(0, len(x), _BLOCK)]
