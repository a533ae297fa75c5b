"""`fit` and `load_run`: the only loop. Files, progress and logging happen here or in what is called from here."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

from pdae_jax import folder, kernels
from pdae_jax.data.sample import DeviceData, make_sampler, to_device
from pdae_jax.data.store import fingerprint, load_data
from pdae_jax.fitted import Fitted, Standardizer, build_model, check_training_data, make_standardizer, resolve_recipe
from pdae_jax.model import Model
from pdae_jax.objective import LossWeights
from pdae_jax.optimizer import make_optimizer
from pdae_jax.recipe import Recipe
from pdae_jax.track import Clock, History, Progress, make_progress, read_metrics
from pdae_jax.train import Metrics, TrainState, init_state, make_train_step, make_train_steps
from pdae_jax.types import PerturbationData
from pdae_jax.validate import Validator, make_validator


class LoopState(NamedTuple):
    """What a checkpoint holds: the training state, and the best parameters so far."""

    train: TrainState
    best_params: dict  # averaged parameters at the best evaluation; the initial ones before the first
    best_value: Float[Array, ""]  # mean energy distance over the validation conditions there
    evaluations_since_best: Int[Array, ""]


class Parts(NamedTuple):
    """What a recipe, data and a key define: everything `fit` needs, built without a side effect."""

    recipe: Recipe
    standardizer: Standardizer
    model: Model
    data: DeviceData
    step: Callable
    state: LoopState  # at step 0
    validator: Validator | None
    seed: int


def fit(
    train: PerturbationData,
    *,
    key: Array,
    validation: PerturbationData | None = None,
    test: PerturbationData | None = None,
    source: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    workdir: str | pathlib.Path | None = None,
    progress: bool | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Fitted:
    """Train a perturbation distribution autoencoder.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key; the same key, data and recipe give the same result on the same kind of device.
        validation: conditions that are never trained on (`hold_out` makes them). With them, the parameters of the
            best evaluation are kept, `patience` can stop early, and verdicts can say how well combinations were
            predicted.
        test: held-out conditions, kept in the workdir for the evaluation of the run; the fit does not look at them.
        source: validation condition -> training condition whose cells are translated to it; default the control.
        recipe: hyperparameters; default `Recipe()`.
        workdir: folder of the run. Written as training goes on; an interrupted fit with the same data, key and
            recipe resumes there and ends with the same numbers.
        progress: show a bar on stderr; None: if it is a terminal.
        config: further provenance for ``config.json``, plain values.
        **options: single fields of the recipe, ``fit(train, key=key, latent_dim=8)``.

    Raises:
        ValueError: unusable data, or a workdir that holds a different run.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss became NaN or infinite; names the steps.
    """
    recipe = (recipe or Recipe()).override(**options)
    check_training_data(train, validation)
    if recipe.patience is not None and validation is None:
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    for name in source or {}:
        if validation is None or name not in validation.conditions:
            raise KeyError(f"source names {name!r}, which is no validation condition. Remove it, or correct the name.")
    # "control" is a name for the control everywhere; any other source must be a training condition, or index raises
    source = {
        c: train.conditions[train.index(train.control if s == "control" else s)] for c, s in (source or {}).items()
    }
    parts = prepare(key, train, validation, recipe, source)
    run, state = None, parts.state
    if workdir is not None:
        identity = {
            "recipe": parts.recipe.to_dict(),
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            "source": source,
            "data": {"train": fingerprint(train), "validation": fingerprint(validation), "test": fingerprint(test)},
        }
        run = folder.RunFolder(pathlib.Path(workdir), identity, config or {})
        run.save_data(train, validation, test)
        if run.checkpoints.latest_step() is not None:
            state = run.checkpoints.restore(state)
            logging.info("Resuming %s at step %d.", run.path, int(state.train.step))
    history = History(run.path / folder.METRICS_FILE if run else None, resume_step=int(state.train.step))
    state = _train(parts, state, run, history, make_progress(progress))
    if run:
        run.checkpoints.close()
    return _fitted(parts, state, train, validation, history.entries, run.path if run else None)


def load_run(workdir: str | pathlib.Path) -> Fitted:
    """The fitted model of a run folder, as `fit` returned it; the folder is only read.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in the folder.
    """
    path = pathlib.Path(workdir)
    if not (path / folder.CONFIG_FILE).exists():
        raise FileNotFoundError(f"No run in {str(path)!r}: it has no {folder.CONFIG_FILE}. Pass the workdir of a fit.")
    identity = json.loads((path / folder.CONFIG_FILE).read_text())["identity"]
    train = load_data(path / folder.TRAIN_FILE)
    validation = load_data(path / folder.VALIDATION_FILE) if identity["data"]["validation"] else None
    key = jax.random.wrap_key_data(jnp.asarray(identity["key"], dtype=jnp.uint32))
    parts = prepare(key, train, validation, Recipe.from_dict(identity["recipe"]), identity.get("source"))
    checkpoints = folder.Checkpoints(path / folder.CHECKPOINT_FOLDER)
    state = checkpoints.restore(parts.state)
    checkpoints.close()
    entries = [e for e in read_metrics(path / folder.METRICS_FILE) if e["step"] <= int(state.train.step)]
    return _fitted(parts, state, train, validation, entries, path)


def prepare(
    key: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    recipe: Recipe,
    source: Mapping[str, str] | None = None,
) -> Parts:
    """Model, data on the device, training step and initial state of a fit."""
    recipe = resolve_recipe(recipe, train)
    key_start, key_init, key_seed, key_validate = jax.random.split(key, 4)
    standardizer = make_standardizer(train, recipe.standardize)
    model = build_model(recipe, train, standardizer)
    data = to_device(train, standardizer.forward(train.x).astype(np.float32))
    x_start, label_start = _balanced_sample(key_start, data)
    optimizer = make_optimizer(
        recipe.num_steps,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        clip_norm=recipe.clip_norm,
        weight_decay=recipe.weight_decay,
    )
    sample = make_sampler(
        train.num_conditions,
        num_sources=recipe.num_sources,
        cells_per_source=recipe.cells_per_source,
        num_targets=recipe.num_targets,
        cells_per_target=recipe.cells_per_target,
    )
    step = make_train_step(
        model,
        optimizer,
        sample,
        kernel=_make_kernel(recipe, x_start),
        form=recipe.form,
        weights=LossWeights(**{name: getattr(recipe, name) for name in LossWeights._fields}),
        average_decay=recipe.average_decay,
    )
    state = init_state(key_init, model, optimizer, x_start, label_start)
    return Parts(
        recipe=recipe,
        standardizer=standardizer,
        model=model,
        data=data,
        step=step,
        state=LoopState(state, jax.tree.map(jnp.copy, state.params), jnp.array(jnp.inf), jnp.zeros((), jnp.int32)),
        validator=make_validator(key_validate, model, standardizer, train, validation, source) if validation else None,
        seed=int(jax.random.randint(key_seed, (), 0, 2**31 - 1)),
    )


def _train(
    parts: Parts, state: LoopState, run: folder.RunFolder | None, history: History, progress: Progress
) -> LoopState:
    """Chunks of scanned steps until the last step, or until patience runs out."""
    recipe, clock, compiled = parts.recipe, Clock(), {}
    step = int(state.train.step)
    progress.update(step, recipe.num_steps, math.nan)
    while step < recipe.num_steps and not _stopped(state, recipe):
        length = min(recipe.log_every, recipe.num_steps - step)
        if length not in compiled:
            compiled[length] = make_train_steps(parts.step, length)
        train_state, metrics = compiled[length](state.train, parts.data)
        metrics = jax.device_get(metrics)
        _check_finite(metrics, step, step + length)
        step += length
        state = state._replace(train=train_state)
        entry = {
            "step": step,
            **{name: float(value) for name, value in metrics.loss._asdict().items()},
            "gradient_norm": float(metrics.gradient_norm),
            "steps_per_second": length / clock.lap(),
        }
        if parts.validator and (step % recipe.eval_every == 0 or step == recipe.num_steps):
            state, entry["validation_energy_distance"] = _evaluate(state, parts.validator)
        history.append(entry)
        progress.update(step, recipe.num_steps, entry["total"])
        if run and (step % recipe.checkpoint_every == 0 or step == recipe.num_steps or _stopped(state, recipe)):
            run.checkpoints.save(step, state)
    progress.close()
    return state


def _evaluate(state: LoopState, validator: Validator) -> tuple[LoopState, float]:
    value = float(jnp.mean(validator.errors(state.train.average)))
    if value < float(state.best_value):
        best = jax.tree.map(jnp.copy, state.train.average)
        return LoopState(state.train, best, jnp.array(value, jnp.float32), jnp.zeros((), jnp.int32)), value
    return state._replace(evaluations_since_best=state.evaluations_since_best + 1), value


def _stopped(state: LoopState, recipe: Recipe) -> bool:
    return recipe.patience is not None and int(state.evaluations_since_best) >= recipe.patience


def _check_finite(metrics: Metrics, first: int, last: int) -> None:
    bad = [name for name, value in metrics.loss._asdict().items() if not math.isfinite(value)]
    if bad or not math.isfinite(metrics.gradient_norm):
        raise FloatingPointError(
            f"Between steps {first} and {last} these became NaN or infinite: {', '.join(bad) or 'the gradient'}. "
            f"Lower learning_rate, or look for extreme values in the data; checkpoints before step {first} are kept."
        )


def _fitted(
    parts: Parts,
    state: LoopState,
    train: PerturbationData,
    validation: PerturbationData | None,
    history: list[dict[str, Any]],
    workdir: pathlib.Path | None,
) -> Fitted:
    params, errors = state.train.average, {}
    if parts.validator:
        params = state.best_params
        values = np.asarray(parts.validator.errors(params))
        errors = {
            condition: {"pdae": float(value), "control": float(control)}
            for condition, value, control in zip(
                parts.validator.conditions, values, parts.validator.control, strict=True
            )
        }
    return Fitted(
        model=parts.model,
        params=params,
        standardizer=parts.standardizer,
        train=train,
        validation=validation,
        validation_errors=errors,
        recipe=parts.recipe,
        history=history,
        seed=parts.seed,
        workdir=workdir,
    )


def _balanced_sample(key: Array, data: DeviceData) -> tuple[Array, Array]:
    """Equally many cells of each condition, for the start: at most 256 each, about 8,192 in all."""
    num_conditions = data.labels.shape[0]
    cells = int(np.clip(8192 // num_conditions, 8, 256))
    row = data.start[:, None] + jax.random.randint(key, (num_conditions, cells), 0, data.count[:, None])
    return data.x[row.reshape(-1)], jnp.repeat(data.labels, cells, axis=0)


def _make_kernel(recipe: Recipe, x: Array) -> kernels.Kernel:
    if recipe.kernel == "energy":
        return kernels.energy(recipe.beta)
    make = {"gaussian": kernels.gaussian, "laplace": kernels.laplace, "imq": kernels.inverse_multiquadric}
    median = kernels.median_bandwidth(jax.random.key(0), x)
    return make[recipe.kernel](jnp.asarray(recipe.bandwidths) * median)
