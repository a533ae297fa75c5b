"""Replicas of one fit as one model: bad ones found without test data, predictions of the others mixed."""

import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.design.design import Design
from pdae_jax.model.alignment import orthogonal_map, whitening
from pdae_jax.model.fitted import Fitted
from pdae_jax.recipe import Recipe
from pdae_jax.types import PerturbationData

BAD_ERROR = 2.0  # times the median replica's error on left-out conditions
BAD_ALIGNMENT = 2.0  # times the median replica's distance from the others
SMALL_ERROR = 0.02  # of the control's distance: errors up to here are never bad
SMALL_ALIGNMENT = 0.3  # standard deviations of the base: distances up to here are never bad
_MAX_CELLS = 4000  # encoded to compare replicas


class Diagnosis(NamedTuple):
    """Why a replica was kept or dropped; nothing of it comes from test data."""

    error: float  # mean energy distance on the left-out (else the training) conditions, as a fraction of the control's
    alignment: float  # median over the others: residual of its latents after an orthogonal map, in base deviations
    kept: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """The result of `fit_ensemble`. `predict`, `evaluate` and `check_guarantee` take it in place of a `Fitted`."""

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
    def design(self) -> Design:
        return self.replicas[0].design

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


def find_bad(
    errors: Float[np.ndarray, " replicas"], alignment: Float[np.ndarray, "replicas replicas"]
) -> tuple[Diagnosis, ...]:
    """Find which replicas to keep, of their errors on left-out conditions and their distances from each other.

    Dropped are replicas whose error is more than `BAD_ERROR` times that of the better half, and those farther than
    `BAD_ALIGNMENT` times the usual from the others that are left. The replica with the smallest error is always kept.
    """
    # what cannot be evaluated is the worst of all; NaN would count as the smallest
    errors = np.where(np.isnan(errors), np.inf, errors)
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
    """Return the root mean square of what an orthogonal map leaves between the whitened latents of two replicas."""
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


def check_model(fitted: Any, call: str) -> None:
    """Raise ``TypeError`` where something else stands in the place of a model; `call` shows the order of the
    arguments.
    """
    if not isinstance(fitted, Fitted | Ensemble):
        raise TypeError(
            f"The first argument is a {type(fitted).__name__}, not a model. Call {call} with what fit, fit_ensemble or "
            f"load_run returned."
        )
