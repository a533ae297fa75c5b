r"""The best linear model of condition means: ridge on labels, a gain for combinations, a rank; by leave-one-out.

The mean of a perturbed condition `e`, less that of the control, is modelled as

.. math:: \Delta_e = u + \phi(a_e) B + \text{noise} / \sqrt{n_e}, \qquad \phi(a) = o^{-\gamma} a

with `a` the condition's row (`Design.row`) and `o` the order of the combination (the number of doses that are not
zero). One perturbation has gain 1; two together have :math:`2^{-\gamma}` of the sum of their effects, three
:math:`3^{-\gamma}`. What all perturbed conditions share is `u`: a response to being perturbed at all, and the noise of
the control's own mean. All conditions determine `u` and `B` together, weighted by their cells. With :math:`X` the rows
:math:`(\phi(a_e), \sqrt c)` and

.. math:: M = X X^\top + \lambda \operatorname{diag}(\bar n / n_e)

the weighted ridge solution (Hoerl & Kennard 1970), in its dual form, is :math:`X^\top M^{-1} \Delta`, and what a
condition's own mean is off from the prediction of all others, its PRESS residual (Allen 1974), is
:math:`(M^{-1} \Delta)_e / (M^{-1})_{ee}`. So ridge, gain, `c` and rank are chosen by leaving out each combination that
the others determine, in closed form; a more complex model only where it is better by more than a standard error
(Breiman et al. 1984, section 3.4.3).
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Real

from pdae_jax.data.moments import condition_means
from pdae_jax.design.design import Design, design_of
from pdae_jax.design.effects import effective_label, is_perturbed
from pdae_jax.model.choice import MIN_TESTED_TO_CHOOSE, better, part_to_choose_on, valley
from pdae_jax.types import PerturbationData

RIDGES = tuple(10.0**power for power in np.arange(-4.0, 1.01, 0.5))
SATURATIONS = tuple(float(value) for value in np.arange(0.0, 1.01, 0.1))
COMMONS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)  # c, in mean squared doses
RANKS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 120)
DEFAULT_RIDGE = 1e-4  # where no combination can be left out: next to least squares, and still determined
_FOLDS = 5
_FEW = 256  # conditions or features at most: in all ways it takes no time


class LinearModel(NamedTuple):
    """Effects, and how they combine; in the units of the means that they were fitted to, by rows of a design."""

    effects: Float[np.ndarray, "columns features"]  # B, at the largest doses
    common: Float[np.ndarray, " features"]  # u
    saturation: float  # gamma; 0: effects add up
    ridge: float  # lambda
    rank: int | None  # of B; None: full
    error: float  # squared error of left-out combinations over their squared effects; NaN where none can be left out
    common_variance: float  # c
    left_out: Float[np.ndarray, "tested features"]  # combinations that others determine, predicted from all others

    @property
    def num_tested(self) -> int:
        """Count the combinations that were left out."""
        return len(self.left_out)

    def predict(self, row: Float[np.ndarray, "*batch columns"]) -> Float[np.ndarray, "*batch features"]:
        """Predict the difference of the mean from the control's, of rows of the design (`Design.row`)."""
        row = np.asarray(row, np.float64)
        return np.asarray(effective_label(row, self.saturation) @ self.effects + is_perturbed(row) * self.common)


def fit_linear(
    means: Float[np.ndarray, "conditions features"],
    design: Design,
    counts: Real[np.ndarray, " conditions"],
    *,
    additive: bool = False,
) -> LinearModel:
    """Choose ridge, gain and rank by closed-form leave-one-out over combinations, and fit.

    Args:
        means: of each condition; features on a common scale.
        design: of these conditions; the control is one of them.
        counts: what the weight of a mean goes with: cells, or the counts in them.
        additive: combinations have gain 1, and conditions nothing in common: what latents alone can express.
    """
    perturbed = design.perturbed
    y = (means[perturbed] - means[~perturbed].mean(axis=0, dtype=np.float64)).astype(np.float64)
    rows, noise = design.rows[perturbed].astype(np.float64), np.mean(counts) / counts[perturbed]
    scores, directions = coordinates(y)
    control_noise = 0.0 if additive else float(np.mean(counts) / np.mean(counts[~perturbed]))
    means_of = _Means(scores, rows, noise, control_noise)
    tested = (design.determined_by_others & (design.num_effects > 1))[perturbed]
    choice = _choose(means_of, tested, *((SATURATIONS[:1], COMMONS[:1]) if additive else (SATURATIONS, COMMONS)))
    x = means_of.regressors(choice)
    coefficients = _solve(x, choice.ridge * noise, scores)
    effects, common = coefficients[:-1], x[0, -1] * coefficients[-1]
    rank, error, left_out = None, float("nan"), scores[tested]
    if tested.any():
        rank, left_out = _choose_rank(means_of, choice, _left_out(x, choice.ridge * noise, scores), tested)
        if rank is not None:
            basis = _components(x[:, :-1], effects)[:, :rank]
            effects = effects @ basis @ basis.T
        size = np.sum(scores[tested] ** 2)
        error = float(np.sum((left_out - scores[tested]) ** 2) / size) if size > 0 else float("nan")
    return LinearModel(
        effects=effects @ directions,
        common=common @ directions,
        saturation=choice.saturation,
        ridge=choice.ridge,
        rank=rank,
        error=error,
        common_variance=choice.common,
        left_out=left_out @ directions,
    )


def fit_means(train: PerturbationData, *, additive: bool = False) -> LinearModel:
    """Fit the best linear model of the condition means, in the user's units."""
    return fit_linear(condition_means(train), design_of(train), train.counts, additive=additive)


class _Choice(NamedTuple):
    """The choices of leave-one-out."""

    ridge: float
    saturation: float
    common: float


class _Means(NamedTuple):
    """Differences of means from the control's, in principal components, and what they are regressed on."""

    scores: Float[np.ndarray, "conditions components"]
    rows: Float[np.ndarray, "conditions columns"]  # of the design
    noise: Float[np.ndarray, " conditions"]  # relative variances of the means
    control_noise: float  # the same of the control's

    def regressors(self, choice: _Choice) -> np.ndarray:
        """X: effective rows, and the square root of `c`."""
        # the noise of the control's mean is common to all differences
        common = choice.common + choice.ridge * self.control_noise
        return np.column_stack([effective_label(self.rows, choice.saturation), np.full(len(self.rows), common**0.5)])


class _LeaveOneOut(NamedTuple):
    r"""PRESS errors of left-out combinations for any ridge and common part at one gain.

    Rows are divided by the standard deviation of their noise, so that :math:`M = X X^T + \lambda I + c\, 1 1^T`. The
    first two terms are inverted by the eigenvectors of the smaller of :math:`X X^T` and :math:`X^T X` (Woodbury), the
    third is a change of rank one (Sherman-Morrison).
    """

    targets: "_Targets"
    values: Float[np.ndarray, " r"]
    basis: Float[np.ndarray, "conditions r"]  # U of X X^T = U S U^T, or X V of X^T X = V S V^T
    wide: bool  # which of the two
    basis_ones: Float[np.ndarray, " r"]
    basis_y: Float[np.ndarray, "r components"]
    products: Float[np.ndarray, "r r"]  # of the rows of basis_y
    products_tested: Float[np.ndarray, "tested r"]  # of the tested rows of y with those

    @classmethod
    def of(cls, means: _Means, saturation: float, targets: "_Targets") -> "_LeaveOneOut":
        """Decompose once for all ridges and common parts of a gain."""
        x = targets.ones[:, None] * effective_label(means.rows, saturation)
        wide = x.shape[1] >= x.shape[0]
        values, vectors = scipy.linalg.eigh(x @ x.T if wide else x.T @ x, check_finite=False)
        basis = vectors if wide else x @ vectors
        basis_y = basis.T @ targets.y
        found = np.maximum(values, 0.0), basis, wide, basis.T @ targets.ones, basis_y
        return cls(targets, *found, basis_y @ basis_y.T, targets.y_tested @ basis_y.T)

    def errors(self, ridge: float, common: float) -> Float[np.ndarray, " tested"]:
        """Squared error of each tested combination when it is left out."""
        targets = self.targets
        # the inverse of M, here times the ridge: of the error it is a ratio
        identity = 0.0 if self.wide else 1.0
        weight = ridge / (self.values + ridge) if self.wide else -1.0 / (self.values + ridge)
        ones = identity * targets.ones + self.basis @ (weight * self.basis_ones)  # the inverse without c, times 1
        change = common / (ridge + common * (targets.ones @ ones))
        rows, ones_tested = self.basis[targets.tested], ones[targets.tested]
        diagonal = identity + rows**2 @ weight - change * ones_tested**2
        # missed is `factors @ basis_y + by_ones * ones_y + identity * y_tested`: its squares, from products
        factors, by_ones = rows * weight, -change * ones_tested
        ones_y = identity * targets.ones_y + (weight * self.basis_ones) @ self.basis_y
        tested_ones_y = identity * targets.tested_ones_y + self.products_tested @ (weight * self.basis_ones)
        squares = np.sum(factors @ self.products * factors, axis=1) + by_ones**2 * (ones_y @ ones_y)
        squares += 2.0 * by_ones * (factors @ (self.basis_y @ ones_y))
        if not self.wide:
            squares += targets.square_tested + 2.0 * np.sum(factors * self.products_tested, axis=1)
            squares += 2.0 * by_ones * tested_ones_y
        return np.maximum(squares, 0.0) / (targets.ones[targets.tested] * diagonal) ** 2


class _Targets(NamedTuple):
    """What is predicted, divided by the standard deviation of its noise, and what of it does not depend on the gain."""

    ones: Float[np.ndarray, " conditions"]
    y: Float[np.ndarray, "conditions components"]
    tested: Bool[np.ndarray, " conditions"]
    y_tested: Float[np.ndarray, "tested components"]
    square_tested: Float[np.ndarray, " tested"]
    ones_y: Float[np.ndarray, " components"]
    tested_ones_y: Float[np.ndarray, " tested"]

    @classmethod
    def of(cls, means: _Means, tested: Bool[np.ndarray, " conditions"]) -> "_Targets":
        """Weight the means, and multiply them once."""
        ones = means.noise**-0.5
        y = ones[:, None] * means.scores
        ones_y = ones @ y
        return cls(ones, y, tested, y[tested], np.sum(y[tested] ** 2, axis=1), ones_y, y[tested] @ ones_y)


def coordinates(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find coordinates of rows, and their orthonormal directions: squared errors over both are the same."""
    if min(y.shape) <= _FEW:
        left, singular, directions = scipy.linalg.svd(y, full_matrices=False)
        keep = singular > 1e-9 * max(singular[0], 1e-300)
        return (left * singular)[:, keep], directions[keep]
    if y.shape[0] >= y.shape[1]:
        return y, np.eye(y.shape[1])
    basis, triangle = np.linalg.qr(y.T)
    return triangle.T, basis.T


def _solve(x: np.ndarray, noise: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Find ridge coefficients, from the smaller of the two systems."""
    if _is_dual(x):
        return x.T @ (_inverse(x @ x.T, noise) @ y)
    scaled = x / noise[:, None]
    return _inverse(scaled.T @ x, 1.0) @ (scaled.T @ y)


def _left_out(x: np.ndarray, noise: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predict each row from all others."""
    if _is_dual(x):
        inverse = _inverse(x @ x.T, noise)
        return y - inverse @ y / np.diag(inverse)[:, None]
    scaled = x / noise[:, None]
    hat = x @ _inverse(scaled.T @ x, 1.0)
    leverage = np.sum(hat * scaled, axis=1)
    return y - (y - hat @ (scaled.T @ y)) / (1.0 - leverage)[:, None]


def _is_dual(x: np.ndarray) -> bool:
    return len(x) <= max(_FEW, x.shape[1])


def _inverse(matrix: np.ndarray, diagonal: np.ndarray | float) -> np.ndarray:
    """Invert a matrix with something added on its diagonal, by Cholesky."""
    matrix[np.diag_indices_from(matrix)] += diagonal
    factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, np.eye(len(matrix)), check_finite=False)


def _choose(means: _Means, tested: np.ndarray, gains: tuple[float, ...], commons: tuple[float, ...]) -> _Choice:
    """Choose ridge, gain and common part, one after the other.

    The gain is 1 and nothing is common unless that is worse by more than the standard error over combinations.
    """
    # in squared doses, so that their unit changes nothing
    unit = float(np.mean(means.rows[means.rows != 0] ** 2))
    part = part_to_choose_on(means.rows, tested)
    means, tested = (
        means._replace(scores=means.scores[part], rows=means.rows[part], noise=means.noise[part]),
        tested[part],
    )
    if not tested.any():
        return _Choice(DEFAULT_RIDGE * unit, 0.0, 0.0)
    gains = gains if tested.sum() >= MIN_TESTED_TO_CHOOSE else gains[:1]

    targets = _Targets.of(means, tested)
    at_gain = functools.cache(lambda gain: _LeaveOneOut.of(means, gains[gain], targets))

    @functools.cache
    def errors(ridge: int, gain: int, common: int) -> np.ndarray:
        penalty = RIDGES[ridge] * unit
        return at_gain(gain).errors(penalty, commons[common] * unit + penalty * means.control_noise)

    @functools.cache
    def ridge_of(gain: int, common: int) -> int:
        start = ridge_of(gain, common - 1) if common else 0
        return valley(lambda i: float(np.mean(errors(i, gain, common))), start, len(RIDGES))

    def best(gain: int, common: int) -> np.ndarray:
        return errors(ridge_of(gain, common), gain, common)

    # a ridge shrinks combinations as a gain does, so the curve of gains may have two valleys: every other is looked at
    mean_error = functools.cache(lambda j: float(np.mean(best(j, 0))))
    gain = min(range(0, len(gains), 2), key=mean_error)
    gain = valley(mean_error, gain, len(gains))
    if not better(best(gain, 0), best(0, 0)):
        gain = 0
    common = valley(lambda c: float(np.mean(best(gain, c))), 0, len(commons))
    if not better(best(gain, common), best(gain, 0)):
        common = 0
    return _Choice(RIDGES[ridge_of(gain, common)] * unit, gains[gain], commons[common] * unit)


def _components(x: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Find principal directions of what effects predict, the longest first."""
    if len(x) <= _FEW or effects.shape[0] >= effects.shape[1]:
        return scipy.linalg.svd(x @ effects, full_matrices=False)[2].T
    # no more directions than effects: found among these
    basis, triangle = np.linalg.qr(effects.T)
    return basis @ scipy.linalg.svd(x @ triangle.T, full_matrices=False)[2].T


def _choose_rank(
    means: _Means, choice: _Choice, left_out: np.ndarray, tested: np.ndarray
) -> tuple[int | None, np.ndarray]:
    """Choose the rank of the effects, None for full, and predict each tested combination from the others with it.

    Effects are projected on the principal directions of what they predict (reduced-rank ridge regression, Mukherjee &
    Zhu 2011). These come from fits without a fifth of the combinations, which judge them.
    """
    combinations, regressors = np.flatnonzero(tested), means.regressors(choice)
    folds = []
    for fold in range(min(_FOLDS, len(combinations))):
        judged = np.isin(np.arange(len(regressors)), combinations[fold::_FOLDS])
        rest, noise = regressors[~judged], choice.ridge * means.noise[~judged]
        effects = _solve(rest, noise, means.scores[~judged])
        folds.append((judged, _components(rest[:, :-1], effects[:-1]), regressors[0, -1] * effects[-1]))

    def of_rank(rank: int | None) -> np.ndarray:
        predicted = left_out.copy()
        for judged, basis, shared in folds if rank is not None else ():
            kept = basis[:, :rank]
            predicted[judged] = (predicted[judged] - shared) @ kept @ kept.T + shared
        return predicted[tested]

    largest = min(basis.shape[1] for _, basis, _ in folds)
    errors = {
        rank: np.sum((of_rank(rank) - means.scores[tested]) ** 2, axis=1)
        for rank in (None, *(rank for rank in RANKS if rank < largest))
    }
    chosen = min(errors, key=lambda rank: np.mean(errors[rank]))
    chosen = chosen if better(errors[chosen], errors[None]) else None
    return chosen, of_rank(chosen)
