r"""Replicas of one fit, trained together; bad ones found without test data and dropped; predictions with uncertainty.

Replicas differ in their random numbers, and with `bootstrap` in the cells they see: each draws as many cells of every
condition as there are, with replacement. Their spread is then an estimate of the error that comes from finite cells.
A replica in a bad optimum fits the training conditions like the others. Two diagnostics reveal it: the conditions that
were left out of training, and its latents, which no orthogonal map takes to those of the others; with a Gaussian base
the theory leaves nothing else free (arXiv 2504.18522).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pdae_jax.data.components import Components
from pdae_jax.data.sample import bootstrap_rows
from pdae_jax.data.stream import Streamed
from pdae_jax.model.ensemble import Ensemble, find_bad, pairwise_alignment
from pdae_jax.recipe import Recipe
from pdae_jax.runs.track import Progress
from pdae_jax.training.loop import check_request, fitted_of, replica_of, run_training, with_stop
from pdae_jax.training.prepare import Frame, LoopState, Parts, prepare, wide_of, with_errors
from pdae_jax.training.recovery import key_data
from pdae_jax.training.reduction import with_components
from pdae_jax.training.step import replicate
from pdae_jax.training.validate import make_validator
from pdae_jax.types import PerturbationData

_BOOTSTRAP = 3  # folded into the key of a replica; `prepare` splits it into three, which are those of 0, 1 and 2


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
    """Train several replicas in one compiled program, and drop those that landed in a bad optimum.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key; replica `r` starts from ``fold_in(key, r)``.
        num_replicas: how many.
        bootstrap: each replica sees cells resampled with replacement within conditions. Their spread then says more,
            and each of them is worse: fewer distinct cells.
        validation: conditions never trained on; they choose each replica's step, and show bad replicas.
        source: as in `fit`.
        recipe: hyperparameters; default `Recipe()`.
        workdir: folder of the run; an interrupted fit resumes there. `load_ensemble` reads it.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        config: further provenance.
        **options: single fields of the recipe.

    Raises:
        ValueError: fewer than two replicas, unusable data, or a workdir that holds a different run.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss of a replica, or its error on a validation condition, became NaN or infinite; names
            the steps.
    """
    if num_replicas < 2:
        raise ValueError(f"num_replicas={num_replicas}, but an ensemble needs at least 2. For one model call fit.")
    recipe = (recipe or Recipe()).override(**options)
    source = check_request(train, validation, source, recipe)
    recipe, components = with_components(recipe, train, workdir)
    recipe = with_stop(train, validation, key, recipe, workdir, progress, components)
    parts = prepare_replicas(key, train, validation, recipe, source, num_replicas, bootstrap, components)
    identity = {
        "recipe": parts.frame.recipe.to_dict(),
        "key": key_data(key),
        "source": source,
        "num_replicas": num_replicas,
        "bootstrap": bootstrap,
    }
    state, history, path = run_training(parts, identity, train, validation, workdir, progress, config or {})
    return ensemble_of(key, parts.frame, state, train, validation, history, path)


def prepare_replicas(
    key: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    recipe: Recipe,
    source: Mapping[str, str] | None,
    num_replicas: int,
    bootstrap: bool,
    components: Components | None = None,
) -> Parts:
    """As `prepare`; every leaf of the state has a leading axis of replicas, and the step takes them all at once."""
    keys = replica_keys(key, num_replicas)
    first, *others = [
        prepare(k, train, validation if k is keys[0] else None, recipe, source, components=components) for k in keys
    ]
    states = [parts.state._replace(errors=None) for parts in (first, *others)]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    data = first.data
    if bootstrap:
        index = data.index if isinstance(data, Streamed) else data
        rows = jnp.stack([bootstrap_rows(jax.random.fold_in(k, _BOOTSTRAP), index) for k in keys])
        index = index._replace(rows=rows)
        data = data._replace(index=index) if isinstance(data, Streamed) else index
    step = replicate(first.step, bootstrap=bootstrap)
    return first._replace(data=data, step=step, state=with_errors(state, first.frame.validator))


def replica_keys(key: Array, num_replicas: int) -> list[Array]:
    """What each replica starts from."""
    return [jax.random.fold_in(key, r) for r in range(num_replicas)]


def ensemble_of(
    key: Array,
    frame: Frame,
    state: LoopState,
    train: PerturbationData,
    validation: PerturbationData | None,
    history: list[dict[str, Any]],
    path: pathlib.Path | None,
) -> Ensemble:
    """The replicas of a finished loop, the bad ones marked."""
    replicas = tuple(
        fitted_of(frame, replica_of(state, r), train, validation, history, path) for r in range(len(state.lowest))
    )
    if frame.validator and state.errors:
        control, errors = frame.validator.control, np.asarray(state.errors.kept)
    else:
        # nothing was left out: how well the training conditions themselves are met from the control
        perturbed = train.select([c for c, a in zip(train.conditions, train.labels, strict=True) if np.any(a)])
        validator = make_validator(key, frame.model, frame.standardizer, train, perturbed, wide=wide_of(frame))
        control, errors = validator.control, np.stack([validator.errors(replica.params) for replica in replicas])
    relative = np.maximum(np.sum(errors, axis=1) / np.sum(control), 0.0)
    return Ensemble(replicas, find_bad(relative, pairwise_alignment(replicas)), path)
