r"""The table of all pairs, completed: what pairs do beyond the linear model is of low rank where most were measured.

For each direction, the table :math:`Z` of pairs minimises

.. math:: \tfrac12 \sum_{(i,j)\ \text{measured}} (R_{ij} - Z_{ij})^2 + \tau \|Z\|_*

by filling in what is missing and shrinking the spectrum, in turn (soft-impute: Mazumder, Hastie & Tibshirani, JMLR 11,
2010). The diagonal, a perturbation with itself, is always missing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SHRINKAGES = (0.5, 0.3, 0.2, 0.1, 0.07, 0.05, 0.03, 0.02)  # tau, of the largest eigenvalue of what was measured
_ROUNDS, _CHANGE = 200, 1e-4  # most of them, and the relative change of the table at which they end


class Pairs(NamedTuple):
    """Measured pairs, and what they do beyond the linear model."""

    parts: Int[np.ndarray, "pairs 2"]  # columns
    doses: Float[np.ndarray, " pairs"]  # products of the two doses
    residual: Float[np.ndarray, "pairs directions"]
    columns: int

    def part(self, kept: np.ndarray) -> "Pairs":
        """Take some of the pairs, a mask or rows."""
        return Pairs(self.parts[kept], self.doses[kept], self.residual[kept], self.columns)

    def read(self, table: Float[np.ndarray, "directions columns columns"]) -> Float[np.ndarray, "pairs directions"]:
        """Say what a table has for these pairs."""
        first, second = self.parts.T
        return (self.doses * table[:, first, second]).T


def complete(pairs: Pairs) -> list[Float[np.ndarray, "directions columns columns"]]:
    """Complete the table for each of the `SHRINKAGES`, the strongest first; each starts from the one before."""
    known, measured = _tables(pairs)
    largest = np.max(np.abs(np.linalg.eigvalsh(known)), axis=1, initial=0.0)
    found, table = [], np.zeros_like(known)
    for share in SHRINKAGES:
        table = _complete(known, measured, share * largest, table)
        found.append(table * (1.0 - np.eye(pairs.columns)))
    return found


def _tables(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Residuals at dose 1, the mean of several of one pair; and where there are any."""
    size = pairs.columns
    total, weight = np.zeros((pairs.residual.shape[1], size, size)), np.zeros((size, size))
    first, second = pairs.parts.T
    for i, j in ((first, second), (second, first)):
        np.add.at(total.transpose(1, 2, 0), (i, j), pairs.doses[:, None] * pairs.residual)
        np.add.at(weight, (i, j), pairs.doses**2)
    return total / np.where(weight > 0, weight, 1.0), weight > 0


def _complete(known: np.ndarray, measured: np.ndarray, shrinkage: np.ndarray, table: np.ndarray) -> np.ndarray:
    for _ in range(_ROUNDS):
        values, vectors = np.linalg.eigh(np.where(measured, known, table))
        values = np.sign(values) * np.maximum(np.abs(values) - shrinkage[:, None], 0.0)
        before, table = table, (vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1)
        if np.linalg.norm(table - before) <= _CHANGE * max(float(np.linalg.norm(table)), 1e-300):
            break
    return table
