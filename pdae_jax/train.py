"""One training step and its scan: pure functions of state and data. No files, no config, no printing."""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pdae_jax.compiler import RUNS_OFTEN, compiler_options
from pdae_jax.data.sample import DeviceData, balanced_sample
from pdae_jax.kernels import KernelLike
from pdae_jax.model import Model
from pdae_jax.objective import LossTerms, LossWeights, pdae_loss


class TrainState(NamedTuple):
    """Everything a run carries from step to step; saving it and going on equals never having stopped."""

    step: Int[Array, ""]
    key: Array  # of the run; step t uses fold_in(key, t)
    params: dict
    average: dict  # exponential moving average of params: what predicts
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """What a step reports."""

    loss: LossTerms
    gradient_norm: Float[Array, "..."]


def init_state(
    key: Array,
    model: Model,
    optimizer: optax.GradientTransformation,
    x: Float[Array, "cells features"],
    label: Float[Array, "cells perturbations"],
) -> TrainState:
    """The state at step 0, started from a sample of cells (equally many of each condition) with their labels."""
    key_params, key_steps = jax.random.split(key)
    params = model.init(key_params, x, label)
    # a copy: `params` and `average` must not share buffers, the steps donate both
    average = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), key_steps, params, average, optimizer.init(params))


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    sample: Callable,
    *,
    kernel: KernelLike,
    weights: LossWeights,
    form: str = "pairwise",
    average_decay: float = 0.999,
) -> Callable[[TrainState, DeviceData], tuple[TrainState, Metrics]]:
    """``step(state, data) -> (state, metrics)``: draw a batch, descend, average."""

    def step(state: TrainState, data: DeviceData) -> tuple[TrainState, Metrics]:
        key_sample, key_loss = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = sample(key_sample, data)
        gradient_fn = jax.grad(pdae_loss, has_aux=True)
        gradient, terms = gradient_fn(state.params, model, key_loss, batch, kernel=kernel, form=form, weights=weights)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(dict, optax.apply_updates(state.params, updates))
        # the first steps follow the parameters closely: an average over the start would be of no use
        decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
        average = cast(dict, optax.incremental_update(params, state.average, 1.0 - decay))
        new_state = TrainState(state.step + 1, state.key, params, average, opt_state)
        return new_state, Metrics(terms, optax.tree.norm(gradient))

    return step


def make_refit(model: Model, cells: int = 1024) -> Callable[[TrainState, DeviceData], TrainState]:
    """``refit(state, data) -> state``: `W` set to the least squares of latents on labels, under today's encoder.

    Regressed are the latents of `cells` cells of each condition, drawn anew each time; of the averaged parameters
    with the averaged encoder.
    """

    def refit(state: TrainState, data: DeviceData) -> TrainState:
        x, label = balanced_sample(
            jax.random.fold_in(state.key, -state.step), data, cells
        )  # steps fold in theirs, from 0 on
        design = jnp.concatenate([jnp.ones((len(label), 1)), label], axis=1)

        def with_refit(params: dict) -> dict:
            matrix = jnp.linalg.lstsq(design, model.encode(params, x))[0][1:]
            return {**params, "shift": {**params["shift"], "matrix": matrix}}

        return state._replace(params=with_refit(state.params), average=with_refit(state.average))

    return refit


@functools.lru_cache(maxsize=32)
def replicate(step: Callable, *, bootstrap: bool = False) -> Callable:
    """The same step for many replicas: states with a leading axis, one data set.

    With `bootstrap`, ``data.rows`` has the leading axis too: each replica draws from cells of its own.
    """
    own_rows = DeviceData(x=None, start=None, count=None, labels=None, rows=0)  # pyright: ignore[reportArgumentType]
    return jax.vmap(step, in_axes=(0, own_rows if bootstrap else None))


@functools.lru_cache(maxsize=32)  # a step that is run again, as by a second fit of its shapes, is not compiled again
def make_train_steps(
    step: Callable, num_steps: int, refit: Callable | None = None
) -> Callable[[TrainState, DeviceData], tuple[TrainState, Metrics]]:
    """`num_steps` steps in one compiled scan, then `refit`; state donated, metrics are means over the steps."""

    def steps(state: TrainState, data: DeviceData) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(lambda carry, _: step(carry, data), state, None, length=num_steps)
        if refit is not None:
            state = refit(state, data)
        return state, jax.tree.map(lambda value: jnp.mean(value, axis=0), metrics)

    return jax.jit(steps, donate_argnums=0, compiler_options=compiler_options(RUNS_OFTEN))
