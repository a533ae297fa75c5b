r"""Replicas of one fit, trained together; bad ones found without test data and dropped; predictions with uncertainty.

Replicas differ in their random numbers, and with `bootstrap` in the cells they see: each draws as many cells of every
condition as there are, with replacement. Their spread is then an estimate of the error that comes from finite cells.
A replica in a bad optimum fits the training conditions like the others. Two things give it away: the conditions that
were left out of training, and its latents, which no orthogonal map takes to those of the others; with a Gaussian base
the theory leaves nothing else free (arXiv 2504.18522).
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.alignment import orthogonal_map, whitening
from pdae_jax.data.sample import bootstrap_rows
from pdae_jax.fitted import Fitted
from pdae_jax.loop import (
    check_request,
    fitted_of,
    key_data,
    load_run,
    read_record,
    read_state,
    replica_of,
    run_training,
    with_stop,
)
from pdae_jax.prepare import LoopState, Parts, prepare
from pdae_jax.recipe import Recipe
from pdae_jax.train import replicate
from pdae_jax.types import PerturbationData
from pdae_jax.validate import make_validator

BAD_ERROR = 2.0  # times the median replica's error on left-out conditions
BAD_ALIGNMENT = 2.0  # times the median replica's distance from the others
SMALL_ERROR = 0.02  # of the control's distance: errors up to here are never bad
SMALL_ALIGNMENT = 0.3  # standard deviations of the base: distances up to here are never bad

_MAX_CELLS = 4000  # encoded to compare replicas
_BOOTSTRAP = 3  # folded into the key of a replica; `prepare` splits it into three, which are those of 0, 1 and 2


class Diagnosis(NamedTuple):
    """Why a replica was kept or dropped; nothing of it comes from test data."""

    error: float  # mean energy distance on the left-out (else the training) conditions, in shares of the control's
    alignment: float  # median over the others: residual of its latents after an orthogonal map, in base deviations
    kept: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """What `fit_ensemble` returns. `predict`, `evaluate` and `check_guarantee` take it in place of a `Fitted`."""

    replicas: tuple[Fitted, ...]  # all that were trained
    diagnosis: tuple[Diagnosis, ...]  # one per replica
    workdir: pathlib.Path | None = None

    @property
    def members(self) -> tuple[Fitted, ...]:
        """The replicas that were kept: those that predict."""
        return tuple(r for r, found in zip(self.replicas, self.diagnosis, strict=True) if found.kept)

    @property
    def train(self) -> PerturbationData:
        return self.replicas[0].train

    @property
    def validation(self) -> PerturbationData | None:
        return self.replicas[0].validation

    @property
    def recipe(self) -> Recipe:
        return self.replicas[0].recipe

    @property
    def seed(self) -> int:
        return self.replicas[0].seed

    def __repr__(self) -> str:
        return f"Ensemble({len(self.members)} of {len(self.replicas)} replicas kept, {self.replicas[0]})"


def fit_ensemble(
    train: PerturbationData,
    *,
    key: Array,
    num_replicas: int = 5,
    bootstrap: bool = False,
    validation: PerturbationData | None = None,
    test: PerturbationData | None = None,
    source: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    workdir: str | pathlib.Path | None = None,
    progress: bool | None = None,
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
        test: kept in the workdir, see `fit`.
        source: as in `fit`.
        recipe: hyperparameters; default `Recipe()`.
        workdir: folder of the run; an interrupted fit resumes there. `load_ensemble` reads it.
        progress: show a bar on stderr; None: if it is a terminal.
        config: further provenance.
        **options: single fields of the recipe.

    Raises:
        ValueError: fewer than two replicas, unusable data, or a workdir that holds a different run.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss of a replica became NaN or infinite; names the steps.
    """
    if num_replicas < 2:
        raise ValueError(f"num_replicas={num_replicas}, but an ensemble needs at least 2. For one model call fit.")
    recipe = (recipe or Recipe()).override(**options)
    source = check_request(train, validation, source, recipe)
    recipe = with_stop(train, validation, key, recipe, workdir, progress)
    parts = prepare_replicas(key, train, validation, recipe, source, num_replicas, bootstrap)
    identity = {
        "recipe": parts.recipe.to_dict(),
        "key": key_data(key),
        "source": source,
        "num_replicas": num_replicas,
        "bootstrap": bootstrap,
    }
    held_out = {"validation": validation, "test": test}
    state, history, path = run_training(parts, identity, train, held_out, workdir, progress, config or {})
    return _ensemble_of(key, parts, state, train, validation, history, path)


def load_ensemble(workdir: str | pathlib.Path) -> Ensemble:
    """The ensemble of a run folder, as `fit_ensemble` returned it; the folder is only read.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in the folder.
        ValueError: the run is a single fit.
    """
    record = read_record(workdir)
    path, identity = record.path, record.identity
    if "num_replicas" not in identity:
        raise ValueError(f"The run in {str(path)!r} is a single fit. Read it with pdae_jax.load_run.")
    parts = prepare_replicas(
        record.key,
        record.train,
        record.validation,
        record.recipe,
        record.source,
        identity["num_replicas"],
        identity["bootstrap"],
    )
    state, entries = read_state(path, parts)
    return _ensemble_of(record.key, parts, state, record.train, record.validation, entries, path)


def load_model(workdir: str | pathlib.Path) -> Fitted | Ensemble:
    """What a run folder holds: `load_run` or `load_ensemble`, whichever fits."""
    return load_ensemble(workdir) if "num_replicas" in read_record(workdir).identity else load_run(workdir)


def prepare_replicas(
    key: Array,
    train: PerturbationData,
    validation: PerturbationData | None,
    recipe: Recipe,
    source: Mapping[str, str] | None,
    num_replicas: int,
    bootstrap: bool,
) -> Parts:
    """As `prepare`; every leaf of the state has a leading axis of replicas, and the step takes them all at once."""
    keys = [jax.random.fold_in(key, r) for r in range(num_replicas)]
    first, *others = [prepare(k, train, validation if k is keys[0] else None, recipe, source) for k in keys]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), first.state, *(parts.state for parts in others))
    data = first.data
    if bootstrap:
        data = data._replace(rows=jnp.stack([bootstrap_rows(jax.random.fold_in(k, _BOOTSTRAP), data) for k in keys]))
    step = replicate(first.step, bootstrap=bootstrap)
    return first._replace(data=data, step=step, state=state)


def find_bad(
    errors: Float[np.ndarray, " replicas"], alignment: Float[np.ndarray, "replicas replicas"]
) -> tuple[Diagnosis, ...]:
    """Which replicas to keep, of their errors on left-out conditions and their distances from each other.

    Dropped are replicas whose error is more than `BAD_ERROR` times that of the better half, and those farther than
    `BAD_ALIGNMENT` times the usual from the others that are left. The replica with the smallest error is always kept.
    """
    # the lower median: that of the good ones as long as half of the replicas are good
    usual = float(np.sort(errors)[(len(errors) - 1) // 2])
    kept = errors <= max(BAD_ERROR * usual, SMALL_ERROR)
    off = np.where(np.eye(len(errors), dtype=bool) | ~kept[None, :], np.nan, alignment)
    distance = np.array([np.nanmedian(row) if np.isfinite(row).any() else math.nan for row in off])
    if kept.sum() > 2:
        kept &= ~(distance > max(BAD_ALIGNMENT * float(np.nanmedian(distance[kept])), SMALL_ALIGNMENT))
    kept[int(np.argmin(errors))] = True
    return tuple(Diagnosis(float(e), float(a), bool(k)) for e, a, k in zip(errors, distance, kept, strict=True))


def pairwise_alignment(replicas: tuple[Fitted, ...], seed: int = 0) -> Float[np.ndarray, "replicas replicas"]:
    """Root mean square of what an orthogonal map leaves between the whitened latents of two replicas."""
    train = replicas[0].train
    rows = np.random.default_rng(seed).permutation(train.num_cells)[:_MAX_CELLS]
    latents = []
    for replica in replicas:
        z = replica.encode(train.x[rows]).astype(np.float64)
        latents.append(z @ whitening(z, train.condition_index[rows])[0])
    found = np.zeros((len(replicas), len(replicas)))
    for i, first in enumerate(latents):
        for j, second in enumerate(latents[:i]):
            residual = orthogonal_map(first, second).apply(first) - second
            found[i, j] = found[j, i] = np.sqrt(np.mean(residual**2))
    return found


def _ensemble_of(
    key: Array,
    parts: Parts,
    state: LoopState,
    train: PerturbationData,
    validation: PerturbationData | None,
    history: list[dict[str, Any]],
    path: pathlib.Path | None,
) -> Ensemble:
    replicas = tuple(
        fitted_of(parts, replica_of(state, r), train, validation, history, path, r) for r in range(len(state.lowest))
    )
    validator = parts.validator
    if validator is None:
        # nothing was left out: how well the training conditions themselves are met from the control
        perturbed = train.select([c for c, a in zip(train.conditions, train.labels, strict=True) if np.any(a)])
        validator = make_validator(key, parts.model, parts.standardizer, train, perturbed)
    errors = [float(np.sum(validator.errors(replica.params)) / np.sum(validator.control)) for replica in replicas]
    return Ensemble(replicas, find_bad(np.maximum(errors, 0.0), pairwise_alignment(replicas)), path)
