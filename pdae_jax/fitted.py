"""A trained model with all it needs to predict; and the model that a recipe and data define."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.data.sample import balanced_rows
from pdae_jax.density import has_density
from pdae_jax.linear import effective_label, fit_means
from pdae_jax.model import Model, linear_start, make_model
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData

# Of the largest latent shift: a direction shifted less is taken for curvature or noise. In 15 simulated worlds this
# found the true number of latents 12 times and one too many 3 times; validation conditions settle doubtful cases.
RELEVANT_SHIFT = 0.2

MIN_ZEROS = 0.05  # of all values, for data to be counts or their logarithms

# What a fit does depends on one property of the cells: whether they lie on a surface of k dimensions, as the theory
# has it, or spread around one. On a surface the residual must vanish, and latents have a density. Around one the
# residual is the cell's own noise: to reconstruct it is to memorise it, and training is gentle.
ON_SURFACE: dict[str, Any] = {
    "observed_effects": False,
    "reconstruction": 0.5,
    "contrast": 1.0,
    "likelihood": 0.3,
    "learning_rate": 5e-3,
    "patience": None,
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
# of 50 to 80, the best on six development worlds; with 300 cells 50 and 107 were the best (experiments/RESULTS.md).
PASSES = 50
MIN_STEPS = 300

_PAIRED = 2048  # cells whose distances from each other are looked at
_BLOCK = 8192  # cells encoded at once: bounds memory, and one compiled shape serves all sample sizes


class Standardizer(NamedTuple):
    """The affine map between the user's units and the model's."""

    mean: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    def forward(self, x):
        """The user's units to the model's."""
        return (x - self.mean) / self.scale

    def backward(self, x):
        """The model's units to the user's."""
        return x * self.scale + self.mean


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` returns: a model that predicts in the user's units, with its data and its record."""

    model: Model
    params: dict  # averaged over steps; those that `fit` kept where there is a validation set
    standardizer: Standardizer
    train: PerturbationData  # in the user's units
    validation: PerturbationData | None
    validation_errors: dict[str, dict[str, float]]  # of a condition: "pdae", "start", "control"
    recipe: Recipe
    history: list[dict[str, Any]]  # the entries of metrics.jsonl
    seed: int  # of evaluations that are given no key; drawn from the key of the fit
    workdir: pathlib.Path | None = None

    def encode(self, x: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, "cells latent"]:
        """Latents of cells given in the user's units."""
        if x.ndim != 2 or x.shape[1] != self.model.num_features:
            raise ValueError(
                f"Cells of shape {x.shape}, but the model was fitted on [cells, {self.model.num_features}] "
                f"({', '.join(self.train.features[:5])}, ...). Pass the same features in the same order."
            )
        x = np.asarray(self.standardizer.forward(x), dtype=np.float32)
        padded = np.pad(x, ((0, -len(x) % min(_BLOCK, max(len(x), 1))), (0, 0)))
        blocks = [_encode(self.model, self.params, jnp.asarray(b)) for b in _blocks(padded)]
        return np.concatenate([np.asarray(b) for b in blocks])[: len(x)]

    @property
    def shift_matrix(self) -> Float[np.ndarray, "perturbations latent"]:
        """`W`: the latent shift of each perturbation at dose 1."""
        return np.asarray(self.params["shift"]["matrix"])

    def __repr__(self) -> str:
        steps = self.history[-1]["step"] if self.history else 0
        return (
            f"Fitted({self.train}, latent_dim={self.model.latent_dim}, noise_dim={self.model.noise_dim}, {steps} steps)"
        )


_encode = jax.jit(lambda model, params, x: model.encode(params, x), static_argnums=0)


def _blocks(x: np.ndarray) -> list[np.ndarray]:
    return [x[i : i + _BLOCK] for i in range(0, len(x), _BLOCK)]


def check_training_data(train: PerturbationData, validation: PerturbationData | None) -> None:
    """What a fit needs of its data; ``ValueError`` that names what is missing."""
    if not isinstance(train, PerturbationData):
        raise TypeError(
            f"train is a {type(train).__name__}, not PerturbationData. Build it with pdae_jax.from_arrays, "
            f"from_frame or from_anndata."
        )
    if train.control not in train.conditions:
        raise ValueError(
            f"No control condition {train.control!r} in the training data; it has {list(train.conditions[:5])}. "
            f"Shifts are measured from the control: do not hold it out."
        )
    if train.num_conditions < 2:
        raise ValueError("Only the control is in the training data. Pass at least one perturbed condition.")
    if validation is None:
        return
    check_same_columns(validation, train, "validation")
    shared = [name for name in validation.conditions if name in train.conditions]
    if shared or validation.num_conditions == 0:
        raise ValueError(
            f"Validation conditions must be unseen and at least one; shared with the training data: {shared}. "
            f"Make the two sets with pdae_jax.hold_out."
        )


def check_same_columns(data: PerturbationData, train: PerturbationData, name: str) -> None:
    """Data that meets a model must have its features and perturbations, in order."""
    for kind in ("features", "perturbations"):
        here, there = getattr(data, kind), getattr(train, kind)
        if here != there:
            extra = [n for n in here if n not in there][:5]
            missing = [n for n in there if n not in here][:5]
            detail = f"missing {missing}, unknown {extra}" if missing or extra else "the order differs"
            raise ValueError(
                f"The {name} data do not have the {kind} of the training data: {detail}. "
                f"Build both from one data set with pdae_jax.hold_out."
            )


def resolve_recipe(recipe: Recipe, train: PerturbationData) -> Recipe:
    """The recipe with what depends on the data filled in: floor, scale, steps, number of latents."""
    if recipe.nonnegative is None:
        recipe = recipe.override(nonnegative=has_zero_floor(train.x))
    if recipe.standardize is None:
        recipe = recipe.override(standardize="global" if recipe.nonnegative else "feature")
    standardizer = make_standardizer(train, str(recipe.standardize))
    if recipe.latent_dim is None:
        recipe = recipe.override(latent_dim=effective_rank(train, standardizer))
    if any(getattr(recipe, name) is None for name in ON_SURFACE):
        on_surface = lies_on_surface(train, standardizer, int(recipe.latent_dim or 1))
        found = (ON_SURFACE if on_surface else WITH_NOISE) | (DRAWN if recipe.noise == "drawn" else {})
        recipe = recipe.override(**{name: v for name, v in found.items() if getattr(recipe, name) is None})
    if recipe.num_steps is None:
        recipe = recipe.override(num_steps=default_steps(recipe, train))
    return recipe


def lies_on_surface(train: PerturbationData, standardizer: "Standardizer", latent_dim: int) -> bool:
    """Whether cells have a density along a surface of `latent_dim` dimensions, `has_density` of some of them."""
    random = np.random.default_rng(0)
    rows = balanced_rows(random, train, -(-_PAIRED // train.num_conditions))
    # drawn with replacement: a cell must not be its own neighbour
    rows = random.permutation(np.unique(rows))[:_PAIRED]
    return has_density(standardizer.forward(train.x[rows]), latent_dim)


def has_zero_floor(x: Float[np.ndarray, "cells features"]) -> bool:
    """Whether nothing is below zero and at least `MIN_ZEROS` of all values are zero: counts, or their logarithms."""
    return bool(x.min() == 0 and np.mean(x == 0) >= MIN_ZEROS)


def default_steps(recipe: Recipe, train: PerturbationData) -> int:
    """`MAX_STEPS`, or as many as take each cell for a source `PASSES` times where those are fewer; then whole chunks.

    Conditions are drawn equally often, whatever their size: counted are the cells of the median condition.
    """
    cells_a_step = min(recipe.num_sources, train.num_conditions) * recipe.cells_per_source
    steps = PASSES * train.num_conditions * float(np.median(train.counts)) / cells_a_step
    whole = max(1, int(max(steps, MIN_STEPS) // recipe.log_every)) * recipe.log_every
    return min(whole, MAX_STEPS)


def effective_rank(train: PerturbationData, standardizer: "Standardizer") -> int:
    """How many latent dimensions the training conditions shift, seen through the linear start.

    The theory asks for `rank(W A) = k`: latents that no condition shifts cannot be identified, and with more latents
    than the truth has, shifts lead off the cells' manifold. Counted are the singular values of the linear start's
    `W A`, in standard deviations within conditions, above `RELEVANT_SHIFT` of the largest.
    """
    labels = train.labels.astype(np.float64)
    differences = labels - labels[train.index(train.control)]
    most = max(1, min(int(np.linalg.matrix_rank(differences)), train.num_features))
    rows = balanced_rows(np.random.default_rng(0), train, int(np.clip(8192 // train.num_conditions, 8, 500)))
    x = standardizer.forward(train.x).astype(np.float32)
    start = linear_start(
        x[rows],
        train.labels[train.condition_index[rows]],
        fit_means(train, x),
        most,
        noise="abducted",
        noise_dim=0,
    )
    moved = effective_label(differences, start.saturation) @ start.shift_matrix
    singular = np.linalg.svd(moved, compute_uv=False)
    return max(1, int(np.sum(singular > RELEVANT_SHIFT * singular[0])))


def make_standardizer(data: PerturbationData, kind: str) -> Standardizer:
    """Means and scales over all cells: per ``feature``, one ``global`` scale, or ``none``."""
    if kind == "none":
        return Standardizer(np.zeros(data.num_features, np.float32), np.ones(data.num_features, np.float32))
    mean, scale = data.x.mean(axis=0, dtype=np.float64), data.x.std(axis=0, dtype=np.float64)
    if kind == "global":
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    # a feature that is constant in this subset stays where it is
    scale = np.where(scale > 1e-12, scale, 1.0)
    return Standardizer(mean.astype(np.float32), scale.astype(np.float32))


def build_model(recipe: Recipe, train: PerturbationData, standardizer: Standardizer) -> Model:
    """The model of a resolved recipe. Fits of one shape share it, and with it what is compiled for it."""
    floor = tuple(zero_floor(standardizer).tolist()) if recipe.nonnegative else None
    return _build_model(recipe, train.num_features, train.num_perturbations, floor)


@functools.lru_cache(maxsize=64)
def _build_model(recipe: Recipe, num_features: int, num_perturbations: int, floor: tuple[float, ...] | None) -> Model:
    assert recipe.latent_dim is not None, "resolve_recipe comes first"
    return make_model(
        num_features,
        num_perturbations,
        latent_dim=recipe.latent_dim,
        noise=recipe.noise,
        noise_dim=recipe.noise_dim,
        observed_effects=bool(recipe.observed_effects),
        hidden=recipe.hidden,
        activation=recipe.activation,
        floor=None if floor is None else np.asarray(floor, np.float32),
    )


def zero_floor(standardizer: Standardizer) -> Float[np.ndarray, " features"]:
    """Where the user's zero lies in the model's units."""
    return standardizer.forward(np.zeros_like(standardizer.mean))
