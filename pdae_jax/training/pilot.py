"""The training data as the model sees them, and their linear model: computed once a fit."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.data.moments import condition_means
from pdae_jax.design.design import Design, design_of
from pdae_jax.model.linear import LinearModel, fit_linear
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components
from pdae_jax.view.view import View, make_view


@dataclasses.dataclass(frozen=True, eq=False)
class Pilot:
    """The data as the defaults are found from and every fit starts from."""

    view: View
    train: PerturbationData  # as `make_view` gives them
    design: Design  # whose rows are the model's labels

    def cells(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n features"]:
        """Return the training cells in the model's units."""
        return self.view.units.forward(self.train.x[rows]).astype(np.float32)

    @functools.cached_property
    def linear(self) -> LinearModel:
        """The best linear model of the condition means."""
        return self._linear(additive=False)

    @functools.cached_property
    def additive(self) -> LinearModel:
        """The same without a gain and a common part: what latents alone can express."""
        return self._linear(additive=True)

    def _linear(self, additive: bool) -> LinearModel:
        means = self.view.units.forward(condition_means(self.train))
        return fit_linear(means, self.design, self.train.counts, additive=additive)


def make_pilot(recipe: Recipe, train: PerturbationData, components: Components | None = None) -> Pilot:
    """Look at training data through the view of a recipe, `make_view`."""
    return Pilot(*make_view(recipe, train, components), design_of(train))
