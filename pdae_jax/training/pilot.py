"""The training data in the model's units, and their linear model: computed once a fit."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.data.moments import condition_means, has_zero_floor
from pdae_jax.model.linear import LinearModel, fit_linear
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData
from pdae_jax.view.units import Standardizer, make_standardizer


@dataclasses.dataclass(frozen=True, eq=False)
class Pilot:
    """What the defaults are found from and every fit starts from."""

    standardizer: Standardizer
    train: PerturbationData  # in the user's units

    def cells(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n features"]:
        """Training cells in the model's units."""
        return self.standardizer.forward(self.train.x[rows]).astype(np.float32)

    @functools.cached_property
    def labels(self) -> Float[np.ndarray, "conditions perturbations"]:
        """Labels of the conditions in the model's units."""
        return self.standardizer.label(self.train.labels)

    @functools.cached_property
    def linear(self) -> LinearModel:
        """The best linear model of the condition means."""
        return self._linear(additive=False)

    @functools.cached_property
    def additive(self) -> LinearModel:
        """The same without a gain and a common part: what latents alone can express."""
        return self._linear(additive=True)

    def _linear(self, additive: bool) -> LinearModel:
        means = self.standardizer.forward(condition_means(self.train))
        return fit_linear(means, self.labels, self.train.counts, additive=additive)


def with_units(recipe: Recipe, train: PerturbationData) -> Recipe:
    """The recipe with its floor and its scale, where they are to be found."""
    if recipe.nonnegative is None:
        recipe = recipe.override(nonnegative=has_zero_floor(train))
    if recipe.standardize is None:
        # components have one scale by themselves
        shared = recipe.nonnegative or recipe.components is not None
        recipe = recipe.override(standardize="global" if shared else "feature")
    return recipe


def make_pilot(recipe: Recipe, train: PerturbationData) -> Pilot:
    """The data as a recipe `with_units` has them."""
    return Pilot(make_standardizer(train, str(recipe.standardize)), train)
