"""`fit`, and the loop of chunks of steps. Files, progress and logging happen here or in what is called from here."""

import contextlib
import math
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pdae_jax.cells import StoredCells
from pdae_jax.data.checks import check_training_data
from pdae_jax.data.components import Components
from pdae_jax.data.stream import pieces
from pdae_jax.model.fitted import Fitted
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.track import Clock, History, Progress, make_progress
from pdae_jax.training.defaults import resolve_recipe
from pdae_jax.training.devices import Devices, shared_by
from pdae_jax.training.last_step import best_step, errors_by_step, fold_of, folds_to_leave_out
from pdae_jax.training.prepare import Errors, Frame, LoopState, Parts, prepare, step_of
from pdae_jax.training.recovery import STOPPED, identity_of, open_run, stop_of_folder, told_to_stop
from pdae_jax.training.reduction import seen_by_model, with_components
from pdae_jax.training.start_from import goes_on_from, started
from pdae_jax.training.step import Metrics, make_train_steps
from pdae_jax.training.validate import check_errors, worth_keeping
from pdae_jax.types import PerturbationData


def fit(
    train: PerturbationData,
    *,
    key: Array,
    validation: PerturbationData | None = None,
    source: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    workdir: str | pathlib.Path | None = None,
    start_from: str | pathlib.Path | None = None,
    devices: int | None = None,
    progress: bool | Progress | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Fitted:
    """Train a perturbation distribution autoencoder.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key; the same key, data and recipe give the same result on the same kind of device.
        validation: conditions that are never trained on (`hold_out` makes them). With them, the parameters of the
            latest evaluation are kept that is as good as the best but for chance, `patience` can stop early, and
            verdicts can say how well combinations were predicted.
        source: validation condition -> training condition whose cells are translated to it; default the control.
        recipe: hyperparameters; default `Recipe()`.
        workdir: folder of the run. Written as training goes on; an interrupted fit with the same data, key and
            recipe resumes there and ends with the same numbers.
        start_from: folder of another run of the same data and structure. The fit goes on from its newest checkpoint,
            at the same step, with the rates, weights and steps of this recipe; from then on it does not need it.
        devices: how many share each step, a divisor of the number of targets in a batch; None: one. The numbers are
            those of one device to rounding, and a run may go on with another number. After `jax.distributed.initialize`
            all processes pass ``jax.device_count()`` and the same other arguments; the first has the folder and the
            bar, and all get the model.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        config: further provenance for ``config.json``, plain values.
        **options: single fields of the recipe, ``fit(train, key=key, latent_dim=8)``.

    Raises:
        ValueError: unusable data, a workdir that holds a different run, or a start_from of other data or structure.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss, or the error on a validation condition, became NaN or infinite; names the steps.
    """
    recipe = (recipe or Recipe()).override(**options)
    source = check_request(train, validation, source, recipe)
    shared = shared_by(devices, min(recipe.num_targets, train.num_conditions), isinstance(train.x, StoredCells))
    if shared is not None and not shared.writes:
        workdir, start_from, progress = None, None, False
    if workdir is not None:
        folder.check_free(workdir)
    before = goes_on_from(workdir, start_from)  # has found components already, and after how many steps it ends
    recipe, components = with_components(recipe, train, before)
    if shared is not None and components is not None:  # the signs of directions are not the same everywhere
        components = Components(*(np.asarray(part) for part in shared.of_first(components)))
    recipe = with_stop(train, validation, key, recipe, before, workdir, progress, components, shared)
    resuming = workdir is not None and (pathlib.Path(workdir) / folder.CHECKPOINT_FOLDER).exists()
    # a finished run has nothing to compile
    chunk = 0 if resuming else recipe.log_every
    parts = prepare(key, train, validation, recipe, source, chunk=chunk, components=components, devices=shared)
    identity = identity_of(parts.frame.recipe, key, source)
    if start_from is not None:
        parts, identity["start"] = started(parts, source, train, validation, workdir, start_from)
        config = {**(config or {}), "start_from": str(start_from)}
    state, history, path = run_training(parts, identity, train, validation, workdir, progress, config or {})
    return fitted_of(parts.frame, state, train, validation, history, path)


def check_request(
    train: PerturbationData, validation: PerturbationData | None, source: Mapping[str, str] | None, recipe: Recipe
) -> dict[str, str]:
    """What can be refused before anything is computed; returns the sources by the names of their conditions."""
    check_training_data(train, validation)
    if recipe.patience is not None and validation is None:
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    found = {}
    for name, start in (source or {}).items():
        if validation is None or not validation.has(name):
            raise KeyError(f"source names {name!r}, which is no validation condition. Remove it, or correct the name.")
        # "control" is a name for the control everywhere; any other source must be a training condition, or index raises
        row = train.index(train.control if start == "control" else start)
        found[validation.conditions[validation.index(name)]] = train.conditions[row]
    return found


def with_stop(
    train: PerturbationData,
    validation: PerturbationData | None,
    key: Array,
    recipe: Recipe,
    before: str | pathlib.Path | None,
    workdir: str | pathlib.Path | None,
    progress: bool | Progress | None,
    components: Components | None = None,
    devices: Devices | None = None,
) -> Recipe:
    """The recipe with its `stop_step`, where there are no validation conditions and enough combinations to choose it.

    Args:
        train: training conditions, of which some are left out to choose (`last_step`).
        validation: with them nothing is to be chosen.
        key: of the fit.
        recipe: as it was given.
        before: folder of the run that the fit goes on from, which has chosen already.
        workdir: of the fit; what chooses is there until it has begun.
        progress: as in `fit`.
        components: what the model sees of the features.
        devices: those that share the steps.
    """
    if validation is not None or recipe.stop_step is not None:
        return recipe
    found = stop_of_folder(before)
    if devices is not None:
        found = int(devices.of_first(np.array(-1 if found is None else found)))
        found = None if found < 0 else found
    if found is not None:  # a run that goes on has chosen already
        return recipe.override(stop_step=found)
    folds = folds_to_leave_out(train, key)
    if not folds:
        return recipe
    # the fits that choose have the schedule of the fit proper
    recipe, chosen = resolve_recipe(recipe, seen_by_model(train, components)), []
    for number, left_out in enumerate(folds):
        fold = fold_of(train, key, left_out, number, workdir)  # one at a time: each has its own copy of the cells
        bar = make_progress(progress, f"choice {number + 1}/{len(folds)}")
        targets = min(recipe.num_targets, fold.train.num_conditions)  # of fewer conditions, which devices may not share
        options: dict[str, Any] = {**fold._asdict(), "recipe": recipe, "progress": bar}
        fitted = fit(**options, devices=devices.number if devices and targets % devices.number == 0 else None)
        chosen.append(errors_by_step(fitted))
    found = best_step(chosen)
    return recipe.override(stop_step=found if devices is None else int(devices.of_first(np.array(found))))


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
    saves = run is not None if devices is None else devices.any_of(run is not None)
    with contextlib.closing(run) if run else contextlib.nullcontext(), told_to_stop(saves) as stop:
        if devices is not None:
            state = devices.everywhere(state)
        state = run_steps(parts, state, run, history, make_progress(progress), stop)
        if devices is not None:
            state = devices.one_copy(state)
    return state, history.entries, run.path if run else None


def run_steps(
    parts: Parts,
    state: LoopState,
    run: folder.RunFolder | None,
    history: History,
    progress: Progress,
    stop: threading.Event | None = None,
) -> LoopState:
    """The loop: chunks of scanned steps until the last step, or until patience runs out.

    It knows steps, states and validation errors, and nothing of the model: comparators are trained by it too. Where it
    is told to stop, it saves what there is after the chunk and ends the process (`told_to_stop`).
    """
    recipe, devices, clock, compiled = parts.frame.recipe, parts.devices, Clock(), {}

    def save() -> None:
        if run:
            run.checkpoints.save(step, state if devices is None else devices.one_copy(state))

    step = step_of(state)
    state = with_start_errors(state, parts.frame)
    progress.update(step, parts.num_steps, math.nan)
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
        if told:
            raise SystemExit(STOPPED)
    progress.close()
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


def stopped(state: LoopState, recipe: Recipe) -> bool:
    """Whether patience has run out."""
    return recipe.patience is not None and bool(state.evaluations_since_lowest >= recipe.patience)


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
        standardizer=frame.standardizer,
        train=train,
        validation=validation,
        validation_errors=errors,
        recipe=frame.recipe,
        history=history,
        seed=frame.seed,
        workdir=workdir,
        components=frame.components,
    )
