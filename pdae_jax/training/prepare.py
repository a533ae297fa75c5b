"""From a plan to all that trains: model, compiled step, data on the device, state at step 0."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.compiled import RUNS_ONCE, compiler_options
from pdae_jax.model.model import Model, Start, linear_start
from pdae_jax.randomness import make_random
from pdae_jax.training.defaults import build_model, has_few_cells
from pdae_jax.training.devices import Devices
from pdae_jax.training.plan import Plan, Shared
from pdae_jax.training.resume import has_checkpoint
from pdae_jax.training.state import Frame, LoopState, start_errors, with_errors, with_start
from pdae_jax.training.step import (
    Settings,
    init_state,
    is_small,
    kernel_of,
    make_train_steps,
    make_unravel,
    neutral_of,
    settings_of,
    sizes_of,
    start_shapes,
    step_for,
)
from pdae_jax.training.validate import Validator, make_validator
from pdae_jax.two_sample import kernels
from pdae_jax.view.sampler import DeviceData, balanced_rows, bootstrap_rows
from pdae_jax.view.stream import Streamed, feed

_BOOTSTRAP = 3  # folded into the key of a fit, which is split into three, those of 0, 1 and 2
_SEED = 8  # folded into the key of a fit
_START_CELLS = 8192  # of all conditions together, at most 256 of each


class Program(NamedTuple):
    """What a plan becomes, without a side effect."""

    frame: Frame
    data: DeviceData | Streamed
    step: Callable
    state: LoopState  # at step 0
    devices: Devices | None = None  # that share the steps; `data` is on all of them

    @property
    def plan(self) -> Plan:
        """The plan that it trains by."""
        return self.frame.plan

    @property
    def num_steps(self) -> int:
        """Steps to be taken."""
        return self.plan.num_steps


class _Beginning(NamedTuple):
    """What is the same for fits that differ in values of the program only."""

    state: LoopState
    validator: Validator | None
    median: float  # distance of cells, which bandwidths are multiples of


def prepare(plan: Plan, shared: Shared | None = None, *, ahead: bool = False) -> Program:
    """Prepare the model, data on the device, training step and initial state of a fit.

    Args:
        plan: of the fit.
        shared: what those have in common that are prepared together.
        ahead: a chunk of steps is compiled while another thread compiles the start: XLA works outside Python's lock,
            and before a first step of a small model there is nothing else to wait for.
    """
    request, recipe, pilot, shared = plan.request, plan.recipe, plan.pilot, shared or Shared()
    devices, seen = plan.devices, pilot.train
    model = build_model(recipe, pilot.view, pilot.design)
    step = step_for(recipe, model, len(seen.counts), devices)
    of_data = (id(seen), recipe.sight, sizes_of(recipe))
    data = shared.once(("data", of_data), lambda: feed(seen, pilot.view, pilot.design, sizes_of(recipe)))
    if request.bootstrap:
        data = _resampled(data, plan.root)
    if devices is not None:
        data = devices.everywhere(data)
    key = tuple(np.ravel(jax.random.key_data(plan.root)).tolist())
    sources = tuple(sorted((request.source or {}).items()))
    of_start = (id(seen), id(request.validation), key, sources, neutral_of(recipe))
    goes_on = plan.before is not None and has_checkpoint(plan.before)  # a finished run has nothing to compile
    if devices is not None:  # of several processes the first alone sees the folder
        goes_on = devices.any_of(goes_on)
    ahead = ahead and not goes_on and devices is None
    chunk = min(recipe.log_every, plan.num_steps) if ahead and isinstance(data, DeviceData) else 0
    compiled = (make_train_steps(step, chunk, is_small(recipe, model)), data) if chunk else None
    start = shared.once(("start", of_start), lambda: _begin(plan, model, compiled))
    frame = _frame(plan, model, start.validator)
    state = start.state
    if not goes_on:
        errors = shared.once(("errors", of_start), lambda: start_errors(state, frame))
        state = with_start(state, errors)
    settings = settings_of(recipe, kernel_of(recipe, start.median).parameters)
    return Program(frame, data, step, state._replace(train=state.train._replace(settings=settings)), devices)


def _begin(plan: Plan, model: Model, compiled: tuple[Any, Any] | None) -> _Beginning:
    """The state at step 0, from the linear model; meanwhile a chunk of steps is compiled."""
    recipe, pilot = plan.recipe, plan.pilot
    number = int(np.clip(_START_CELLS // len(pilot.train.counts), 8, 256))
    rows = balanced_rows(make_random(plan.root), pilot.train.condition_index, number)
    cells = pilot.cells(rows)
    median = 1.0 if recipe.kernel == "energy" else float(kernels.median_bandwidth(jax.random.key(0), cells))
    arguments = (
        plan.root,
        _linear_start(plan, model, rows, cells),
        settings_of(recipe, kernel_of(recipe, median).parameters),
    )
    shapes = _shapes(arguments)
    start = _lowered_start(model, shapes)
    with ThreadPoolExecutor(max_workers=1) as thread:
        # only compiled there: contexts of the caller, its default device say, do not reach another thread
        compiling = thread.submit(_compiled_start, model, shapes)
        if compiled is not None:
            steps, data = compiled
            steps.lower(start.out_info[0].train, data).compile()
        state, key_validate = compiling.result()(*arguments)
    validator = _validator(plan, model, key_validate)
    return _Beginning(with_errors(state, validator), validator, median)


def _linear_start(plan: Plan, model: Model, rows: np.ndarray, cells: Float[np.ndarray, "cells _"]) -> Start:
    recipe, pilot = plan.recipe, plan.pilot
    start = linear_start(
        cells,
        pilot.design.rows[pilot.train.condition_index[rows]],
        pilot.means.linear if recipe.observed_effects else pilot.additive,
        model.latent_dim,
        noise_dim=model.noise_dim,
        nets=0.0 if has_few_cells(pilot.train.counts) else 1.0,
    )
    return start if model.interactions is None else start._replace(interactions=pilot.means.interactions)


def outline(plan: Plan) -> tuple[Frame, LoopState]:
    """Make what the checkpoint of a run is read with; of the state, shapes only."""
    model = build_model(plan.recipe, plan.view, plan.design)
    validator = _validator(plan, model, jax.random.split(plan.root, 3)[2])
    start = functools.partial(_start, model=model)
    settings = settings_of(plan.recipe, kernel_of(plan.recipe, 1.0).parameters)
    state, _ = jax.eval_shape(start, plan.root, start_shapes(model), settings)
    return _frame(plan, model, validator), jax.eval_shape(lambda state: with_errors(state, validator), state)


def _frame(plan: Plan, model: Model, validator: Validator | None) -> Frame:
    seed = int(make_random(jax.random.fold_in(plan.root, _SEED)).integers(2**31 - 1))
    return Frame(plan, model, jax.jit(make_unravel(model)), validator, seed)


def _validator(plan: Plan, model: Model, key: Array) -> Validator | None:
    request = plan.request
    if request.validation is None:
        return None
    given = request.train, request.validation, request.source
    return make_validator(key, model, plan.view, plan.design, *given, devices=plan.devices)


def _resampled(data: DeviceData | Streamed, key: Array) -> DeviceData | Streamed:
    """The same data, of which as many cells are drawn with replacement."""
    index = data.index if isinstance(data, Streamed) else data
    index = index._replace(rows=bootstrap_rows(jax.random.fold_in(key, _BOOTSTRAP), index))
    return data._replace(index=index) if isinstance(data, Streamed) else index


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


# kept: replicas and members of a population start by one program, as do later fits of these shapes
@functools.lru_cache(maxsize=16)
def _lowered_start(model: Model, shapes: _Shapes) -> Any:
    # one program instead of many small ones, each of which would be compiled by itself
    tree, kinds, _ = shapes
    arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    start = jax.jit(_start, static_argnums=3, compiler_options=compiler_options(RUNS_ONCE))
    return start.lower(*arguments, model)


@functools.lru_cache(maxsize=16)  # by itself: compiled in a thread, while this one goes on with the lowered one
def _compiled_start(model: Model, shapes: _Shapes) -> Any:
    return _lowered_start(model, shapes).compile()
