r"""How a model sees cells, and the way back to the user's units: the one place that knows both.

.. math:: y = \mathrm{back}(x, \mathrm{translate}(\mathrm{into}(x)))

Into: scores of components where there are some, standardised. Back: the user's units, with what components leave of a
cell carried along, nothing below the floor, and whole numbers of counts where cells have size factors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.data.moments import has_zero_floor
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components
from pdae_jax.view.lattice import as_measured, measured
from pdae_jax.view.units import Standardizer, make_standardizer

_ROUNDING = 1e-5  # in the model's units: a zero that was carried along comes back as one


class View(NamedTuple):
    """The view that a model has of cells, made once a fit by `make_view`; of NumPy and, inside `jit`, of JAX arrays.

    A pytree: for a compiled program its arrays are values, and what is None is its form.
    """

    units: Standardizer  # of the features, or of the scores of components
    components: Components | None = None
    floor: Float[Any, ""] | None = None  # smallest value of every feature, in the user's units

    def into(self, x: Float[Any, "*batch features"]) -> Float[Any, "*batch seen"]:
        """Turn cells in the user's units into what the model sees, float32."""
        seen = x if self.components is None else self.components.scores(x)
        return self.units.forward(seen).astype(np.float32)

    def back(
        self,
        x: Float[Any, "cells features"],
        moved: Float[Any, "cells seen"],
        key: Array,
        size: Float[Any, " cells"] | None = None,
    ) -> Float[Any, "cells features"]:
        """Turn what a model made of cells into cells, in the user's units.

        Args:
            x: the cells, in the user's units; components carry along what they leave of them.
            moved: what the model made of ``into(x)``.
            key: of the translation: of counts it draws which whole number a value becomes.
            size: size factors of the cells where they are counts: these come back as log-normalised whole numbers.
        """
        xp, cells = moved.__array_namespace__(), self.units.backward(moved)
        if self.components is not None:
            cells = self.components.moved(x, self.units.backward(self.into(x)), cells)
        if self.floor is not None:
            if self.components is None:  # the model's own floor, which the way back must not miss by rounding
                cells = xp.where(moved <= self.units.forward(self.floor) + _ROUNDING, self.floor, cells)
            cells = xp.maximum(cells, self.floor)
        return as_measured(key, cells, size)

    def translated(
        self,
        translate: Callable[[Float[Any, "cells seen"], Float[Any, " cells"] | None], Float[Any, "cells seen"]],
        x: Float[Any, "cells features"],
        key: Array,
        size: Float[Any, " cells"] | None = None,
    ) -> Float[Any, "cells features"]:
        """Translate cells, in the user's units throughout: `into`, the model's `translate`, and `back`."""
        return self.back(x, translate(self.into(x), self.size_seen(size)), key, size)

    def size_seen(self, size: Float[Any, "*cells"] | None) -> Float[Any, "*cells"] | None:
        """Give the size factors that come with what the model sees: scores of components are no counts."""
        return size if self.components is None else None

    def measurable(
        self,
        moved: Float[Array, "*batch cells seen"],
        size: Float[Any, "*cells"],
        draws: Float[Array, "*cells seen"],
    ) -> Float[Array, "*batch cells seen"]:
        """Round what the model made of cells to whole numbers of counts, in the model's units.

        The backward pass takes it for the identity, the derivative of its mean (a straight-through estimate; Bengio
        et al., arXiv 1308.3432). With the `draws_of` cells it rounds them alike for every target they are moved to.
        """
        whole = self.units.forward(measured(self.units.backward(moved), size, draws))
        # whole numbers to the bit: of cells that are equal the distance has no slope, which rounding would give it
        return jax.lax.stop_gradient(whole) + (moved - jax.lax.stop_gradient(moved))

    @property
    def floor_of_model(self) -> tuple[float, ...] | None:
        """Give the floor in the model's units; of scores there is none, it is there for the cells made of them."""
        if self.floor is None or self.components is not None:
            return None
        return tuple(np.asarray(self.units.forward(self.floor)).tolist())


def make_view(
    recipe: Recipe, train: PerturbationData, components: Components | None = None
) -> tuple[View, PerturbationData]:
    """Find the units of a fit; give the training data as the model has them before these, its scores say, with it.

    Args:
        recipe: with its floor and its scale, as `with_units` gives it.
        train: training data, in the user's units.
        components: of the features, that the model works on.
    """
    assert recipe.standardize is not None
    seen = train if components is None else components.reduced(train)
    floor = np.zeros((), np.float32) if recipe.nonnegative else None
    return View(make_standardizer(seen, recipe.standardize), components, floor), seen


def with_units(recipe: Recipe, train: PerturbationData) -> Recipe:
    """Fill in floor and scale of a recipe where they are to be found."""
    if recipe.nonnegative is None:
        recipe = recipe.override(nonnegative=has_zero_floor(train))
    if recipe.standardize is None:
        # components have one scale by themselves
        shared = recipe.nonnegative or recipe.components is not None
        recipe = recipe.override(standardize="global" if shared else "feature")
    return recipe
