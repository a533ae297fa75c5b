"""`fit`: what is asked for is checked, its last step chosen, its parts made, and the loop run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from pdae_jax.cells import StoredCells
from pdae_jax.compiled import as_written
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import STREAMS, check_key
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.track import Progress, make_progress, stage
from pdae_jax.training.defaults import resolve_recipe
from pdae_jax.training.devices import Devices, shared_by
from pdae_jax.training.last_step import best_step, errors_by_step, fold_of, folds_of
from pdae_jax.training.loop import fitted_of, run_training
from pdae_jax.training.pilot import make_pilot
from pdae_jax.training.prepare import prepare
from pdae_jax.training.recovery import identity_of, stop_of_folder, streams_of_folder
from pdae_jax.training.reduction import with_components
from pdae_jax.training.requests import Request, check_request
from pdae_jax.training.start_from import goes_on_from, started
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components


@as_written()
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
        key: typed PRNG key; the same key, data and recipe give the same result on the same kind of device. A run that
            an earlier version began goes on as that version had it.
        validation: conditions that are never trained on (`hold_out` makes them). With them, the parameters of the
            latest evaluation are kept that is as good as the best but for chance, `patience` can stop early, and
            verdicts can say how well combinations were predicted. Without them, where the labels of at least five
            combinations are determined by the others, up to five more fits leave a fifth of these out and choose the
            last step, unless the recipe has a `stop_step`.
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
        RuntimeError: another process works in the workdir.
        OSError: the workdir cannot be written to; checkpoints that were written before are kept.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss, or the error on a validation condition, became NaN or infinite; names the steps.
    """
    check_key(key)
    recipe = (recipe or Recipe()).override(**options)
    request = Request(train, key, recipe, validation, source, workdir, config or {})
    return fit_request(request, start_from=start_from, devices=devices, progress=progress)


def fit_request(
    request: Request,
    *,
    start_from: str | pathlib.Path | None = None,
    devices: int | None = None,
    progress: bool | Progress | None = None,
) -> Fitted:
    """`fit` of what is asked for."""
    train, validation, workdir, config = request.train, request.validation, request.workdir, dict(request.config)
    source = check_request(train, validation, request.source, request.recipe)
    targets = min(request.recipe.num_targets, train.num_conditions)
    shared = shared_by(devices, targets, isinstance(train.x, StoredCells))
    if shared is not None and not shared.writes:
        workdir, start_from, progress = None, None, False
    if workdir is not None:
        folder.begin(workdir)
    streams = request.streams or streams_of_folder(workdir) or STREAMS
    request = request._replace(source=source, workdir=workdir, streams=_of_first(shared, streams))
    before = goes_on_from(workdir, start_from)  # has found components already, and after how many steps it ends
    with stage(progress, "Preparing: what the cells look like"):
        recipe, components = with_components(request.recipe, train, before)
    if shared is not None and components is not None:  # the signs of directions are not the same everywhere
        components = Components(*(np.asarray(part) for part in shared.of_first(components)))
    recipe = with_stop(request._replace(recipe=recipe), before, progress, components, shared)
    resuming = workdir is not None and (pathlib.Path(workdir) / folder.CHECKPOINT_FOLDER).exists()
    # a finished run has nothing to compile
    chunk = 0 if resuming else recipe.log_every
    data = request.root, train, validation
    with stage(progress, "Preparing: the linear start, and compiling"):
        parts = prepare(*data, recipe, source, chunk=chunk, components=components, devices=shared)
    identity = identity_of(request, parts.frame.recipe)
    if start_from is not None:
        parts, identity["start"] = started(parts, source, train, validation, workdir, start_from)
        config = {**config, "start_from": str(start_from)}
    state, history, path = run_training(parts, identity, train, validation, workdir, progress, config)
    return fitted_of(parts.frame, state, train, validation, history, path)


def _of_first(devices: Devices | None, number: int) -> int:
    """A number of the first process, in all of them."""
    return number if devices is None else int(devices.of_first(np.array(number)))


def with_stop(
    request: Request,
    before: str | pathlib.Path | None,
    progress: bool | Progress | None,
    components: Components | None = None,
    devices: Devices | None = None,
) -> Recipe:
    """The recipe with its `stop_step`, where there are no validation conditions and enough combinations to choose it.

    Args:
        request: the fit; of its training conditions some are left out to choose (`last_step`), and what chooses is in
            its workdir until it has begun.
        before: folder of the run that the fit goes on from, which has chosen already.
        progress: as in `fit`.
        components: what the model sees of the features.
        devices: those that share the steps.
    """
    recipe = request.recipe
    if request.validation is not None or recipe.stop_step is not None:
        return recipe
    found = stop_of_folder(before)
    found = _of_first(devices, -1 if found is None else found)
    if found >= 0:  # a run that goes on has chosen already
        return recipe.override(stop_step=found)
    folds = folds_of(request)
    if not folds:
        return recipe
    # the fits that choose have the schedule of the fit proper
    recipe, chosen = resolve_recipe(recipe, request.train, make_pilot(recipe, request.train, components)), []
    for number, left_out in enumerate(folds):
        # one at a time: each has its own copy of the cells
        fold = fold_of(request._replace(recipe=recipe), left_out, number)
        bar = make_progress(progress, f"choice {number + 1}/{len(folds)}")
        targets = min(recipe.num_targets, fold.train.num_conditions)  # of fewer conditions, which devices may not share
        shared = devices.number if devices and targets % devices.number == 0 else None
        chosen.append(errors_by_step(fit_request(fold, devices=shared, progress=bar)))
    return recipe.override(stop_step=_of_first(devices, best_step(chosen)))
