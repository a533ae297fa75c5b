"""One training step and its scan: pure functions of state and data. No files, no config, no printing."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
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
    params: Float[Array, " parameters"]  # of the model, as one vector: compiles and runs faster; see `make_unravel`
    average: Float[Array, " parameters"]  # exponential moving average of params: what predicts
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
    params, _ = ravel_pytree(model.init(key_params, x, label))
    # a copy: `params` and `average` must not share buffers, the steps donate both
    return TrainState(jnp.zeros((), jnp.int32), key_steps, params, jnp.copy(params), optimizer.init(params))


@functools.lru_cache(maxsize=64)
def make_unravel(model: Model) -> Callable[[Float[Array, " parameters"]], dict]:
    """The function from the vector of a `TrainState` to the parameters that the model takes."""
    label = np.zeros((1, model.num_perturbations), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, model.num_features), np.float32), label)
    leaves, treedef = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(vector: Float[Array, " parameters"]) -> dict:
        parts = jnp.split(vector, ends)
        return treedef.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    return unravel


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
    unravel = make_unravel(model)

    def step(state: TrainState, data: DeviceData) -> tuple[TrainState, Metrics]:
        key_sample, key_loss = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = sample(key_sample, data)

        def loss(vector: Array) -> tuple[Array, LossTerms]:
            return pdae_loss(unravel(vector), model, key_loss, batch, kernel=kernel, form=form, weights=weights)

        gradient, terms = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = jnp.asarray(optax.apply_updates(state.params, updates))
        # the first steps follow the parameters closely: an average over the start would be of no use
        decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
        average = decay * state.average + (1.0 - decay) * params
        new_state = TrainState(state.step + 1, state.key, params, average, opt_state)
        return new_state, Metrics(terms, jnp.linalg.norm(gradient))

    return step


def make_refit(model: Model, cells: int = 1024) -> Callable[[TrainState, DeviceData], TrainState]:
    """``refit(state, data) -> state``: `W` set to the least squares of latents on labels, under today's encoder.

    Regressed are the latents of `cells` cells of each condition, drawn anew each time; of the averaged parameters
    with the averaged encoder.
    """
    unravel = make_unravel(model)

    def refit(state: TrainState, data: DeviceData) -> TrainState:
        x, label = balanced_sample(
            jax.random.fold_in(state.key, -state.step), data, cells
        )  # steps fold in theirs, from 0 on
        design = jnp.concatenate([jnp.ones((len(label), 1)), label], axis=1)

        def with_refit(vector: Array) -> Array:
            params = unravel(vector)
            matrix = jnp.linalg.lstsq(design, model.encode(params, x))[0][1:]
            return ravel_pytree({**params, "shift": {**params["shift"], "matrix": matrix}})[0]

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
