"""A fit that is asked for, and what became of it."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

from pdae_jax.data.components import Components
from pdae_jax.model.fitted import Fitted
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData


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
