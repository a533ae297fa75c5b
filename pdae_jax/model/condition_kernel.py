r"""A Gaussian process over conditions: effects that add up, and interactions that similar combinations share.

.. math:: \Delta(a) = u + \phi(a) B + h(a E), \qquad h \sim \text{GP}(0, \theta k_0), \quad h(0) = 0

with `k_0` a Matern kernel between labels as sums of the effects `E` of their parts (`interactions.beyond_origin`):
pairs that add up similar effects miss their sum in similar ways. With :math:`X` the rows :math:`\phi(a_e)`, the
covariance of the measured differences from the control is, in units of what it is ridged by,

.. math:: M = X X^\top + c\, 1 1^\top + \theta K_0 + \lambda (\operatorname{diag}(\bar n / n_e) + \bar n / n_0)

(the control's own noise is common to all). Weights are :math:`M^{-1} \Delta`, and what a condition is off from the
prediction of all others is :math:`(M^{-1} \Delta)_e / (M^{-1})_{ee}` (Rasmussen & Williams 2006, section 5.4.2). With
the noise on the right whitened, one eigendecomposition serves every :math:`\lambda`.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

from pdae_jax.design.effects import effective_label
from pdae_jax.model.choice import part_to_choose_on, valley
from pdae_jax.model.interactions import beyond_origin
from pdae_jax.model.linear import RIDGES

LENGTHS = (1.0, 3.0)  # of the kernel, in median distances of combinations
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # theta, in mean squared doses
_RIDGE_FIRST, _STRENGTH_FIRST = 4, 3  # where the search for the lowest error begins


class Measured(NamedTuple):
    """What is known of perturbed conditions: their differences from the control, and how well."""

    scores: Float[np.ndarray, "conditions components"]
    rows: Float[np.ndarray, "conditions columns"]  # of the design
    noise: Float[np.ndarray, " conditions"]  # relative variances of the means
    control_noise: float  # the same of the control's
    tested: Bool[np.ndarray, " conditions"]  # combinations that the others determine

    def part(self, kept: Int[np.ndarray, " kept"]) -> "Measured":
        """Take some of the conditions."""
        scores, rows, noise, tested = (array[kept] for array in (self.scores, self.rows, self.noise, self.tested))
        return Measured(scores, rows, noise, self.control_noise, tested)


class Covariance(NamedTuple):
    """The prior of effects, and the noise: all that leave-one-out chooses."""

    saturation: float  # gamma
    common: float  # c
    strength: float  # theta; 0: effects add up
    ridge: float  # lambda


class Posterior(NamedTuple):
    """The process, given all conditions."""

    covariance: Covariance
    points: Float[np.ndarray, "conditions components"]  # a E, in lengths of the kernel
    weights: Float[np.ndarray, "conditions components"]  # M^{-1} Delta
    left_out: Float[np.ndarray, "tested components"]  # tested conditions, predicted from all others


def choose_kernel(
    measured: Measured,
    embedding: Float[np.ndarray, "columns components"],
    saturation: float,
    common: float,
    unit: float,
) -> tuple[Covariance, float]:
    """Choose strength, length and ridge by the squared error of combinations that are left out, in closed form.

    Args:
        measured: conditions; at least one is tested.
        embedding: effects of the columns, by which labels are similar.
        saturation: of the gain, as the linear model has it.
        common: c, likewise.
        unit: mean squared dose.

    Returns:
        The best covariance, and the length of its kernel.
    """
    part = measured.part(part_to_choose_on(measured.rows, measured.tested))
    points = part.rows @ embedding
    median = typical_distance(points[part.tested])
    found: dict[tuple[float, float, float], float] = {}
    for length in LENGTHS:

        @functools.cache
        def error(number: int, length: float = length) -> float:
            strength = STRENGTHS[number] * unit
            process = Process.of(part, points / (length * median), Covariance(saturation, common, strength, 0.0))
            mean = functools.cache(lambda i: float(np.mean(np.sum(process.missed(RIDGES[i] * unit) ** 2, axis=1))))
            ridge = valley(mean, _RIDGE_FIRST, len(RIDGES))
            found[length, strength, RIDGES[ridge] * unit] = mean(ridge)
            return mean(ridge)

        valley(error, _STRENGTH_FIRST, len(STRENGTHS))
    length, strength, ridge = min(found, key=lambda key: found[key])
    return Covariance(saturation, common, strength, ridge), length * median


def fit_process(
    measured: Measured, points: Float[np.ndarray, "conditions components"], covariance: Covariance
) -> Posterior:
    """Condition the process on all conditions, and on all but each of the tested ones."""
    gram = _gram(measured, points, covariance) + covariance.ridge * _noise(measured)
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    inverse = scipy.linalg.cho_solve(factor, np.eye(len(gram)), check_finite=False)
    weights = inverse @ measured.scores
    missed = weights[measured.tested] / np.diag(inverse)[measured.tested, None]
    return Posterior(covariance, points, weights, measured.scores[measured.tested] - missed)


class Process(NamedTuple):
    """The process of one covariance, for every ridge."""

    values: Float[np.ndarray, " conditions"]
    vectors: Float[np.ndarray, "tested conditions"]  # L^{-T} Q, where Q are eigenvectors of L^{-1} G L^{-T}
    scores: Float[np.ndarray, "conditions components"]  # Q^T L^{-1} Delta

    @classmethod
    def of(
        cls, measured: Measured, points: Float[np.ndarray, "conditions components"], covariance: Covariance
    ) -> "Process":
        """Decompose; the ridge of the covariance counts for nothing."""
        root = np.linalg.cholesky(_noise(measured))
        whiten = scipy.linalg.solve_triangular(root, np.eye(len(root)), lower=True, check_finite=False)
        values, vectors = scipy.linalg.eigh(
            whiten @ _gram(measured, points, covariance) @ whiten.T, overwrite_a=True, check_finite=False
        )
        scores = vectors.T @ (whiten @ measured.scores)
        return cls(np.maximum(values, 0.0), (whiten.T @ vectors)[measured.tested], scores)

    def missed(self, ridge: float) -> Float[np.ndarray, "tested components"]:
        """Say what tested conditions are off from the prediction of all others."""
        weight = 1.0 / (self.values + ridge)
        return (self.vectors @ (weight[:, None] * self.scores)) / (self.vectors**2 @ weight)[:, None]


def typical_distance(points: Float[np.ndarray, "number components"]) -> float:
    """Return the median distance of points."""
    squares = np.sum(points**2, axis=1)
    between = squares[:, None] + squares - 2.0 * points @ points.T
    return float(np.median(np.maximum(between[np.triu_indices(len(points), 1)], 0.0))) ** 0.5 or 1.0


def _gram(measured: Measured, points: np.ndarray, covariance: Covariance) -> np.ndarray:
    x = np.asarray(effective_label(measured.rows, covariance.saturation))
    gram = x @ x.T + covariance.common
    return gram + covariance.strength * np.asarray(beyond_origin(points, points))


def _noise(measured: Measured) -> np.ndarray:
    return np.diag(measured.noise) + measured.control_noise
