"""The training data as the model sees them, and their linear model: found once a fit, before anything is trained."""

import dataclasses
import functools
import pathlib

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.data.moments import condition_means, weights_of_conditions
from pdae_jax.design.design import Design, design_of
from pdae_jax.model.condition_means import ConditionMeans, fit_condition_means
from pdae_jax.model.linear import LinearModel, fit_linear
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.files import digest, read_arrays, write_arrays
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components, find_components
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
    def means(self) -> ConditionMeans:
        """The best prediction of the condition means: the linear model, and interactions."""
        return fit_condition_means(self._means, self.design, weights_of_conditions(self.train))

    @functools.cached_property
    def additive(self) -> LinearModel:
        """The linear model without a gain and a common part: what latents alone can express."""
        return fit_linear(self._means, self.design, weights_of_conditions(self.train), additive=True)

    @property
    def _means(self) -> Float[np.ndarray, "conditions features"]:
        return self.view.units.forward(condition_means(self.train))


def make_pilot(recipe: Recipe, train: PerturbationData, components: Components | None = None) -> Pilot:
    """Look at training data through the view of a recipe, `make_view`."""
    return Pilot(*make_view(recipe, train, components), design_of(train))


def components_for(
    number: int | None, train: PerturbationData, workdir: str | pathlib.Path | None
) -> Components | None:
    """Find the components that a recipe asks for, or read those of the run in the workdir if it has some.

    The model of wide data is of scores of components, and all else has the features.
    """
    if number is None:
        return None
    file = None if workdir is None else pathlib.Path(workdir) / folder.COMPONENTS_FILE
    if file is not None and file.exists():
        arrays = read_arrays(file)
        folder.check_part(file.parents[1], folder.COMPONENTS_FILE, digest(arrays))
        components = Components(**arrays)  # the signs of directions are not the same everywhere
        if components.loadings.shape[0] == train.num_features:  # else of another run: refused later
            return components
    return find_components(train, number)


def save_components(path: pathlib.Path, components: Components | None) -> None:
    """Keep the components with their run."""
    if components is not None and not (path / folder.COMPONENTS_FILE).exists():
        arrays = {name: np.asarray(array) for name, array in components._asdict().items()}
        write_arrays(path / folder.COMPONENTS_FILE, arrays)
        folder.keep_part(path, folder.COMPONENTS_FILE, digest(arrays))
