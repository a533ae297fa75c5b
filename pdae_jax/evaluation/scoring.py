"""Metrics of one method on one condition, of the ceiling, and the scale between the mean response and the ceiling."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.data.moments import condition_means, moments
from pdae_jax.evaluation.differential import CONTROL_CELLS, FIELD_METRICS, Differential, Samples, Summary, differential
from pdae_jax.evaluation.metrics import METRICS, Context, median_distance
from pdae_jax.evaluation.summary import BY_CHANCE, CEILING, MIN_CELLS_OF_A_LAW
from pdae_jax.prediction.samples import Beyond, beyond
from pdae_jax.randomness import make_random
from pdae_jax.training.validate import distance_variance
from pdae_jax.two_sample.permutation import two_sample_test
from pdae_jax.types import PerturbationData, once_for_each

METRIC_NAMES = (*METRICS, *FIELD_METRICS, "p_value")
#: Metrics that are to be calibrated, not as small or as large as can be.
UNSCALED = ("coverage_50", "coverage_90", "p_value")
#: Values of metrics for a prediction that is exact and has any number of cells; those not named: 0.
PERFECT = dict.fromkeys(
    ("r2_mean", "cosine_delta", "pearson_delta", "pearson_delta_centroid", "pearson_delta_top20",
     "pearson_delta_top100", "de_overlap", "de_direction"),
    1.0,
)  # fmt: skip
MEAN_RESPONSE = "pool_all"  # cells of all training conditions: what is predicted without a look at the label
P_VALUE_CELLS = 500  # per sample: a p-value depends on the sample size, so that is the same everywhere
CEILING_REPEATS, CEILING_REPEATS_OF_MANY, CEILING_ENOUGH = 10, 5, 1000  # halvings of fewer cells than this, and of more
_POOLED_CELLS = 200
# the two halves of the ceiling have controls of their own, as two measurements of a condition would
FROM_CONTROL = ("cosine_delta", "pearson_delta", "pearson_delta_top20", "pearson_delta_top100")


class KnownMeans(NamedTuple):
    """All perturbed conditions of an evaluation: what a prediction could be mistaken for."""

    labels: Float[np.ndarray, "conditions perturbations"]
    means: Float[np.ndarray, "conditions features"]


class Result(NamedTuple):
    """Metrics of one method on one condition, and the numbers of cells they were computed from."""

    method: str
    values: dict[str, float]
    n_true: int
    n_pred: int
    beyond: Beyond
    distance_noise: float  # standard deviation of the energy distance of an exact prediction
    noise: Mapping[str, float] | None = None  # of the ceiling: standard deviation of the values over halvings


class Known(NamedTuple):
    """What metrics may know of one condition besides the samples of a method."""

    context: Context
    lowest: Float[np.ndarray, " features"]  # of all training cells and the true ones
    highest: Float[np.ndarray, " features"]
    spread: float  # distance variance of the true cells; of few, that of training cells around their condition's mean
    control_cells: Float[np.ndarray, "cells features"]
    control: Summary  # of these
    true_change: Differential


def known_of(
    train: PerturbationData,
    label: Float[np.ndarray, " perturbations"],
    known: KnownMeans,
    true: Float[np.ndarray, "cells features"],
) -> Known:
    """What metrics may know of a condition with this label and these true cells."""
    means, control = condition_means(train), _control_summary(train)
    context = Context(
        control_mean=means[train.index(train.control)],
        centroid=_centroid(train),
        other_means=np.delete(known.means, rows_of(known.labels, label), axis=0),
        bandwidth=median_distance(true),
    )
    measured = moments(train)
    return Known(
        context,
        np.minimum(measured.lowest, true.min(axis=0)),
        np.maximum(measured.highest, true.max(axis=0)),
        distance_variance(true) if len(true) >= MIN_CELLS_OF_A_LAW else spread_within(train),
        _control_cells(train),
        control,
        differential(Summary.of(true), control),
    )


def rows_of(
    labels: Float[np.ndarray, "conditions perturbations"], label: Float[np.ndarray, " perturbations"]
) -> Int[np.ndarray, " rows"]:
    """The rows that are a label, but for rounding; one column tells most of the others apart."""
    column = np.argmax(np.abs(label))
    rows = np.flatnonzero(np.isclose(labels[:, column], label[column]))
    return rows[np.isclose(labels[rows], label).all(axis=1)]


# An evaluation asks these for every condition; of thousands they take longer than its metrics.
@once_for_each
def _centroid(train: PerturbationData) -> Float[np.ndarray, " features"]:
    return condition_means(train)[np.any(train.labels, axis=1)].mean(axis=0)


@once_for_each
def spread_within(train: PerturbationData) -> float:
    """Distance variance of cells around the mean of their condition, pooled: of three wells it cannot be found."""
    own = train.counts[train.condition_index]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(own > 1))[:_POOLED_CELLS]
    off = train.x[rows] - condition_means(train)[train.condition_index[rows]]
    # a mean of few cells is near each of them
    return distance_variance(off * np.sqrt(own[rows] / (own[rows] - 1))[:, None])


@once_for_each
def _control_cells(train: PerturbationData) -> Float[np.ndarray, "cells features"]:
    rows = train.rows[train.index(train.control)]
    return train.x[np.random.default_rng(0).permutation(rows)[:CONTROL_CELLS]].astype(np.float64)


@once_for_each
def _control_summary(train: PerturbationData) -> Summary:
    return Summary.of(_control_cells(train))


def values_of(
    key: Array, predicted: np.ndarray, true: np.ndarray, known: Known, metrics: Sequence[str]
) -> dict[str, float]:
    """Values of the metrics, by name; the key is of the permutation test. Cells that are no numbers have none."""
    if not np.isfinite(predicted).all():
        return dict.fromkeys(metrics, math.nan)
    samples = Samples(predicted, true, known.control, known.true_change)
    values = {name: METRICS[name](predicted, true, known.context) for name in metrics if name in METRICS}
    values |= {name: FIELD_METRICS[name](samples) for name in metrics if name in FIELD_METRICS}
    if "p_value" in metrics:
        values["p_value"] = two_sample_test(predicted, true, key=key, max_cells=P_VALUE_CELLS).p_value
    return values


def result_of(
    name: str, key: Array, predicted: np.ndarray, true: np.ndarray, known: Known, metrics: Sequence[str]
) -> Result:
    """All numbers of a method."""
    values = values_of(key, predicted, true, known, metrics)
    far = beyond(predicted, known.lowest, known.highest)
    return Result(name, values, len(true), len(predicted), far, _distance_noise(known, len(true), len(predicted)))


def _distance_noise(known: Known, n_true: int, n_pred: int) -> float:
    return math.sqrt(2 * known.spread) * (1 / n_true + 1 / n_pred)  # see `validate.null_variance`


def ceiling_of(key: Array, cells: np.ndarray, known: Known, metrics: Sequence[str]) -> Result:
    """One half of the true cells against the other, mean over random halvings; halves of the control as well."""
    half, far = len(cells) // 2, beyond(cells, known.lowest, known.highest)
    if half < 2:
        missing = dict.fromkeys(metrics, float("nan"))
        return Result(CEILING, missing, half, half, far, math.nan, noise=missing)
    random, values = make_random(key), []
    for number in range(CEILING_REPEATS_OF_MANY if len(cells) >= CEILING_ENOUGH else CEILING_REPEATS):
        shuffled = cells[random.permutation(len(cells))]
        first, second = shuffled[:half], shuffled[half : 2 * half]
        own_key = jax.random.fold_in(key, number)
        own = known._replace(true_change=differential(Summary.of(second), known.control))
        found = values_of(own_key, first, second, own, [name for name in metrics if name not in FROM_CONTROL])
        found |= values_of(
            own_key,
            *_from_own_controls(make_random(own_key), first, second, known),
            own,
            [name for name in metrics if name in FROM_CONTROL],
        )
        values.append(found)
    mean = {name: float(np.mean([v[name] for v in values])) for name in metrics}
    noise = {name: float(np.std([v[name] for v in values], ddof=1)) for name in metrics}
    return Result(CEILING, mean, half, half, far, _distance_noise(known, half, half), noise=noise)


def _from_own_controls(
    random: np.random.Generator, first: np.ndarray, second: np.ndarray, known: Known
) -> tuple[np.ndarray, np.ndarray]:
    """Two halves, each less the mean of one half of the control cells, and plus that of all."""
    cells, mean = known.control_cells, known.control.mean
    if len(cells) < 2:
        return first, second
    chosen = np.zeros(len(cells), bool)
    chosen[random.permutation(len(cells))[: len(cells) // 2]] = True
    halves = np.stack([chosen / chosen.sum(), ~chosen / (~chosen).sum()])
    own = halves @ cells  # faster than to take the rows
    return first - own[0] + mean, second - own[1] + mean


def scaled(row: dict[str, Any], scale: dict[str, tuple[float, float]], noise: Mapping[str, float]) -> dict[str, float]:
    """A value on the scale from the mean response, 0, to the ceiling, 1."""
    base, best = scale.get(row["metric"], (math.nan, math.nan))
    length, chance = abs(best - base), noise.get(row["metric"], math.nan)
    # halves of the cells are worse than all of them: by half of what they are off, where errors fall with the number
    fewer = abs(best - PERFECT.get(row["metric"], 0.0)) / 2
    if not length > max(BY_CHANCE * chance, fewer):  # measuring again is no better than the mean response
        return {"scaled": math.nan, "scaled_noise": math.nan}
    return {"scaled": (row["value"] - base) / (best - base), "scaled_noise": chance / length}
