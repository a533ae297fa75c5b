"""Metrics of one method on one condition, of the ceiling, and the scale between the mean response and the ceiling."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.evaluation.differential import Summary, differential
from pdae_jax.evaluation.metrics import METRICS, Comparison, Reference
from pdae_jax.evaluation.summary import BY_CHANCE, CEILING
from pdae_jax.prediction.samples import Beyond, beyond
from pdae_jax.randomness import make_random
from pdae_jax.two_sample.target import Halvings, Target

CEILING_REPEATS, CEILING_REPEATS_OF_MANY, CEILING_ENOUGH = 10, 5, 1000  # halvings of fewer cells than this, and of more


class Scores(NamedTuple):
    """Metrics of one method on one condition, and the numbers of cells they were computed from."""

    method: str
    values: Mapping[str, float]
    n_true: int
    n_pred: int
    beyond: Beyond


def score(method: str, comparison: Comparison, metrics: Sequence[str]) -> Scores:
    """Compute the metrics of a method, and how far its cells are beyond the measured range."""
    values = {name: METRICS[name](comparison) for name in metrics}
    far = beyond(comparison.predicted, comparison.reference.lowest, comparison.reference.highest)
    return Scores(method, values, len(comparison.true), len(comparison.predicted), far)


def score_ceiling(
    key: Array, target: Target, reference: Reference, metrics: Sequence[str]
) -> tuple[Scores, Mapping[str, float]]:
    """Score one half of a target's cells against the other: mean over random halvings; NaN of fewer than four cells.

    Metrics of changes from the control have halves of the control cells as well, as two measurements would.

    Returns:
        The scores, and the standard deviation of each metric over halvings.
    """
    cells = target.cells
    half, far = len(cells) // 2, beyond(cells, reference.lowest, reference.highest)
    if half < 2:
        missing = dict.fromkeys(metrics, math.nan)
        return Scores(CEILING, missing, half, half, far), missing
    repeats = CEILING_REPEATS_OF_MANY if len(cells) >= CEILING_ENOUGH else CEILING_REPEATS
    random, found = make_random(key), []
    orders = np.stack([random.permutation(len(cells)) for _ in range(repeats)])
    halvings = Halvings(target, orders, jax.random.fold_in(key, repeats))
    for number, order in enumerate(orders):
        first, second = cells[order[:half]], cells[order[half : 2 * half]]
        own = reference._replace(true_change=differential(Summary.of(second), reference.control))
        halves = Comparison(first, second, own, halvings[number])
        measured_apart = _with_own_controls(jax.random.fold_in(key, number), halves)
        found.append([METRICS[n](measured_apart if METRICS[n].from_control else halves) for n in metrics])
    columns = dict(zip(metrics, zip(*found, strict=True), strict=True))
    mean = {name: float(np.mean(values)) for name, values in columns.items()}
    noise = {name: float(np.std(values, ddof=1)) for name, values in columns.items()}
    return Scores(CEILING, mean, half, half, far), noise


def _with_own_controls(key: Array, halves: Comparison) -> Comparison:
    """Move two halves, each by the mean of all control cells less that of one half of these."""
    cells, mean = halves.reference.control_cells, halves.reference.control.mean
    if len(cells) < 2:
        return halves
    chosen = np.zeros(len(cells), bool)
    chosen[make_random(key).permutation(len(cells))[: len(cells) // 2]] = True
    own = np.stack([chosen / chosen.sum(), ~chosen / (~chosen).sum()]) @ cells  # faster than to take the rows
    return Comparison(halves.predicted - own[0] + mean, halves.true - own[1] + mean, halves.reference, halves.distances)


class Scale(NamedTuple):
    """Values between which a metric of a condition is scaled."""

    base: float  # of the mean response: 0
    ceiling: float  # of measuring again: 1
    noise: float  # standard deviation of the ceiling's

    def scaled(self, metric: str, value: float) -> dict[str, float]:
        """Put a value on the scale: the columns ``scaled`` and ``scaled_noise``, NaN where there is no scale."""
        best, length = METRICS[metric].best, abs(self.ceiling - self.base)
        if best is None:
            return {"scaled": math.nan, "scaled_noise": math.nan}
        off = abs(self.ceiling - best)
        # halves of the cells are worse than all: by half of what they are off, where errors fall with the number; and
        # by sampling alone they may be worse than the many cells of the mean response, a scale that is upside down
        if not abs(self.base - best) - off > 0 or not length > max(BY_CHANCE * self.noise, off / 2):
            return {"scaled": math.nan, "scaled_noise": math.nan}
        return {"scaled": (value - self.base) / (self.ceiling - self.base), "scaled_noise": self.noise / length}
