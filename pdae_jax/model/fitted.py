"""A trained model with all it needs to predict."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.compiled import as_written
from pdae_jax.design.design import Design
from pdae_jax.model.model import Model
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData
from pdae_jax.view.view import View

_SMALL_BLOCK = 1024
_BLOCK = 8192  # cells encoded at once: bounds memory, and one compiled shape serves all sample sizes


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """The result of `fit`: a model that predicts in the user's units, with its data and its record."""

    model: Model
    params: dict  # averaged over steps; those that `fit` kept where there is a validation set
    view: View
    design: Design  # of the training data, for this model
    train: PerturbationData  # in the user's units
    validation: PerturbationData | None
    validation_errors: dict[str, dict[str, float]]  # of a condition: "pdae", "start", "control"
    recipe: Recipe
    history: list[dict[str, Any]]  # the entries of metrics.jsonl
    seed: int  # of evaluations that are given no key; drawn from the key of the fit
    workdir: pathlib.Path | None = None
    kept_step: int | None = None  # after which `params` are; None: not known

    @as_written()
    def encode(self, x: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, "cells latent"]:
        """Return the latents of cells given in the user's units."""
        if x.ndim != 2 or x.shape[1] != self.train.num_features:
            raise ValueError(
                f"Cells of shape {x.shape}, but the model was fitted on [cells, {self.train.num_features}] "
                f"({', '.join(self.train.features[:5])}, ...). Pass the same features in the same order."
            )
        x = np.asarray(self.view.into(x))
        block = min(_BLOCK, 2 ** math.ceil(math.log2(max(len(x), _SMALL_BLOCK))))  # few shapes to compile
        padded = np.pad(x, ((0, -len(x) % block), (0, 0)))
        blocks = [_encode(self.model, self.params, padded[i : i + block]) for i in range(0, len(padded), block)]
        return np.concatenate([np.asarray(b) for b in blocks])[: len(x)]

    @as_written()
    def translate(
        self,
        key: Array,
        x: Float[np.ndarray, "cells features"],
        label_from: Float[np.ndarray, "... perturbations"],
        label_to: Float[np.ndarray, "... perturbations"],
        size: Float[np.ndarray, " cells"] | None = None,
    ) -> Float[np.ndarray, "cells features"]:
        """Move cells to where they would be under another label, in the user's units throughout.

        Args:
            key: of drawn noise, and of whole counts; noise that is carried along needs none.
            x: cells.
            label_from: their label, one for all or one a cell.
            label_to: the label they are translated to.
            size: size factors of cells that are counts, which come back as log-normalised whole numbers; None: as they
                are.
        """
        rows = [self.design.row(label) for label in (label_from, label_to)]

        def translate(seen: np.ndarray, size: np.ndarray | None) -> np.ndarray:
            return np.asarray(_translate(self.model, self.params, key, seen, *rows, size))

        return self.view.translated(translate, x, key, size)

    @as_written()
    def shift(
        self,
        label_from: Float[np.ndarray, "... perturbations"],
        label_to: Float[np.ndarray, "... perturbations"],
    ) -> Float[np.ndarray, "... latent"]:
        """Return the displacement of the latents from one label to another."""
        rows = map(self.design.row, (label_from, label_to))
        return np.asarray(_shift(self.model, self.params, *rows))

    @property
    def shift_matrix(self) -> Float[np.ndarray, "perturbations latent"]:
        """`W`: the latent shift of each perturbation at dose 1."""
        number = self.model.num_perturbations
        return self.shift(np.zeros(number, np.float32), np.eye(number, dtype=np.float32))

    @property
    def members(self) -> tuple["Fitted", ...]:
        """Itself: one model is an ensemble of one."""
        return (self,)

    def __repr__(self) -> str:
        steps = self.history[-1]["step"] if self.history else 0
        return (
            f"Fitted({self.train}, latent_dim={self.model.latent_dim}, noise_dim={self.model.noise_dim}, {steps} steps)"
        )


_translate = jax.jit(
    lambda model, params, key, x, label_from, label_to, size: model.translate(
        params, key, x, label_from, label_to, size
    ),
    static_argnums=0,
)
_shift = jax.jit(
    lambda model, params, label_from, label_to: model.shift(params, label_from, label_to), static_argnums=0
)
_encode = jax.jit(lambda model, params, x: model.encode(params, x), static_argnums=0)
