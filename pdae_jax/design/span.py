r"""The span of labels, at the precision that labels have: the one place that decides ranks.

Labels are float32. Two drugs always dosed 1:3 have labels (0.1, 0.3), (0.2, 0.6), ... that are not quite collinear
once rounded, and in double precision would determine each drug alone. So a direction counts as measured only where it
is longer than rounding. Each perturbation is scaled by its largest dose and each condition to length one first, so that
neither the unit of a dose nor a series of doses over many orders decides. By Weyl's inequality (Math. Ann. 71, 1912)
rounding then moves singular values by at most :math:`\epsilon \|A\|_F`, whatever the number of conditions.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pdae_jax.design.effects import doses_of

#: Relative error of a dose: float32, after a few operations such as a ratio of two doses.
ROUNDING = 4 * float(np.finfo(np.float32).eps)
#: Share of a label's length that may lie outside of a span that contains it. Above what rounding leaves of a label
#: whose leverage is of any use, see `Span.weights`.
SPAN_TOLERANCE = 1e-4
# 1 - h of a condition that the others determine, h its leverage in the fit: 1 / (1 + L) with L that of the others'
# weights. Below it the others tell nothing for noise.
_DETERMINED = 1e-3


class Span(NamedTuple):
    """The span of the rows of a matrix: of labels, or of what their doses count for."""

    labels: Float[np.ndarray, "conditions perturbations"]  # each perturbation in units of its largest dose
    unit: Float[np.ndarray, " perturbations"]  # largest dose; 1 for a perturbation that was never given
    basis: Float[np.ndarray, "rank perturbations"]  # orthonormal, in these units

    @property
    def rank(self) -> int:
        """Number of directions that the labels span."""
        return len(self.basis)

    def project(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch perturbations"]:
        """Project labels on the span."""
        return (label / self.unit) @ self.basis.T @ self.basis * self.unit

    def residual(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch"]:
        """Give the share of the length of labels outside, each perturbation in its unit; 0 for the zero label."""
        scaled = np.asarray(label, np.float64) / self.unit
        outside = np.linalg.norm(scaled - scaled @ self.basis.T @ self.basis, axis=-1)
        length = np.linalg.norm(scaled, axis=-1)
        return np.asarray(np.where(length > 0, outside, 0.0) / np.where(length > 0, length, 1.0))

    def contains(self, label: Float[np.ndarray, "*batch perturbations"]) -> Bool[np.ndarray, "*batch"]:
        """Tell whether labels lie inside."""
        return np.asarray(self.residual(label) <= SPAN_TOLERANCE)

    def weights(self) -> Float[np.ndarray, "conditions perturbations"]:
        r"""Map a label to the minimum-norm weights of conditions that give its part inside the span.

        Their squared norm `L` is the leverage of the label (Hoaglin & Welsch, Am. Stat. 32, 1978). What rounding
        leaves of a label outside a span that contains it is of the order of :math:`\sqrt L` times `ROUNDING`.
        """
        # in coordinates of the basis the conditions have full rank: nothing is left to cut off
        return np.linalg.pinv(self.basis @ self.labels.T, rcond=0.0) @ self.basis / self.unit


def label_span(labels: Float[np.ndarray, "conditions perturbations"]) -> Span:
    """Find the span of labels. Pass differences from the control's label, which are the labels where that is zero."""
    scaled, unit, unit_rows = _scaled(labels)
    _, singular, directions = np.linalg.svd(unit_rows, full_matrices=False)
    return Span(scaled, unit, directions[: _rank(singular)])


def label_rank(labels: Float[np.ndarray, "conditions perturbations"]) -> int:
    """Count the directions that labels span."""
    return label_span(labels).rank


def determined_by_others(labels: Float[np.ndarray, "conditions perturbations"]) -> Bool[np.ndarray, " conditions"]:
    """Tell which conditions lie in the span of the others: a leverage below one (Belsley, Kuh & Welsch 1980)."""
    left, singular, _ = np.linalg.svd(_scaled(labels)[2], full_matrices=False)
    leverage = np.sum(left[:, : _rank(singular)] ** 2, axis=1)
    return 1.0 - leverage > _DETERMINED


def least_squares(
    labels: Float[np.ndarray, "conditions perturbations"], y: Float[np.ndarray, "conditions features"]
) -> Float[np.ndarray, "perturbations features"]:
    """Find slopes of `y` on labels without intercept; nothing for directions of labels that were not measured.

    Where labels are collinear: the solution with the smallest slopes, each perturbation in units of its largest dose.
    """
    span = label_span(labels)
    return span.weights().T @ y


def _scaled(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels in units of the largest doses, these units, and the former with rows of length one."""
    unit = doses_of(labels).unit
    scaled = np.asarray(labels, np.float64) / unit
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled, unit, scaled / np.where(length > 0, length, 1.0)


def _rank(singular: np.ndarray) -> int:
    return int(np.sum(singular > ROUNDING * np.linalg.norm(singular)))
