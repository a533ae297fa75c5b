"""The loop of chunks of steps. Files, progress and logging happen here or in what is called from here."""

import contextlib
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pdae_jax.model.fitted import Fitted
from pdae_jax.recipe import Resolved
from pdae_jax.runs import folder
from pdae_jax.runs.track import Clock, History, Progress, make_progress
from pdae_jax.training.prepare import Errors, Frame, LoopState, Parts, step_of
from pdae_jax.training.recovery import Stop, open_run, told_to_stop
from pdae_jax.training.step import Metrics, make_train_steps
from pdae_jax.training.validate import check_errors, worth_keeping
from pdae_jax.types import PerturbationData
from pdae_jax.view.stream import pieces


def run_training(
    parts: Parts,
    identity: dict[str, Any],
    train: PerturbationData,
    validation: PerturbationData | None,
    workdir: str | pathlib.Path | None,
    progress: bool | Progress | None,
    config: dict[str, Any],
) -> tuple[LoopState, list[dict[str, Any]], pathlib.Path | None]:
    """Train from the start, or from the newest checkpoint of the workdir; final state, history, folder.

    Args:
        parts: of `prepare`.
        identity: plain values that decide the result, beside the data.
        train: training conditions.
        validation: kept in the workdir with `train`.
        workdir: folder of the run; None: nothing is written.
        progress: as in `fit`.
        config: further provenance.
    """
    run, state, history = open_run(parts, identity, train, validation, workdir, config)
    devices = parts.devices
    with contextlib.ExitStack() as stack:
        if run is not None:
            stack.enter_context(contextlib.closing(run))
        saves = run is not None if devices is None else devices.any_of(run is not None)
        stop = stack.enter_context(told_to_stop(saves))
        bar = stack.enter_context(contextlib.closing(make_progress(progress)))
        if devices is not None:
            state = devices.everywhere(state)
        state = run_steps(parts, state, run, history, bar, stop)
        if devices is not None:
            state = devices.one_copy(state)
    return state, history.entries, run.path if run else None


def run_steps(
    parts: Parts,
    state: LoopState,
    run: folder.RunFolder | None,
    history: History,
    progress: Progress,
    stop: Stop | None = None,
) -> LoopState:
    """The loop: chunks of scanned steps until the last step, or until patience runs out.

    It knows steps, states and validation errors, and nothing of the model: comparators are trained by it too. Where it
    is told to stop, it saves what there is after the chunk and ends the fit (`told_to_stop`).
    """
    recipe, devices, clock, compiled = parts.frame.recipe, parts.devices, Clock(), {}

    def save() -> None:
        if run:
            run.checkpoints.save(step, state if devices is None else devices.one_copy(state))

    step = step_of(state)
    progress.update(step, parts.num_steps, math.nan)
    state = with_start_errors(state, parts.frame)
    if run and run.checkpoints.latest_step() is None and (step or not parts.num_steps):
        save()  # of another run, which is not needed from now on; or nothing is trained, and this is the result
    while step < parts.num_steps and not stopped(state, recipe):
        length = min(recipe.log_every, parts.num_steps - step)
        train_state, found = state.train, []
        for piece in pieces(parts.data, state.train.key, step, length):
            if piece.num_steps not in compiled:
                compiled[piece.num_steps] = make_train_steps(parts.step, piece.num_steps)
            train_state, metrics = compiled[piece.num_steps](train_state, piece.data)
            found.append(jax.device_get(metrics))
        metrics = jax.tree.map(lambda *values: np.mean(values, axis=0), *found)
        entry = entry_of(metrics, step, length, clock.lap())
        step += length
        state = state._replace(train=train_state)
        if is_evaluated(parts, step):
            state, entry["validation_energy_distance"] = evaluated(state, step, parts.frame)
        history.append(entry)
        told = stop is not None and stop.is_set()
        if devices is not None:
            told = devices.any_of(told)
        if told or is_saved(parts, state, step):
            save()
        progress.update(step, parts.num_steps, entry["total"])  # of what is saved: it may break off the fit
        if told and stop is not None:
            stop.end(f"step {step} in {run.path if run else 'the folder of the first process'}")
    return state


def is_evaluated(parts: Parts, step: int) -> bool:
    """Whether a state is evaluated after this step."""
    due = step % parts.frame.recipe.eval_every == 0 or step == parts.num_steps
    return parts.frame.validator is not None and due


def is_saved(parts: Parts, state: LoopState, step: int) -> bool:
    """Whether a checkpoint is written after this step."""
    recipe = parts.frame.recipe
    return step % recipe.checkpoint_every == 0 or step == parts.num_steps or stopped(state, recipe)


def with_start_errors(state: LoopState, frame: Frame) -> LoopState:
    """The state with the errors of the start, which is the first that is kept; as it is where steps were taken."""
    if not frame.validator or step_of(state):
        return state
    errors = _errors(state, 0, frame)
    return state._replace(lowest=jnp.mean(errors), errors=Errors(errors, errors))


def entry_of(metrics: Metrics, step: int, length: int, seconds: float) -> dict[str, Any]:
    """What is logged of `length` steps after `step`; ``FloatingPointError`` where they went wrong."""
    _check_finite(metrics, step, step + length)
    return {
        "step": step + length,
        **{name: float(np.mean(value)) for name, value in metrics.loss._asdict().items()},
        "gradient_norm": float(np.mean(metrics.gradient_norm)),
        "steps_per_second": length / seconds,
    }


def evaluated(state: LoopState, step: int, frame: Frame) -> tuple[LoopState, float]:
    """The state after an evaluation on the validation conditions, and their mean error."""
    assert frame.validator is not None
    errors = _errors(state, step, frame)
    return _keep(state, errors, frame.validator.noise), float(np.mean(errors))


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


def _errors(state: LoopState, step: int, frame: Frame) -> Array:
    """Of each validation condition; all finite."""
    validator = frame.validator
    assert validator is not None
    errors = validator.errors(frame.unravel(state.train.average))
    check_errors(np.asarray(errors), validator.conditions, step)
    return errors


def stopped(state: LoopState, recipe: Resolved) -> bool:
    """Whether patience has run out; one of 0 never does."""
    return recipe.patience > 0 and bool(state.evaluations_since_lowest >= recipe.patience)


def _check_finite(metrics: Metrics, first: int, last: int) -> None:
    bad = [name for name, value in metrics.loss._asdict().items() if not np.all(np.isfinite(value))]
    if bad or not np.all(np.isfinite(metrics.gradient_norm)):
        raise FloatingPointError(
            f"Between steps {first} and {last} these became NaN or infinite: {', '.join(bad) or 'the gradient'}. "
            f"Lower learning_rate, or look for extreme values in the data; checkpoints before step {first} are kept."
        )


def fitted_of(
    frame: Frame,
    state: LoopState,
    train: PerturbationData,
    validation: PerturbationData | None,
    history: list[dict[str, Any]],
    workdir: pathlib.Path | None,
) -> Fitted:
    """The model of a finished loop, in the user's units."""
    errors = {}
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
        view=frame.view,
        design=frame.design,
        train=train,
        validation=validation,
        validation_errors=errors,
        recipe=frame.recipe,
        history=history,
        seed=frame.seed,
        workdir=workdir,
        kept_step=int(state.kept_step if frame.validator else state.train.step),
    )
