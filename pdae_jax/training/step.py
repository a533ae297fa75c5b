"""One training step and its scan: pure functions of state and data. No files, no config, no printing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from pdae_jax.compiled import RUNS_OFTEN, RUNS_SHORT, compiler_options
from pdae_jax.model.interactions import no_interactions
from pdae_jax.model.model import Model, Start
from pdae_jax.model.networks import unraveller
from pdae_jax.recipe import LossWeights, Recipe, Resolved
from pdae_jax.training.devices import Devices
from pdae_jax.training.objective import LossTerms, pdae_loss
from pdae_jax.training.optimizer import make_optimizer
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import Kernel
from pdae_jax.types import AnyArray
from pdae_jax.view.sampler import Batch, DeviceData, make_sampler

_IN_CACHE = 2**18  # numbers of all translated cells of a batch
# The same: from about 25 features on, a step that XLA's older fusion compiled takes 8 % longer and more.
_SMALL = 100_000


class Settings(NamedTuple):
    """The settings that a step reads of a recipe and that change no shape: values of the program, not constants in it.

    So fits that differ in these alone share one compiled step, and a population has them along its leading axis.
    """

    num_steps: Float[Array, "..."]  # of the schedule
    learning_rate: Float[Array, "..."]
    warmup_steps: Float[Array, "..."]
    clip_norm: Float[Array, "..."]
    average_decay: Float[Array, "..."]
    weights: LossWeights  # scalars
    kernel: Float[Array, "... parameters"]  # of the loss: an exponent, or bandwidths


def settings_of(recipe: Resolved, kernel: Float[AnyArray, " parameters"]) -> Settings:
    """Return the settings of a recipe, and the parameters of the kernel that it asks for."""
    weights = LossWeights(*(jnp.asarray(value, float) for value in recipe.weights))
    names = [name for name in Settings._fields if name not in ("weights", "kernel")]
    numbers = {name: jnp.asarray(getattr(recipe, name), float) for name in names}
    return Settings(**numbers, weights=weights, kernel=jnp.asarray(kernel, float))


#: Fields of a recipe that are values of the compiled step, and some value for each.
VALUES: Mapping[str, Any] = {
    "num_steps": 1000,
    "learning_rate": 1e-3,
    "warmup_steps": 100,
    "clip_norm": 1.0,
    "average_decay": 0.999,
    **dict.fromkeys(LossWeights._fields, 1.0),  # but for 0, of a term that is not computed
}


def neutral_of(recipe: Recipe) -> Recipe:
    """Return the same for all recipes that differ in values of the program; what is open stays open."""
    changes = {
        name: None if getattr(recipe, name) is None else 0.0 if getattr(recipe, name) == 0 else value
        for name, value in VALUES.items()
    }
    changes |= {"patience": None, "stop_step": None}
    beta, bandwidths = 1.0 if recipe.beta == 1 else 0.5, (1.0,) * len(recipe.bandwidths)
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
    return Recipe(**{**fields, **changes, "beta": beta, "bandwidths": bandwidths})


def with_values(resolved: Resolved, recipe: Recipe) -> Resolved:
    """Give a neutral recipe that was resolved the values of one of those it stands for."""
    values = {name: getattr(recipe, name) for name in (*VALUES, "patience") if getattr(recipe, name) is not None}
    return resolved.override(**values, stop_step=recipe.stop_step, beta=recipe.beta, bandwidths=recipe.bandwidths)


class TrainState(NamedTuple):
    """Everything a run carries from step to step; saving it and going on equals never having stopped."""

    step: Int[Array, ""]
    key: Array  # of the run; step t folds in 2 t and 2 t + 1
    params: Float[Array, " parameters"]  # of the model, as one vector: compiles and runs faster; see `make_unravel`
    average: Float[Array, " parameters"]  # exponential moving average of params: what predicts
    opt_state: Any  # of the optimiser; a step may carry more in it
    settings: Settings | None = None  # None: the step has its own


class Metrics(NamedTuple):
    """The numbers that a step reports."""

    loss: NamedTuple  # `LossTerms`, or those of another model
    gradient_norm: Float[Array, "..."]


def init_state(key: Array, params: dict, settings: Settings) -> TrainState:
    """Return the state at step 0, of a run with this key that starts from these parameters of a model."""
    vector, _ = ravel_pytree(params)
    # a copy: `params` and `average` must not share buffers, the steps donate both
    opt_state = _optimizer(settings).init(vector)
    return TrainState(jnp.zeros((), jnp.int32), key, vector, jnp.copy(vector), opt_state, settings)


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    return make_optimizer(
        settings.num_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        clip_norm=settings.clip_norm,
    )


def averaged(state: TrainState, params: Array, decay: float | Array) -> Array:
    """Return the moving average of the parameters after a step to `params`.

    An average of the iterates is nearer to the optimum than the last of them (Polyak & Juditsky, SIAM J. Control Optim.
    30, 1992); this one forgets the early ones.
    """
    # the first steps follow the parameters closely: an average over the start would be of no use
    now = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return now * state.average + (1.0 - now) * params


def start_shapes(model: Model) -> Start:
    """Return a `Start` of zeros, of the shapes that the model takes."""
    d, k, num = model.num_features, model.latent_dim, model.num_perturbations
    sizes = ((d, k), (k,), (k + model.noise_dim, d), (d,), (num, k), (num, d), (d,), (), ())
    interactions = None if model.interactions is None else no_interactions(model.interactions)
    return Start(*(np.zeros(size, np.float32) for size in sizes), interactions=interactions)


@functools.lru_cache(maxsize=64)  # shapes take a trace of the model's start to find, and each fit asks twice
def make_unravel(model: Model) -> Callable[[Float[Array, " parameters"]], dict]:
    """Make the function from the vector of a `TrainState` to the parameters that the model takes."""
    return unraveller(jax.eval_shape(model.init, jax.random.key(0), start_shapes(model)))[1]


def make_train_step(
    model: Model,
    sample: Callable,
    *,
    kernel: Kernel,
    terms: Sequence[str],
    form: str,
    devices: Devices | None = None,
) -> Callable[[TrainState, DeviceData], tuple[TrainState, Metrics]]:
    """Make ``step(state, data) -> (state, metrics)``: draw a batch, descend, average.

    Args:
        model: pure functions.
        sample: of `make_sampler`.
        kernel: of the loss; its parameters are those of the state.
        terms: names of the terms of the loss that are computed; their weights are those of the state.
        form: of the loss.
        devices: that share the targets of a batch; what they all have is the same, and gradients are summed over them.
    """
    unravel = make_unravel(model)

    def step(state: TrainState, data: DeviceData) -> tuple[TrainState, Metrics]:
        settings = state.settings
        assert settings is not None
        # both keys at once: each draw is compiled and run by itself
        fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        key_sample, key_loss = fold_in(state.key, 2 * state.step + jnp.arange(2))
        batch = sample(key_sample, data)
        if devices is not None:
            # nearly all work is decoding for targets: each device has some of these, and all have the sources
            x_target, label_target = (devices.split(each) for each in (batch.x_target, batch.label_target))
            batch = batch._replace(x_target=x_target, label_target=label_target)
        own_kernel = dataclasses.replace(kernel, parameters=settings.kernel)

        def loss(vector: Array) -> tuple[Array, LossTerms]:
            options = {"kernel": own_kernel, "form": form, "weights": settings.weights, "terms": terms}
            in_turn = devices is None and are_taken_in_turn(batch)
            return pdae_loss(unravel(vector), model, key_loss, batch, in_turn=in_turn, **options)

        gradient, values = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = _optimizer(settings).update(gradient, state.opt_state, state.params)
        params = jnp.asarray(optax.apply_updates(state.params, updates))
        average = averaged(state, params, settings.average_decay)
        new_state = TrainState(state.step + 1, state.key, params, average, opt_state, settings)
        return new_state, Metrics(values, jnp.linalg.norm(gradient))

    return step


def are_taken_in_turn(batch: Batch) -> bool:
    """Tell whether a step takes its targets one after the other: where they would not fit into a CPU's cache together.

    Accelerators have room for all, and cores for all at once.
    """
    translated = batch.x_target.shape[0] * batch.x_source.size
    return jax.default_backend() == "cpu" and translated > _IN_CACHE


def is_small(recipe: Resolved, model: Model) -> bool:
    """Tell whether a step is so small that its program takes longer to compile than to run."""
    num_sources, cells_per_source, num_targets, _ = sizes_of(recipe)
    return num_targets * num_sources * cells_per_source * model.num_features <= _SMALL


@functools.lru_cache(maxsize=32)  # a step that is run again, as by a second fit of its shapes, is not compiled again
def make_train_steps(
    step: Callable, num_steps: int, small: bool = False
) -> Callable[[TrainState, DeviceData], tuple[TrainState, Metrics]]:
    """Run `num_steps` steps in one compiled scan; state donated, metrics are means over the steps; `is_small` ones are
    compiled in less time.
    """

    def steps(state: TrainState, data: DeviceData) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(lambda carry, _: step(carry, data), state, None, length=num_steps)
        return state, jax.tree.map(lambda value: jnp.mean(value, axis=0), metrics)

    return jax.jit(steps, donate_argnums=0, compiler_options=compiler_options(RUNS_SHORT if small else RUNS_OFTEN))


def sizes_of(recipe: Recipe) -> tuple[int, int, int, int]:
    """Return the sizes of a batch: sources, cells of each, targets and cells of each in a step."""
    return recipe.num_sources, recipe.cells_per_source, recipe.num_targets, recipe.cells_per_target


def kernel_of(recipe: Resolved, median: float) -> kernels.Kernel:
    """Return the kernel of the loss; bandwidths are multiples of the median distance of cells."""
    if recipe.kernel == "energy":
        return kernels.energy(recipe.beta)
    return _KERNELS[recipe.kernel](np.asarray([factor * median for factor in recipe.bandwidths]))


_KERNELS = {"gaussian": kernels.gaussian, "laplace": kernels.laplace, "imq": kernels.inverse_multiquadric}


def step_for(recipe: Resolved, model: Model, num_conditions: int, devices: Devices | None = None) -> Callable:
    """Return the training step of a recipe, the same for all whose numbers are `Settings`."""
    terms = tuple(name for name in LossWeights._fields if getattr(recipe, name))
    kernel = (recipe.kernel, recipe.beta == 1.0, len(recipe.bandwidths))
    return _make_step(model, num_conditions, sizes_of(recipe), kernel, terms, recipe.form, devices)


@functools.lru_cache(maxsize=64)  # fits that differ in nothing that is compiled share the program
def _make_step(
    model: Model,
    num_conditions: int,
    sizes: tuple[int, int, int, int],
    kernel: tuple[str, bool, int],
    terms: tuple[str, ...],
    form: str,
    devices: Devices | None,
) -> Callable:
    num_sources, cells_per_source, num_targets, cells_per_target = sizes
    sample = make_sampler(
        num_conditions,
        num_sources=num_sources,
        cells_per_source=cells_per_source,
        num_targets=num_targets,
        cells_per_target=cells_per_target,
    )
    name, is_root, number = kernel
    # parameters are those of the state; the exponent 1 is computed without a power
    profile = kernels.energy(1.0 if is_root else 0.5) if name == "energy" else _KERNELS[name](np.ones(number))
    return make_train_step(model, sample, kernel=profile, terms=terms, form=form, devices=devices)
