"""From a recipe, data and a key to all that a loop needs: model, data on the device, step, state at step 0."""

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pdae_jax.data.sample import DeviceData, balanced_rows, make_sampler, to_device
from pdae_jax.data.units import Standardizer
from pdae_jax.model.model import Model, Start, linear_start
from pdae_jax.randomness import make_random
from pdae_jax.recipe import LossWeights, Recipe
from pdae_jax.training.compiler import RUNS_ONCE, compiler_options, without_garbage_collection
from pdae_jax.training.defaults import build_model, resolve_recipe
from pdae_jax.training.optimizer import make_optimizer
from pdae_jax.training.pilot import make_pilot, with_units
from pdae_jax.training.step import TrainState, init_state, make_train_step, make_train_steps, make_unravel
from pdae_jax.training.validate import Validator, make_validator
from pdae_jax.two_sample import kernels
from pdae_jax.types import PerturbationData


class LoopState(NamedTuple):
    """What a checkpoint holds: the training state, and the parameters that would be kept if it ended here.

    Of an ensemble every leaf has a leading axis of replicas.
    """

    train: TrainState
    # averaged parameters at the latest evaluation that was `worth_keeping`; the initial ones before the first
    kept: Float[Array, "*replicas parameters"]
    lowest: Float[Array, "*replicas"]  # of all evaluations, mean energy distance over the validation conditions
    evaluations_since_lowest: Int[Array, "*replicas"]


class Parts(NamedTuple):
    """What a recipe, data and a key define: everything `fit` needs, built without a side effect."""

    recipe: Recipe  # resolved
    num_steps: int  # to be taken: all of the schedule, or the recipe's `stop_step`
    standardizer: Standardizer
    model: Model
    unravel: Callable  # [parameters] -> params of the model
    data: DeviceData
    step: Callable
    state: LoopState  # at step 0
    validator: Validator | None
    seed: int


def step_of(state: LoopState) -> int:
    """Steps taken; replicas step together."""
    return int(np.ravel(state.train.step)[0])


@without_garbage_collection()
def prepare(
    key: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    recipe: Recipe,
    source: Mapping[str, str] | None = None,
    *,
    chunk: int = 0,
) -> Parts:
    """Model, data on the device, training step and initial state of a fit.

    With `chunk`, that many steps are compiled (`make_train_steps`), while another thread compiles the start: XLA works
    outside Python's lock, and before a first step of a small model there is nothing else to wait for.
    """
    recipe = with_units(recipe, train)
    pilot = make_pilot(recipe, train)
    recipe = resolve_recipe(recipe, train, pilot)
    num_steps = recipe.num_steps
    assert num_steps is not None
    standardizer, inside = pilot.standardizer, pilot.data
    model = build_model(recipe, train, standardizer)
    data = to_device(inside)
    optimizer = _make_optimizer(recipe)
    random = make_random(key)
    rows = balanced_rows(random, train, int(np.clip(_START_CELLS // train.num_conditions, 8, 256)))
    additive = linear_start(
        inside.x[rows],
        inside.labels[train.condition_index[rows]],
        pilot.linear if recipe.observed_effects else pilot.additive,
        model.latent_dim,
        noise=recipe.noise,
        noise_dim=recipe.noise_dim,
    )
    # one program instead of many small ones, each of which would be compiled by itself
    start = jax.jit(_start, static_argnums=(2, 3), compiler_options=compiler_options(RUNS_ONCE))
    start = start.trace(key, additive, model, optimizer)

    def make_step(bandwidths: tuple[float, ...] | None) -> Callable:
        step = _make_step(recipe, model, optimizer, train.num_conditions, bandwidths)
        if chunk:
            make_train_steps(step, min(chunk, num_steps)).lower(start.out_info[0].train, data).compile()
        return step

    with ThreadPoolExecutor(max_workers=1) as thread:
        # only compiled there: contexts of the caller, its default device say, do not reach another thread
        compiling = thread.submit(start.lower().compile)
        step = make_step(None) if recipe.kernel == "energy" else None
        state, key_validate = compiling.result()(key, additive)
    step = step or make_step(_bandwidths(recipe, inside.x[rows]))
    return Parts(
        recipe=recipe,
        num_steps=num_steps if recipe.stop_step is None else min(recipe.stop_step, num_steps),
        standardizer=standardizer,
        model=model,
        unravel=jax.jit(make_unravel(model)),
        data=data,
        step=step,
        state=state,
        validator=make_validator(key_validate, model, standardizer, train, validation, source) if validation else None,
        seed=int(random.integers(2**31 - 1)),
    )


def _start(
    key: Array, additive: Start, model: Model, optimizer: optax.GradientTransformation
) -> tuple[LoopState, Array]:
    """The state at step 0, and a key for the validator."""
    key_init, key_steps, key_validate = jax.random.split(key, 3)
    state = init_state(key_steps, model.init(key_init, additive), optimizer)
    return LoopState(state, jnp.copy(state.params), jnp.array(jnp.inf), jnp.zeros((), jnp.int32)), key_validate


_START_CELLS = 8192  # of all conditions together, at most 256 of each


def _bandwidths(recipe: Recipe, x: Float[np.ndarray, "cells features"]) -> tuple[float, ...]:
    """Multiples of the median distance."""
    median = float(kernels.median_bandwidth(jax.random.key(0), x))
    return tuple(factor * median for factor in recipe.bandwidths)


@functools.lru_cache(maxsize=64)
def _make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    assert recipe.num_steps is not None and recipe.learning_rate is not None, "resolve_recipe comes first"
    return make_optimizer(
        recipe.num_steps,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        clip_norm=recipe.clip_norm,
    )


@functools.lru_cache(maxsize=64)  # so that fits of one shape, as in a sweep or an ensemble, share what is compiled
def _make_step(
    recipe: Recipe,
    model: Model,
    optimizer: optax.GradientTransformation,
    num_conditions: int,
    bandwidths: tuple[float, ...] | None,
) -> Callable:
    sample = make_sampler(
        num_conditions,
        num_sources=recipe.num_sources,
        cells_per_source=recipe.cells_per_source,
        num_targets=recipe.num_targets,
        cells_per_target=recipe.cells_per_target,
    )
    make = {"gaussian": kernels.gaussian, "laplace": kernels.laplace, "imq": kernels.inverse_multiquadric}
    return make_train_step(
        model,
        optimizer,
        sample,
        kernel=kernels.energy(recipe.beta) if bandwidths is None else make[recipe.kernel](jnp.asarray(bandwidths)),
        form=recipe.form,
        weights=LossWeights(**{name: getattr(recipe, name) for name in LossWeights._fields}),
        average_decay=recipe.average_decay,
    )
