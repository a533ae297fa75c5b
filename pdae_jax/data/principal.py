"""The first singular values and directions of wide data, without those that nobody asks for."""

import numpy as np
import scipy.linalg
from jaxtyping import Float

_SMALL = 256  # cells or features at most: all of the spectrum takes no time
_SPARE = 10  # directions beyond those asked for, which make the others converge
_DEPTH = 3  # products with the matrix between two looks at what has converged
_LOOKS = 5  # most of them: where the spectrum is flat, all of it is faster


def principal_directions(
    x: Float[np.ndarray, "cells features"], number: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k features"]]:
    """Find the longest principal directions of rows, to the rounding of their precision; always the same.

    Args:
        x: rows, centred by the caller.
        number: of directions; as many as there are where these are fewer.

    Returns:
        Singular values, largest first, and orthonormal right singular vectors. Where all of them were computed (few
        cells or features, or most of the spectrum asked for) their signs are as LAPACK leaves them, else their longest
        entry is positive.
    """
    if _is_whole(min(x.shape), number):
        _, values, directions = scipy.linalg.svd(x, full_matrices=False)
        return values[:number], directions[:number]
    found = _by_subspaces(x, number) or _by_products(x, number)
    return found[0], _signed(found[1])


def principal_axes(
    covariance: Float[np.ndarray, "features features"], number: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k features"]]:
    """Find the largest eigenvalues of a covariance and their eigenvectors in rows, as `principal_directions` does."""
    size = len(covariance)
    if _is_whole(size, number):
        values, vectors = np.linalg.eigh(covariance)
        return values[::-1][:number], vectors[:, ::-1].T[:number]
    found = _by_subspaces(covariance, number)
    if found is None:
        values, vectors = scipy.linalg.eigh(covariance, subset_by_index=[size - number, size - 1])
        found = values[::-1], vectors[:, ::-1].T
    return found[0], _signed(found[1])


def _is_whole(size: int, number: int) -> bool:
    return size <= _SMALL or 2 * number > size


def _by_subspaces(x: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray] | None:
    r"""Randomised block Krylov iteration (Halko, Martinsson & Tropp 2011; Musco & Musco 2015), restarted.

    Within the span of :math:`V, X^\top X V, \dots` the singular vectors are found exactly, and the first of them are
    the next `V`, until :math:`X^\top u = \sigma v` holds to rounding. None where that takes too long.
    """
    block, rounding = number + _SPARE, np.finfo(x.dtype).eps * max(x.shape) ** 0.5
    if 2 * block * (_DEPTH + 1) > min(x.shape):
        return None
    first = np.random.default_rng(0).normal(size=(x.shape[1], block)).astype(x.dtype)
    for _ in range(_LOOKS):
        basis = np.linalg.qr(first)[0]
        for _ in range(_DEPTH):
            further = x.T @ (x @ basis[:, -block:])
            for _ in range(2):  # once leaves the rounding of what it takes off
                further -= basis @ (basis.T @ further)
            basis = np.concatenate([basis, np.linalg.qr(further)[0]], axis=1)
        left, values, turned = scipy.linalg.svd(x @ basis, full_matrices=False)
        first = basis @ turned[:block].T
        missed = x.T @ left[:, :number] - first[:, :number] * values[:number]
        if np.max(np.linalg.norm(missed, axis=0)) <= rounding * values[0]:
            return values[:number], np.linalg.qr(first[:, :number])[0].T
    return None


def _by_products(x: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The same from the products of rows or of features, whichever are fewer: in double precision they lose nothing of
    directions longer than 1e-4 of the longest, and of shorter ones no more than single precision has.
    """
    x64, tall = x.astype(np.float64), x.shape[0] >= x.shape[1]
    products = x64.T @ x64 if tall else x64 @ x64.T
    size = len(products)
    squares, vectors = scipy.linalg.eigh(products, subset_by_index=[size - number, size - 1])
    directions = vectors[:, ::-1] if tall else np.linalg.qr(x64.T @ vectors[:, ::-1])[0]
    return np.sqrt(np.maximum(squares[::-1], 0.0)).astype(x.dtype), directions.T.astype(x.dtype)


def _signed(directions: np.ndarray) -> np.ndarray:
    longest = np.argmax(np.abs(directions), axis=1)[:, None]
    return directions * np.sign(np.take_along_axis(directions, longest, axis=1))
