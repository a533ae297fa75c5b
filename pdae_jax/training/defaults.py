"""What a recipe leaves open, found from the data."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.design.design import Design
from pdae_jax.design.effects import effective_label
from pdae_jax.model.interactions import interaction_sizes
from pdae_jax.model.model import Model, linear_start, make_model
from pdae_jax.model.noise import LAWS
from pdae_jax.recipe import Recipe, Resolved
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
# Times the number of latents. In simulated worlds cells without noise are within 1.1 times, counts and cells with noise
# of half a unit on 20 features at 3 times and more.
MAX_DIMENSION = 1.5
_FEW_CELLS = 20  # of the median condition
_PAIRED = 2048  # cells whose distances from each other are looked at


def resolve_recipe(recipe: Recipe, train: PerturbationData) -> Resolved:
    """Fill in what the recipe leaves to the data: floor, scale, steps, number of latents."""
    recipe = with_units(recipe, train)
    return with_defaults(recipe, make_pilot(recipe, train))


def with_defaults(recipe: Recipe, pilot: Pilot) -> Resolved:
    """Fill in what a recipe leaves open that has its units (`with_units`)."""
    if recipe.latent_dim is None:
        recipe = recipe.override(latent_dim=effective_rank(pilot))
    if any(getattr(recipe, name) is None for name in ON_SURFACE):
        assert recipe.latent_dim is not None
        on_surface = lies_on_surface(pilot, recipe.latent_dim)
        found = (ON_SURFACE if on_surface else WITH_NOISE) | (DRAWN if LAWS[recipe.noise] is None else {})
        recipe = recipe.override(**{name: v for name, v in found.items() if getattr(recipe, name) is None})
    if recipe.num_steps is None:
        recipe = recipe.override(num_steps=default_steps(recipe, pilot.train.counts))
    return Resolved(**dataclasses.asdict(recipe))


def lies_on_surface(pilot: Pilot, latent_dim: int) -> bool:
    """Tell whether cells have a density along a surface of `latent_dim` dimensions, `has_density` of some of them.

    Not where conditions have few cells, as of bulk measurements in three wells: the cells next to one are then those of
    other conditions, and lie in as many directions as there are perturbations, whatever the noise.
    """
    random, data = np.random.default_rng(0), pilot.train
    if has_few_cells(data.counts):
        return False
    rows = balanced_rows(random, data.condition_index, -(-_PAIRED // len(data.counts)))
    # conditions of few cells repeat them: a cell must not be its own neighbour
    rows = random.permutation(np.unique(rows))[:_PAIRED]
    return has_density(pilot.cells(rows), latent_dim)


def has_density(x: Float[np.ndarray, "cells features"], latent_dim: int) -> bool:
    """Tell whether the likelihood of cells under a chart with `latent_dim` latents is well defined.

    It does not where values repeat (`has_atoms`): a chart may be as steep as it likes there. Nor where cells spread in
    many more directions than there are latents (`intrinsic_dimension`): across the surface nothing bounds it.

    Args:
        x: different cells, about as many of each condition, features on a common scale.
        latent_dim: k.
    """
    return not has_atoms(x) and intrinsic_dimension(x) <= MAX_DIMENSION * latent_dim


def has_atoms(x: Float[np.ndarray, "cells features"]) -> bool:
    """Tell whether more than 1 % of the cells (at least three) share one value of a feature, as zeros of counts do.

    Features that are the same in all cells do not matter.
    """
    ordered = np.sort(x, axis=0)
    many = max(2, len(x) // 100)
    repeated = np.any(ordered[many:] == ordered[:-many], axis=0)
    return bool(np.any(repeated & (ordered[0] < ordered[-1])))


def intrinsic_dimension(x: Float[np.ndarray, "cells features"]) -> float:
    """Estimate in how many directions cells spread at the distance of their neighbours; memory grows with cells
    squared.

    The distance to the second neighbour over that to the first has a Pareto law whose exponent is the dimension
    (Facco et al., Scientific Reports 2017); its maximum likelihood estimate. Cells that coincide are counted once;
    fewer than three different cells have dimension 0.
    """
    x = np.unique(x, axis=0).astype(np.float64)
    if len(x) < 3:
        return 0.0
    x = x - x.mean(axis=0)
    size = np.sum(x**2, axis=1)
    squared = size[:, None] + size - 2.0 * (x @ x.T)  # of one matrix with itself: half of the products
    np.fill_diagonal(squared, np.inf)
    first, second = np.maximum(np.partition(squared, 1, axis=1)[:, :2], np.finfo(float).tiny).T
    rate = float(np.mean(0.5 * np.log(second / first)))
    return 1.0 / rate if rate > 0.0 else np.inf  # all neighbours at one distance, as on a grid


def has_few_cells(counts: Int[np.ndarray, " conditions"]) -> bool:
    """Tell whether conditions have so few cells that these tell their means at most, as three wells do.

    What cells spread within conditions is then little beside what perturbations do, and latents lie far out.
    """
    return bool(np.median(counts) < _FEW_CELLS)


def default_steps(recipe: Recipe, counts: Int[np.ndarray, " conditions"]) -> int:
    """Return `MAX_STEPS`, or as many as take each cell for a source `PASSES` times where those are fewer; then whole
    chunks.

    Conditions are drawn equally often, whatever their size: counted are the cells of the median condition.
    """
    cells_a_step = min(recipe.num_sources, len(counts)) * recipe.cells_per_source
    steps = PASSES * len(counts) * float(np.median(counts)) / cells_a_step
    whole = max(1, int(max(steps, MIN_STEPS) // recipe.log_every)) * recipe.log_every
    return min(whole, MAX_STEPS)


def effective_rank(pilot: Pilot) -> int:
    """Find how many latent dimensions the training conditions shift, seen through the linear start.

    The theory asks for `rank(W A) = k`: latents that no condition shifts cannot be identified, and with more latents
    than the truth has, shifts lead off the cells' manifold. Counted are the singular values of the linear start's
    `W A`, in standard deviations within conditions, above `RELEVANT_SHIFT` of the largest.
    """
    condition_index, labels = pilot.train.condition_index, pilot.design.rows
    num_conditions, num_perturbations = labels.shape
    most = min(num_conditions - 1, num_perturbations, len(pilot.view.units.mean))
    rows = balanced_rows(np.random.default_rng(0), condition_index, int(np.clip(8192 // num_conditions, 8, 500)))
    label = labels[condition_index[rows]]
    start = linear_start(pilot.cells(rows), label, pilot.means.linear, most)
    moved = effective_label(labels.astype(np.float64), start.saturation) @ start.shift_matrix
    singular = np.linalg.svd(moved, compute_uv=False)
    return max(1, int(np.sum(singular > RELEVANT_SHIFT * singular[0])))


def build_model(recipe: Resolved, view: View, design: Design) -> Model:
    """Build the model of a recipe, for cells seen through a view and the labels of a design."""
    return make_model(
        len(view.units.mean),
        design.num_columns,
        latent_dim=recipe.latent_dim,
        noise=recipe.noise,
        noise_dim=recipe.noise_dim,
        observed_effects=recipe.observed_effects,
        hidden=recipe.hidden,
        activation=recipe.activation,
        floor=view.floor_of_model,
        interactions=interaction_sizes(design, len(view.units.mean)),
    )
