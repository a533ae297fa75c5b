"""Covariances that can be added up as they are or by their logarithms, and cells that are given one."""

from collections.abc import Callable

import numpy as np


def spectral(matrix: np.ndarray, of: Callable) -> np.ndarray:
    """Apply a function to the eigenvalues of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * of(values)) @ vectors.T


def floored(matrix: np.ndarray) -> np.ndarray:
    """Bound the eigenvalues of a covariance away from zero: it has an inverse and a logarithm."""
    return spectral(matrix, lambda v: np.maximum(v, 1e-3 * np.max(v)))


#: Name -> what a covariance is turned into before changes of it are added, and back.
FORMS = {
    "added": (floored, floored),
    "log added": (lambda s: spectral(floored(s), np.log), lambda s: spectral(s, np.exp)),
}


def with_covariance(x: np.ndarray, basis: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Give cells a covariance within components by the optimal transport between two Gaussians."""
    before = floored(np.cov(x @ basis, rowvar=False))
    root, inverse = spectral(before, np.sqrt), spectral(before, lambda v: v**-0.5)
    plan = inverse @ spectral(root @ after @ root, lambda v: np.sqrt(np.maximum(v, 0))) @ inverse
    return x + ((x - x.mean(axis=0)) @ basis) @ (plan - np.eye(len(plan))) @ basis.T
