r"""The best linear model of condition means: ridge on labels, a gain for combinations, a rank; by leave-one-out.

The mean of condition `e`, less that of the control, is modelled as

.. math:: \Delta_e = \phi(a_e) B + \text{noise} / \sqrt{n_e}, \qquad \phi(a) = o^{-\gamma} a

with `o` the order of the combination (the number of perturbations with a dose that is not zero). One perturbation has
gain 1; two together have :math:`2^{-\gamma}` of the sum of their effects, three :math:`3^{-\gamma}`. All training
conditions determine `B` together, weighted by their cells. With :math:`X` the rows :math:`\phi(a_e)` and

.. math:: M = X X^\top + \lambda \operatorname{diag}(\bar n / n_e)

the ridge solution is :math:`B = X^\top M^{-1} \Delta`, and what a condition's own mean is off from the prediction of
all others is :math:`(M^{-1} \Delta)_e / (M^{-1})_{ee}`. So ridge, gain and rank are chosen by leaving out each
combination that the others determine, in closed form.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

from pdae_jax.types import AnyArray, PerturbationData

RIDGES = tuple(10.0**power for power in np.arange(-4.0, 1.01, 0.5))
SATURATIONS = tuple(float(value) for value in np.arange(0.0, 1.01, 0.1))
RANKS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 120)
DEFAULT_RIDGE = 1e-4  # where no combination can be left out: next to least squares, and still determined
_DETERMINED = 1e-6  # ridge of the check whether the others determine a combination
_FOLDS = 5
_MIN_TESTED = 3  # combinations that must be left out before a gain or a rank is believed


class LinearModel(NamedTuple):
    """Effects, and how they combine; in the units of the means that they were fitted to."""

    effects: Float[np.ndarray, "perturbations features"]  # B, at dose 1
    saturation: float  # gamma; 0: effects add up
    ridge: float  # lambda
    rank: int | None  # of B; None: full
    error: float  # squared error of left-out combinations over their squared effects; NaN where none can be left out
    num_tested: int  # combinations that were left out

    def predict(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch features"]:
        """Difference of the mean from the control's."""
        return effective_label(label, self.saturation) @ self.effects


def effective_label(
    label: Float[AnyArray, "*batch perturbations"], saturation: float | AnyArray
) -> Float[AnyArray, "*batch perturbations"]:
    """`phi`: the label times the gain of its order; of NumPy and of JAX arrays."""
    xp = np if isinstance(label, np.ndarray) and not isinstance(saturation, jax.Array) else jnp
    order = xp.maximum(xp.sum(label != 0, axis=-1, keepdims=True), 1).astype(label.dtype)
    return label * xp.exp(-saturation * xp.log(order))


def fit_linear(
    differences: Float[np.ndarray, "conditions features"],
    labels: Float[np.ndarray, "conditions perturbations"],
    counts: Int[np.ndarray, " conditions"],
    *,
    additive: bool = False,
) -> LinearModel:
    """Choose ridge, gain and rank by closed-form leave-one-out over combinations, and fit.

    Args:
        differences: mean of each condition less the control's; features on a common scale.
        labels: of the conditions; rows without a perturbation are left out.
        counts: cells of each condition.
        additive: combinations have gain 1.
    """
    perturbed = np.any(labels != 0, axis=1)
    y, labels = differences[perturbed].astype(np.float64), labels[perturbed].astype(np.float64)
    noise = np.mean(counts[perturbed]) / counts[perturbed]
    # what features share is enough: squared errors over features are those over principal components
    left, singular, directions = scipy.linalg.svd(y, full_matrices=False)
    keep = singular > 1e-9 * max(singular[0], 1e-300)
    scores, directions = (left * singular)[:, keep], directions[keep]
    tested = determined_by_others(labels) & (np.count_nonzero(labels, axis=1) > 1)
    ridge, saturation, rank, error = DEFAULT_RIDGE, 0.0, None, float("nan")
    if tested.any():
        ridge, saturation = _choose(scores, labels, noise, tested, SATURATIONS[:1] if additive else SATURATIONS)
    x = effective_label(labels, saturation)
    inverse = _inverse(x, noise, ridge)
    weights = inverse @ scores
    effects = x.T @ weights  # [perturbations, components]
    if tested.any():
        left_out = scores - weights / np.diag(inverse)[:, None]
        rank, missed = _choose_rank(scores, x, noise, ridge, left_out, tested)
        if rank is not None:
            basis = scipy.linalg.svd(x @ effects, full_matrices=False)[2].T[:, :rank]
            effects = effects @ basis @ basis.T
        size = np.sum(scores[tested] ** 2)
        error = float(np.sum(missed) / size) if size > 0 else float("nan")
    return LinearModel(effects @ directions, saturation, ridge, rank, error, int(tested.sum()))


def fit_means(
    train: PerturbationData, x: Float[np.ndarray, "cells features"] | None = None, *, additive: bool = False
) -> LinearModel:
    """The best linear model of the condition means of `x`, the cells of `train` in some units; default as they are."""
    means = condition_means(train, x)
    return fit_linear(means - means[train.index(train.control)], train.labels, train.counts, additive=additive)


def condition_means(
    train: PerturbationData, x: Float[np.ndarray, "cells features"] | None = None
) -> Float[np.ndarray, "conditions features"]:
    """Mean of each condition, in float64."""
    order = np.argsort(train.condition_index, kind="stable")
    groups = np.split(order, np.cumsum(train.counts)[:-1])
    cells = train.x if x is None else x
    return np.stack([cells[rows].mean(axis=0, dtype=np.float64) for rows in groups])


def _inverse(x: np.ndarray, noise: np.ndarray, ridge: float) -> np.ndarray:
    matrix = x @ x.T
    matrix[np.diag_indices_from(matrix)] += ridge * noise
    factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, np.eye(len(x)), check_finite=False)


def determined_by_others(labels: Float[np.ndarray, "conditions perturbations"]) -> Bool[np.ndarray, " conditions"]:
    """Whether the label of a condition lies in the span of the others': whether its leverage is below one."""
    size = max(float(np.max(np.sum(labels.astype(np.float64) ** 2, axis=1))), 1e-300)
    inverse = _inverse(labels.astype(np.float64) / size**0.5, np.ones(len(labels)), _DETERMINED)
    return np.diag(inverse) * _DETERMINED > 1e-3


def _left_out(
    scores: np.ndarray, labels: np.ndarray, noise: np.ndarray, tested: np.ndarray, ridge: float, saturation: float
) -> np.ndarray:
    """Squared error of each tested combination when it is left out."""
    inverse = _inverse(effective_label(labels, saturation), noise, ridge)
    residual = (inverse[tested] @ scores) / np.diag(inverse)[tested, None]
    return np.sum(residual**2, axis=1)


def _choose(
    scores: np.ndarray, labels: np.ndarray, noise: np.ndarray, tested: np.ndarray, gains: tuple[float, ...]
) -> tuple[float, float]:
    """Ridge and gain. The gain is 1 unless another is better by more than the standard error over combinations."""
    # in squared doses, so that their unit changes nothing
    ridges = np.array(RIDGES) * float(np.mean(labels[labels != 0] ** 2))
    gains = gains if tested.sum() >= _MIN_TESTED else gains[:1]

    @functools.cache
    def errors(i: int, j: int) -> np.ndarray:
        return _left_out(scores, labels, noise, tested, ridges[i], gains[j])

    @functools.cache
    def ridge_of(j: int) -> int:
        start = ridge_of(j - 1) if j else 0
        return _valley(lambda i: float(np.mean(errors(i, j))), start, len(ridges))

    chosen = _valley(lambda j: float(np.mean(errors(ridge_of(j), j))), 0, len(gains))
    if not _better(errors(ridge_of(chosen), chosen), errors(ridge_of(0), 0)):
        chosen = 0
    return float(ridges[ridge_of(chosen)]), gains[chosen]


def _valley(value: Callable[[int], float], start: int, size: int) -> int:
    """Downhill from `start` to where both neighbours are higher: curves of ridges have one valley."""
    here = start
    while True:
        around = [i for i in (here - 1, here, here + 1) if 0 <= i < size]
        lowest = min(around, key=value)
        if lowest == here:
            return here
        here = lowest


def _better(errors: np.ndarray, reference: np.ndarray) -> bool:
    """Whether errors are smaller on average by more than the standard error of the difference."""
    gain = reference - errors
    return len(gain) >= _MIN_TESTED and np.mean(gain) > np.std(gain, ddof=1) / len(gain) ** 0.5


def _choose_rank(
    scores: np.ndarray, x: np.ndarray, noise: np.ndarray, ridge: float, left_out: np.ndarray, tested: np.ndarray
) -> tuple[int | None, np.ndarray]:
    """Rank of the effects, None for full, and the errors with it.

    Components come from fits without a fifth of the combinations, which judge them.
    """
    rows = np.flatnonzero(tested)
    errors: dict[int | None, list] = {}
    for fold in range(_FOLDS):
        judged = np.isin(np.arange(len(x)), rows[fold::_FOLDS])
        if not judged.any():
            continue
        rest = ~judged
        fitted = x[rest] @ (x[rest].T @ (_inverse(x[rest], noise[rest], ridge) @ scores[rest]))
        basis = scipy.linalg.svd(fitted, full_matrices=False)[2].T
        predicted, true = left_out[judged], scores[judged]
        for rank in (None, *(r for r in RANKS if r < basis.shape[1])):
            kept = predicted if rank is None else predicted @ basis[:, :rank] @ basis[:, :rank].T
            errors.setdefault(rank, []).append(np.sum((kept - true) ** 2, axis=1))
    judged_by = {rank: np.concatenate(parts) for rank, parts in errors.items() if len(parts) == len(errors[None])}
    chosen = min(judged_by, key=lambda r: np.mean(judged_by[r]))
    chosen = chosen if _better(judged_by[chosen], judged_by[None]) else None
    return chosen, judged_by[chosen]
