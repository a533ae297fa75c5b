"""The training data in the model's units, and their linear model: computed once a fit."""

import dataclasses
import functools

import numpy as np

from pdae_jax.data.units import Standardizer, has_zero_floor, make_standardizer
from pdae_jax.model.linear import LinearModel, fit_means
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData


@dataclasses.dataclass(frozen=True, eq=False)
class Pilot:
    """What the defaults are found from and every fit starts from."""

    standardizer: Standardizer
    data: PerturbationData  # cells and doses in the model's units

    @functools.cached_property
    def linear(self) -> LinearModel:
        """The best linear model of the condition means."""
        return fit_means(self.data)

    @functools.cached_property
    def additive(self) -> LinearModel:
        """The same without a gain and a common part: what latents alone can express."""
        return fit_means(self.data, additive=True)


def with_units(recipe: Recipe, train: PerturbationData) -> Recipe:
    """The recipe with its floor and its scale, where they are to be found."""
    if recipe.nonnegative is None:
        recipe = recipe.override(nonnegative=has_zero_floor(train.x))
    if recipe.standardize is None:
        recipe = recipe.override(standardize="global" if recipe.nonnegative else "feature")
    return recipe


def make_pilot(recipe: Recipe, train: PerturbationData) -> Pilot:
    """The data as a recipe `with_units` has them."""
    standardizer = make_standardizer(train, str(recipe.standardize))
    x = standardizer.forward(train.x).astype(np.float32)
    return Pilot(standardizer, dataclasses.replace(train, x=x, labels=standardizer.label(train.labels)))
