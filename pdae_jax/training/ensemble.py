r"""Replicas of one fit, trained together; bad ones found without test data and dropped; predictions with uncertainty.

Replicas differ in their random numbers, and with `bootstrap` in the cells they see: each draws as many cells of every
condition as there are, with replacement. Their spread is then an estimate of the error that comes from finite cells.
Their mixture is a deep ensemble (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017).
A replica in a bad optimum fits the training conditions like the others. Two diagnostics reveal it: the conditions that
were left out of training, and its latents, which no orthogonal map takes to those of the others; with a Gaussian base
the theory leaves nothing else free (arXiv 2504.18522).
"""

import contextlib
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.compiled import as_door
from pdae_jax.model.ensemble import Ensemble, find_bad, pairwise_alignment
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import check_key
from pdae_jax.recipe import Recipe
from pdae_jax.runs.folder import REPLICAS_FOLDER, RunFolder
from pdae_jax.runs.track import Progress
from pdae_jax.settings import Flag, Whole
from pdae_jax.training.pilot import save_components
from pdae_jax.training.plan import Plan, Request, identity_of
from pdae_jax.training.population import share_of_control
from pdae_jax.training.train import plan_request, train_requests
from pdae_jax.training.validate import make_validator
from pdae_jax.types import PerturbationData

REPLICAS = REPLICAS_FOLDER  # of their runs, in that of the ensemble


@as_door()
def fit_ensemble(
    train: PerturbationData,
    *,
    key: Array,
    num_replicas: int = 5,
    bootstrap: bool = False,
    validation: PerturbationData | None = None,
    source: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    workdir: str | pathlib.Path | None = None,
    progress: bool | Progress | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Ensemble:
    """Train several replicas, and drop those that landed in a bad optimum.

    They are a population: each is the `fit` with its key, to rounding, of its own cells with `bootstrap`.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key; replica `r` starts from ``fold_in(key, r)``.
        num_replicas: how many.
        bootstrap: each replica sees cells resampled with replacement within conditions. Their spread then says more,
            and each of them is worse: fewer distinct cells.
        validation: conditions never trained on; they choose each replica's step, and show bad replicas.
        source: as in `fit`.
        recipe: hyperparameters; default `Recipe()`.
        workdir: folder of the run, with a run folder of each replica in ``replicas``; an interrupted fit resumes there.
            `load_ensemble` reads it.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        config: further provenance.
        **options: single fields of the recipe.

    Raises:
        ValueError: fewer than two replicas, unusable data, or a workdir that holds a different run.
        RuntimeError: another process works in the workdir.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss of a replica, or its error on a validation condition, became NaN or infinite; names
            the steps.
    """
    check_key(key)
    few = "an ensemble needs at least 2; for one model call fit"
    num_replicas = Whole(2, few).checked("num_replicas", num_replicas)
    bootstrap = Flag().checked("bootstrap", bootstrap)
    recipe = (recipe or Recipe()).override(**options)
    request = Request(train, key, recipe, validation, source, workdir, config or {}, bootstrap=bootstrap)
    return train_ensemble(request, num_replicas, progress)


def train_ensemble(request: Request, num_replicas: int, progress: bool | Progress | None) -> Ensemble:
    """Train replicas of the fit that is asked for, as one model."""
    plan = plan_request(request, progress)  # once for all replicas: its last step, and what its cells look like
    request = plan.request._replace(recipe=plan.recipe, components=plan.view.components)
    with contextlib.ExitStack() as stack:
        path = None if request.workdir is None else pathlib.Path(request.workdir)
        if path is not None:
            identity = identity_of(request, _recipe_of(plan)) | {
                "num_replicas": num_replicas,
                "bootstrap": request.bootstrap,
            }
            parts = identity, dict(request.config), request.train, request.validation
            run = stack.enter_context(contextlib.closing(RunFolder(path, *parts)))
            save_components(run.path, plan.view.components)
        outcomes = train_requests(
            [
                request._replace(
                    key=replica_key(request.key, r),
                    workdir=None if path is None else replica_folder(path, r),
                    config={},
                )
                for r in range(num_replicas)
            ],
            progress=progress,
            name="ensemble",
        )
    replicas = []
    for r, outcome in enumerate(outcomes):
        if outcome.fitted is None:
            raise FloatingPointError(f"Replica {r}: {outcome.error}")
        replicas.append(outcome.fitted)
    return ensemble_of(plan.root, replicas, path)


def _recipe_of(plan: Plan) -> Recipe:
    """The recipe in the folder of an ensemble: as it was asked for, or found where folds chose the last step."""
    asked, found = plan.request.recipe, plan.recipe
    if found.stop_step != asked.stop_step:
        return found
    if plan.view.components is None:
        return asked
    return asked.override(nonnegative=found.nonnegative, standardize=found.standardize)


def replica_key(key: Array, r: int) -> Array:
    """Return what a replica starts from."""
    return jax.random.fold_in(key, r)


def replica_folder(path: pathlib.Path, r: int) -> pathlib.Path:
    """Return the run folder of a replica in that of its ensemble."""
    return path / REPLICAS / f"{r:03d}"


def ensemble_of(key: Array, replicas: Sequence[Fitted], path: pathlib.Path | None) -> Ensemble:
    """Join the replicas to one model, the bad ones marked."""
    if replicas[0].validation_errors:
        shares = [share_of_control(replica.validation_errors) for replica in replicas]
    else:
        # nothing was left out: how well the training conditions themselves are met from the control
        first, train = replicas[0], replicas[0].train
        perturbed = train.select(list(itertools.compress(train.conditions, first.design.perturbed)))
        validator = make_validator(key, first.model, first.view, first.design, train, perturbed)
        control = np.sum(validator.control)
        shares = [max(float(np.sum(validator.errors(replica.params))) / control, 0.0) for replica in replicas]
    return Ensemble(tuple(replicas), find_bad(np.array(shares), pairwise_alignment(tuple(replicas))), path)
