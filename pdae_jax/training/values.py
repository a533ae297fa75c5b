"""Fields of a recipe that are values of the compiled step: recipes that differ in these alone share the program."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pdae_jax.recipe import LossWeights, Recipe

#: Such fields, and some value for each.
VALUES: Mapping[str, Any] = {
    "num_steps": 1000,
    "learning_rate": 1e-3,
    "warmup_steps": 100,
    "clip_norm": 1.0,
    "average_decay": 0.999,
    **dict.fromkeys(LossWeights._fields, 1.0),  # but for 0, of a term that is not computed
}


def neutral_of(recipe: Recipe) -> Recipe:
    """The same for all recipes that differ in values of the program; what is open stays open."""
    changes = {
        name: None if getattr(recipe, name) is None else 0.0 if getattr(recipe, name) == 0 else value
        for name, value in VALUES.items()
    }
    changes |= {"patience": None, "stop_step": None}
    beta, bandwidths = 1.0 if recipe.beta == 1 else 0.5, (1.0,) * len(recipe.bandwidths)
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
    return Recipe(**{**fields, **changes, "beta": beta, "bandwidths": bandwidths})
