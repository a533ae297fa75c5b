"""From a recipe, data and a key to all that a loop needs: model, data on the device, step, state at step 0."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.design.design import Design
from pdae_jax.model.model import Model, Start, linear_start
from pdae_jax.randomness import make_random
from pdae_jax.recipe import LossWeights, Recipe, Resolved
from pdae_jax.training.compiler import RUNS_ONCE, compiler_options, without_garbage_collection
from pdae_jax.training.defaults import build_model, has_few_cells, resolve_recipe
from pdae_jax.training.devices import Devices
from pdae_jax.training.pilot import Pilot, make_pilot
from pdae_jax.training.step import (
    Settings,
    TrainState,
    init_state,
    make_train_step,
    make_train_steps,
    make_unravel,
    settings_of,
    start_shapes,
)
from pdae_jax.training.validate import Validator, make_validator
from pdae_jax.two_sample import kernels
from pdae_jax.types import Params, PerturbationData
from pdae_jax.view.components import Components
from pdae_jax.view.sampler import DeviceData, balanced_rows, make_sampler
from pdae_jax.view.stream import Streamed, feed
from pdae_jax.view.view import View


class Errors(NamedTuple):
    """Energy distances on validation conditions, of the parameters at the start and of those that are kept."""

    start: Float[Array, " conditions"]
    kept: Float[Array, " conditions"]


class LoopState(NamedTuple):
    """What a checkpoint holds: the training state, and the parameters that would be kept if it ended here."""

    train: TrainState
    # averaged parameters at the latest evaluation that was `worth_keeping`; the initial ones before the first
    kept: Float[Array, " parameters"]
    lowest: Float[Array, ""]  # of all evaluations, mean energy distance over the validation conditions
    evaluations_since_lowest: Int[Array, ""]
    kept_step: Int[Array, ""]  # after which `kept` was the average
    errors: Errors | None = None  # None without validation conditions


class Frame(NamedTuple):
    """What makes a model of a state that was trained."""

    recipe: Resolved
    view: View
    design: Design
    model: Model
    unravel: Callable[[Array], Params]  # of a vector of parameters
    validator: Validator | None
    seed: int


class Parts(NamedTuple):
    """What a recipe, data and a key define: everything `fit` needs, built without a side effect."""

    frame: Frame
    num_steps: int  # to be taken: all of the schedule, or the recipe's `stop_step`
    data: DeviceData | Streamed
    step: Callable
    state: LoopState  # at step 0
    devices: Devices | None = None  # that share the steps; `data` is on all of them


def step_of(state: LoopState) -> int:
    """Steps taken."""
    return int(state.train.step)


@without_garbage_collection()
def prepare(
    key: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    recipe: Recipe,
    source: Mapping[str, str] | None = None,
    *,
    chunk: int = 0,
    components: Components | None = None,
    like: Parts | None = None,
    devices: Devices | None = None,
) -> Parts:
    """Model, data on the device, training step and initial state of a fit.

    With `chunk`, that many steps are compiled (`make_train_steps`), while another thread compiles the start: XLA works
    outside Python's lock, and before a first step of a small model there is nothing else to wait for. With
    `components` the model is one of their scores. `like` is of another fit of the same training data: what it has on
    the device serves this one too, where it is in the same units. With `devices`, so many share each step.
    """
    pilot = make_pilot(recipe, train, components)
    recipe = resolve_recipe(recipe, train, pilot)
    model = build_model(recipe, train, pilot.view)
    if like is not None and isinstance(like.data, DeviceData) and _same_units(like.frame.recipe, recipe):
        data = like.data
    else:
        data = feed(pilot.train, pilot.view, pilot.design, sizes_of(recipe))
    random = make_random(key)
    rows = balanced_rows(random, train, int(np.clip(_START_CELLS // train.num_conditions, 8, 256)))
    cells = pilot.cells(rows)
    additive = linear_start(
        cells,
        pilot.design.rows[train.condition_index[rows]],
        pilot.linear if recipe.observed_effects else pilot.additive,
        model.latent_dim,
        noise_dim=model.noise_dim,
        nets=0.0 if has_few_cells(train) else 1.0,
    )
    settings = settings_of(recipe, kernel_of(recipe, cells).parameters)
    shapes = _shapes((key, additive, settings))
    start = _lowered_start(model, shapes)
    with ThreadPoolExecutor(max_workers=1) as thread:
        # only compiled there: contexts of the caller, its default device say, do not reach another thread
        compiling = thread.submit(_compiled_start, model, shapes)
        step = step_for(recipe, model, train.num_conditions, devices)
        if chunk and isinstance(data, DeviceData) and devices is None:
            make_train_steps(step, min(chunk, recipe.num_steps)).lower(start.out_info[0].train, data).compile()
        state, key_validate = compiling.result()(key, additive, settings)
    frame = _frame(recipe, model, pilot, key, key_validate, train, validation, source, devices)
    return Parts(
        frame=frame,
        num_steps=steps_to_take(recipe),
        data=data if devices is None else devices.everywhere(data),
        step=step,
        state=with_errors(state, frame.validator),
        devices=devices,
    )


def steps_to_take(recipe: Resolved) -> int:
    """All of the schedule, or up to the recipe's `stop_step`."""
    return recipe.num_steps if recipe.stop_step is None else min(recipe.stop_step, recipe.num_steps)


def outline(
    key: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    recipe: Recipe,
    source: Mapping[str, str] | None,
    components: Components | None = None,
) -> tuple[Frame, LoopState]:
    """Of a run with a resolved recipe, what its checkpoint is read with: the state has shapes only."""
    recipe = Resolved(**dataclasses.asdict(recipe))
    pilot = make_pilot(recipe, train, components)
    model = build_model(recipe, train, pilot.view)
    key_validate = jax.random.split(key, 3)[2]
    frame = _frame(recipe, model, pilot, key, key_validate, train, validation, source)
    start = functools.partial(_start, model=model)
    state, _ = jax.eval_shape(start, key, start_shapes(model), settings_of(recipe, kernel_of(recipe, None).parameters))
    return frame, jax.eval_shape(lambda state: with_errors(state, frame.validator), state)


def _frame(
    recipe: Resolved,
    model: Model,
    pilot: Pilot,
    key: Array,
    key_validate: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    source: Mapping[str, str] | None,
    devices: Devices | None = None,
) -> Frame:
    seed = int(make_random(jax.random.fold_in(key, _SEED)).integers(2**31 - 1))
    frame = Frame(recipe, pilot.view, pilot.design, model, jax.jit(make_unravel(model)), None, seed)
    if validation is None:
        return frame
    validator = make_validator(
        key_validate, model, pilot.view, pilot.design, train, validation, source, devices=devices
    )
    return frame._replace(validator=validator)


def with_errors(state: LoopState, validator: Validator | None) -> LoopState:
    """The state with room for the errors on validation conditions."""
    if validator is None:
        return state
    room = jnp.zeros(len(validator.conditions), jnp.float32)
    return state._replace(errors=Errors(room, jnp.copy(room)))


def _start(key: Array, additive: Start, settings: Settings, model: Model) -> tuple[LoopState, Array]:
    """The state at step 0, and a key for the validator."""
    key_init, key_steps, key_validate = jax.random.split(key, 3)
    state = init_state(key_steps, model.init(key_init, additive), settings)
    zero = jnp.zeros((), jnp.int32)
    return LoopState(state, jnp.copy(state.params), jnp.array(jnp.inf), zero, jnp.copy(zero)), key_validate


_Shapes = tuple[Any, tuple[Any, ...], Any]  # tree, leaves, and the device that a program is compiled for


def _shapes(arguments: Any) -> _Shapes:
    leaves, tree = jax.tree.flatten(arguments)
    kinds = [jax.typeof(leaf) for leaf in leaves]
    return tree, tuple((kind.shape, kind.dtype) for kind in kinds), jax.config.values["jax_default_device"]


# replicas and members of a population start by one program, as do later fits of these shapes
@functools.lru_cache(maxsize=16)
def _lowered_start(model: Model, shapes: _Shapes) -> Any:
    # one program instead of many small ones, each of which would be compiled by itself
    tree, kinds, _ = shapes
    arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    start = jax.jit(_start, static_argnums=3, compiler_options=compiler_options(RUNS_ONCE))
    return start.lower(*arguments, model)


@functools.lru_cache(maxsize=16)
def _compiled_start(model: Model, shapes: _Shapes) -> Any:
    return _lowered_start(model, shapes).compile()


_SEED = 8  # folded into the key of a fit
_START_CELLS = 8192  # of all conditions together, at most 256 of each


def sizes_of(recipe: Recipe) -> tuple[int, int, int, int]:
    """Sources, cells of each, targets and cells of each in a step."""
    return recipe.num_sources, recipe.cells_per_source, recipe.num_targets, recipe.cells_per_target


def _same_units(recipe: Resolved, other: Resolved) -> bool:
    """Whether the cells of fits of the same data are the same on the device."""
    return (recipe.standardize, recipe.components) == (other.standardize, other.components)


def kernel_of(recipe: Resolved, x: Float[np.ndarray, "cells features"] | None) -> kernels.Kernel:
    """The kernel of the loss; bandwidths are multiples of the median distance of the cells `x`, of 1 for None."""
    if recipe.kernel == "energy":
        return kernels.energy(recipe.beta)
    median = 1.0 if x is None else float(kernels.median_bandwidth(jax.random.key(0), x))
    return _KERNELS[recipe.kernel](np.asarray([factor * median for factor in recipe.bandwidths]))


_KERNELS = {"gaussian": kernels.gaussian, "laplace": kernels.laplace, "imq": kernels.inverse_multiquadric}


def step_for(recipe: Resolved, model: Model, num_conditions: int, devices: Devices | None = None) -> Callable:
    """The training step of a recipe, the same for all whose numbers are `Settings`."""
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
