"""The state of a fit between chunks of steps: what an evaluation makes of it, and the model that it is in the end."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.model.fitted import Fitted
from pdae_jax.model.model import Model
from pdae_jax.recipe import Resolved
from pdae_jax.training.plan import Plan
from pdae_jax.training.step import TrainState
from pdae_jax.training.validate import Validator, check_errors, worth_keeping
from pdae_jax.types import Params


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
    """What judges a state, and makes a model of it."""

    plan: Plan
    model: Model
    unravel: Callable[[Array], Params]  # of a vector of parameters
    validator: Validator | None
    seed: int  # of evaluations of the model that are given no key

    @property
    def recipe(self) -> Resolved:
        """The recipe that the fit has."""
        return self.plan.recipe


def step_of(state: LoopState) -> int:
    """Count the steps that were taken."""
    return int(state.train.step)


def with_errors(state: LoopState, validator: Validator | None) -> LoopState:
    """Make room for the errors on validation conditions."""
    if validator is None:
        return state
    room = jnp.zeros(len(validator.conditions), jnp.float32)
    return state._replace(errors=Errors(room, jnp.copy(room)))


def start_errors(state: LoopState, frame: Frame) -> Array | None:
    """Evaluate the start, which is the first that is kept; None where steps were taken, or nothing validates."""
    return None if frame.validator is None or step_of(state) else _errors(state, 0, frame)


def with_start(state: LoopState, errors: Array | None) -> LoopState:
    """Keep the start with its errors; ``None`` leaves the state as it is."""
    return state if errors is None else state._replace(lowest=jnp.mean(errors), errors=Errors(errors, errors))


def evaluated(state: LoopState, step: int, frame: Frame) -> tuple[LoopState, float]:
    """Evaluate on the validation conditions: the state after it, and their mean error."""
    assert frame.validator is not None
    errors = _errors(state, step, frame)
    return _keep(state, errors, frame.validator.noise), float(np.mean(errors))


def _errors(state: LoopState, step: int, frame: Frame) -> Array:
    """Return the error of each validation condition; all finite."""
    validator = frame.validator
    assert validator is not None
    errors = validator.errors(frame.unravel(state.train.average))
    check_errors(np.asarray(errors), validator.conditions, step)
    return errors


def _keep(state: LoopState, errors: Array, noise: float) -> LoopState:
    """Keep the averaged parameters where none before were better."""
    assert state.errors is not None
    value, start = jnp.mean(errors), jnp.mean(state.errors.start)
    # a fit never ends worse than it began
    keep = worth_keeping(value, state.lowest, noise) & (value <= start)
    return LoopState(
        train=state.train,
        kept=jnp.where(keep, state.train.average, state.kept),
        lowest=jnp.minimum(value, state.lowest),
        evaluations_since_lowest=jnp.where(value < state.lowest, 0, state.evaluations_since_lowest + 1),
        kept_step=jnp.where(keep, state.train.step, state.kept_step),
        errors=state.errors._replace(kept=jnp.where(keep, errors, state.errors.kept)),
    )


def out_of_patience(state: LoopState, recipe: Resolved) -> bool:
    """Tell whether patience has run out; one of 0 never does."""
    return recipe.patience > 0 and bool(state.evaluations_since_lowest >= recipe.patience)


def fitted_of(frame: Frame, state: LoopState, history: list[dict[str, Any]], workdir: pathlib.Path | None) -> Fitted:
    """Make the model of a state that was trained, in the user's units."""
    plan, errors = frame.plan, {}
    if frame.validator and state.errors:
        of_conditions = zip(
            frame.validator.conditions,
            *(np.asarray(values) for values in (*state.errors, frame.validator.control)),
            strict=True,
        )
        errors = {
            condition: {"pdae": float(kept), "start": float(start), "control": float(control)}
            for condition, start, kept, control in of_conditions
        }
    # by way of the host: bound to no device, so that it predicts where it is asked to, and together with other models
    params = jnp.asarray(jax.device_get(state.kept if frame.validator else state.train.average))
    return Fitted(
        model=frame.model,
        params=frame.unravel(params),
        view=plan.view,
        design=plan.design,
        train=plan.request.train,
        validation=plan.request.validation,
        validation_errors=errors,
        recipe=plan.recipe,
        history=history,
        seed=frame.seed,
        workdir=workdir,
        kept_step=int(state.kept_step if frame.validator else state.train.step),
    )
