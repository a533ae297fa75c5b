"""Fits of wide data: the model is of scores of components, and all else has the features."""

import pathlib

import numpy as np

from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.files import digest, read_arrays, write_arrays
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components, find_components
from pdae_jax.view.view import with_units


def with_components(
    recipe: Recipe, train: PerturbationData, workdir: str | pathlib.Path | None
) -> tuple[Recipe, Components | None]:
    """Return the components that a recipe asks for, those of the run in the workdir if it has some; and the recipe with
    units.

    The units are found from the features: scores have no floor.
    """
    number = recipe.components
    if number is None:
        return recipe, None
    recipe = with_units(recipe, train)
    file = None if workdir is None else pathlib.Path(workdir) / folder.COMPONENTS_FILE
    components = None
    if file is not None and file.exists():
        arrays = read_arrays(file)
        folder.check_part(file.parents[1], folder.COMPONENTS_FILE, digest(arrays))
        components = Components(**arrays)  # the signs of directions are not the same everywhere
    if components is None or components.loadings.shape[0] != train.num_features:  # of another run: refused later
        components = find_components(train, number)
    return recipe, components


def save_components(path: pathlib.Path, components: Components | None) -> None:
    """Keep the components with their run."""
    if components is not None and not (path / folder.COMPONENTS_FILE).exists():
        arrays = {name: np.asarray(array) for name, array in components._asdict().items()}
        write_arrays(path / folder.COMPONENTS_FILE, arrays)
        folder.keep_part(path, folder.COMPONENTS_FILE, digest(arrays))
