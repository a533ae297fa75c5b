"""What a recipe leaves open, found from the data."""

import dataclasses
from typing import Any

import numpy as np

from pdae_jax.design.effects import effective_label
from pdae_jax.model.model import Model, linear_start, make_model
from pdae_jax.model.noise import LAWS
from pdae_jax.recipe import Recipe, Resolved
from pdae_jax.training.density import has_density
from pdae_jax.training.pilot import Pilot, make_pilot
from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import balanced_rows
from pdae_jax.view.view import View, with_units

# Of the largest latent shift: a direction shifted less is taken for curvature or noise. In 15 simulated worlds this
# found the true number of latents 12 times and one too many 3 times; validation conditions settle doubtful cases.
RELEVANT_SHIFT = 0.2


# What a fit does depends on one property of the cells: whether they lie on a surface of k dimensions, as the theory
# has it, or spread around one. On a surface the residual must vanish, and latents have a density. Around one the
# residual is the cell's own noise: to reconstruct it is to memorise it, and training is gentle.
ON_SURFACE: dict[str, Any] = {
    "observed_effects": False,
    "reconstruction": 0.5,
    "contrast": 1.0,
    "likelihood": 0.3,
    "learning_rate": 5e-3,
    "patience": 0,
}


WITH_NOISE: dict[str, Any] = {
    "observed_effects": True,
    "reconstruction": 0.1,
    "contrast": 0.0,
    "likelihood": 0.0,
    "learning_rate": 1e-3,
    "patience": 5,
}


DRAWN = {"observed_effects": False, "reconstruction": 1.0}  # what is not decoded of the latent and drawn noise is lost
MAX_STEPS = 4000


# A fit memorises small data sets: with 100 cells a condition 4,000 steps are 640 passes, and leave over twice the error
# of 50 to 80, the best on six development worlds; with 300 cells 50 and 107 were the best (lab/STUDIES.md).
PASSES = 50
MIN_STEPS = 300
_FEW_CELLS = 20  # of the median condition
_PAIRED = 2048  # cells whose distances from each other are looked at


def resolve_recipe(recipe: Recipe, train: PerturbationData, pilot: Pilot | None = None) -> Resolved:
    """Fill in what the recipe leaves to the data: floor, scale, steps, number of latents."""
    recipe = with_units(recipe, train)
    pilot = pilot or make_pilot(recipe, train)
    if recipe.latent_dim is None:
        recipe = recipe.override(latent_dim=effective_rank(pilot))
    if any(getattr(recipe, name) is None for name in ON_SURFACE):
        assert recipe.latent_dim is not None
        on_surface = lies_on_surface(pilot, recipe.latent_dim)
        found = (ON_SURFACE if on_surface else WITH_NOISE) | (DRAWN if LAWS[recipe.noise] is None else {})
        recipe = recipe.override(**{name: v for name, v in found.items() if getattr(recipe, name) is None})
    if recipe.num_steps is None:
        recipe = recipe.override(num_steps=default_steps(recipe, train))
    return Resolved(**dataclasses.asdict(recipe))


def lies_on_surface(pilot: Pilot, latent_dim: int) -> bool:
    """Tell whether cells have a density along a surface of `latent_dim` dimensions, `has_density` of some of them.

    Not where conditions have few cells, as of bulk measurements in three wells: the cells next to one are then those of
    other conditions, and lie in as many directions as there are perturbations, whatever the noise.
    """
    random, data = np.random.default_rng(0), pilot.train
    if has_few_cells(data):
        return False
    rows = balanced_rows(random, data, -(-_PAIRED // data.num_conditions))
    # conditions of few cells repeat them: a cell must not be its own neighbour
    rows = random.permutation(np.unique(rows))[:_PAIRED]
    return has_density(pilot.cells(rows), latent_dim)


def has_few_cells(train: PerturbationData) -> bool:
    """Tell whether conditions have so few cells that these tell their means at most, as three wells do.

    What cells spread within conditions is then little beside what perturbations do, and latents lie far out.
    """
    return bool(np.median(train.counts) < _FEW_CELLS)


def default_steps(recipe: Recipe, train: PerturbationData) -> int:
    """Return `MAX_STEPS`, or as many as take each cell for a source `PASSES` times where those are fewer; then whole
    chunks.

    Conditions are drawn equally often, whatever their size: counted are the cells of the median condition.
    """
    cells_a_step = min(recipe.num_sources, train.num_conditions) * recipe.cells_per_source
    steps = PASSES * train.num_conditions * float(np.median(train.counts)) / cells_a_step
    whole = max(1, int(max(steps, MIN_STEPS) // recipe.log_every)) * recipe.log_every
    return min(whole, MAX_STEPS)


def effective_rank(pilot: Pilot) -> int:
    """Find how many latent dimensions the training conditions shift, seen through the linear start.

    The theory asks for `rank(W A) = k`: latents that no condition shifts cannot be identified, and with more latents
    than the truth has, shifts lead off the cells' manifold. Counted are the singular values of the linear start's
    `W A`, in standard deviations within conditions, above `RELEVANT_SHIFT` of the largest.
    """
    data = pilot.train
    most = min(data.num_conditions - 1, data.num_perturbations, data.num_features)
    rows = balanced_rows(np.random.default_rng(0), data, int(np.clip(8192 // data.num_conditions, 8, 500)))
    label = pilot.design.rows[data.condition_index[rows]]
    start = linear_start(pilot.cells(rows), label, pilot.linear, most)
    moved = effective_label(pilot.design.rows.astype(np.float64), start.saturation) @ start.shift_matrix
    singular = np.linalg.svd(moved, compute_uv=False)
    return max(1, int(np.sum(singular > RELEVANT_SHIFT * singular[0])))


def build_model(recipe: Resolved, train: PerturbationData, view: View) -> Model:
    """Build the model of a recipe, for cells seen through a view."""
    return make_model(
        len(view.units.mean),
        train.num_perturbations,
        latent_dim=recipe.latent_dim,
        noise=recipe.noise,
        noise_dim=recipe.noise_dim,
        observed_effects=recipe.observed_effects,
        hidden=recipe.hidden,
        activation=recipe.activation,
        floor=view.floor_of_model,
    )
