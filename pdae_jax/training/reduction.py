"""Fits of wide data: what is trained are scores of components, and all else has the features."""

import pathlib
from typing import NamedTuple

from pdae_jax.data.components import Components, find_components
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.files import read_arrays, write_arrays
from pdae_jax.training.pilot import with_units
from pdae_jax.types import PerturbationData


class Reduced(NamedTuple):
    """What training sees; the data themselves where there are no components."""

    train: PerturbationData
    validation: PerturbationData | None
    recipe: Recipe
    components: Components | None


def reduce(
    recipe: Recipe, train: PerturbationData, validation: PerturbationData | None, workdir: str | pathlib.Path | None
) -> Reduced:
    """Data by their scores, where the recipe has `components`; those of the run in the workdir, if it has some."""
    number = recipe.components
    if number is None:
        return Reduced(train, validation, recipe, None)
    recipe = with_units(recipe, train)
    file = None if workdir is None else pathlib.Path(workdir) / folder.COMPONENTS_FILE
    if file is not None and file.exists():
        components = Components(**read_arrays(file))  # the signs of directions are not the same everywhere
    else:
        components = find_components(train, number)
    unseen = None if validation is None else components.reduced(validation)
    return Reduced(components.reduced(train), unseen, recipe, components)


def save_components(path: pathlib.Path, components: Components | None) -> None:
    """Keep the components with their run."""
    if components is not None and not (path / folder.COMPONENTS_FILE).exists():
        write_arrays(path / folder.COMPONENTS_FILE, components._asdict())
