"""A fit that is asked for, what can be refused of it, and what became of it."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

from pdae_jax.data.checks import check_training_data
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import STREAMS, key_of_fit
from pdae_jax.recipe import Recipe, Resolved
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components


class Request(NamedTuple):
    """One fit that is asked for; the fields are arguments of `fit`."""

    train: PerturbationData
    key: Array
    recipe: Recipe
    validation: PerturbationData | None = None
    source: Mapping[str, str] | None = None
    workdir: str | pathlib.Path | None = None
    config: Mapping[str, Any] = {}
    bootstrap: bool = False  # as many cells of each condition, drawn with replacement by the key
    components: Components | None = None  # found already; None: by the recipe
    streams: int | None = None  # see `key_of_fit`; None: as the run in the workdir has it

    @property
    def root(self) -> Array:
        """What all that the fit draws comes from."""
        return key_of_fit(self.key, self.streams or STREAMS)


class Outcome(NamedTuple):
    """What became of a request."""

    fitted: Fitted | None
    kept_step: int = 0
    steps: int = 0
    error: str = ""

    @property
    def errors(self) -> Mapping[str, Mapping[str, float]]:
        """`Fitted.validation_errors`; none of a fit that failed."""
        return self.fitted.validation_errors if self.fitted else {}


def check_request(
    train: PerturbationData, validation: PerturbationData | None, source: Mapping[str, str] | None, recipe: Recipe
) -> dict[str, str]:
    """What can be refused before anything is computed; returns the sources by the names of their conditions."""
    check_training_data(train, validation)
    # of a recipe that was found for certain data, patience may be what it would be with validation conditions
    if recipe.patience and validation is None and not isinstance(recipe, Resolved):
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    found = {}
    for name, start in (source or {}).items():
        if validation is None or not validation.has(name):
            raise KeyError(f"source names {name!r}, which is no validation condition. Remove it, or correct the name.")
        # "control" is a name for the control everywhere; any other source must be a training condition, or index raises
        row = train.index(train.control if start == "control" else start)
        found[validation.conditions[validation.index(name)]] = train.conditions[row]
    return found
