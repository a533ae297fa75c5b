"""Maps between two sets of latents of the same cells, and how well mapped latents agree."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import orthogonal_procrustes

_NO_SPREAD = 1e-8  # of the largest variance: latents below this are switched off, and not blown up to unit variance


class LatentMap(NamedTuple):
    """Learned latents to true ones, :math:`z M + b`; columns beyond the true latents should map to zero."""

    matrix: Float[np.ndarray, "learned mapped"]
    offset: Float[np.ndarray, " mapped"]

    def apply(self, latents: np.ndarray) -> np.ndarray:
        return latents @ self.matrix + self.offset


class Maps(NamedTuple):
    """The best map of each class, and the units that the learned latents came in."""

    affine: LatentMap
    whitened: LatentMap
    orthogonal: LatentMap
    base_sd: Float[np.ndarray, " learned"]  # principal, within conditions, largest first; all 1 for N(0, I)


class Agreement(NamedTuple):
    r"""How well mapped latents agree with the true ones, on cells that the map was not fitted to.

    R2 is :math:`1 - \sum (\hat z - z)^2 / \sum (z - \bar z)^2`. Shifts between conditions count as variance, so it
    is the larger the stronger the perturbations; within conditions it would be :math:`1 - \text{residual}^2`.
    """

    r2: float  # pooled over true latents
    r2_by_latent: Float[np.ndarray, " latent"]  # NaN where a true latent is constant
    residual: float  # root mean square over cells and true latents, in standard deviations of the base
    residual_by_latent: Float[np.ndarray, " latent"]
    excess: float  # root mean square of surplus learned latents, should be 0; 0 where there are none


def fit_maps(
    learned: Float[np.ndarray, "cells learned"],
    true: Float[np.ndarray, "_ latent"],
    condition_index: Int[np.ndarray, " cells"],
) -> Maps:
    """Fit the best map of each class; arguments and errors as in `compare_latents`."""
    check_latents(learned, true)
    needed = max(learned.shape[1], true.shape[1]) + len(np.unique(condition_index)) + 1
    if len(learned) < needed:
        raise ValueError(
            f"Maps from {learned.shape[1]} learned to {true.shape[1]} true latents would be fitted on {len(learned)} "
            f"cells, which they could match by chance. Pass at least {2 * needed} cells of the training conditions, "
            f"of which half are for the fit."
        )
    whiten, base_sd = whitening(learned, condition_index)
    rotation = orthogonal_map(learned @ whiten, true)
    return Maps(
        affine=affine_map(learned, true),
        whitened=LatentMap(whiten @ rotation.matrix, rotation.offset),
        orthogonal=orthogonal_map(learned, true),
        base_sd=base_sd,
    )


def affine_map(learned: Float[np.ndarray, "cells learned"], true: Float[np.ndarray, "cells latent"]) -> LatentMap:
    r"""Return :math:`\arg\min_{B, b} \|\hat Z B + b - Z\|`, of smallest norm where learned latents are dependent."""
    centre, target = learned.mean(axis=0), true.mean(axis=0)
    matrix = np.linalg.lstsq(learned - centre, true - target, rcond=None)[0]
    return LatentMap(matrix, target - centre @ matrix)


def orthogonal_map(learned: Float[np.ndarray, "cells learned"], true: Float[np.ndarray, "cells latent"]) -> LatentMap:
    r"""Return :math:`\arg\min_{R, b} \|\hat Z R + b - Z\|`, `R` orthogonal; the narrower side is filled up with zeros.

    With :math:`\hat Z^T Z = U S V^T` of the centred latents, :math:`R = U V^T` (Schoenemann 1966). With `k` true and
    more learned latents the first `k` columns of the result are the true latents, the others stand for zeros.
    """
    width = max(learned.shape[1], true.shape[1])
    centre, target = learned.mean(axis=0), true.mean(axis=0)
    rotation = orthogonal_procrustes(pad(learned - centre, width), pad(true - target, width))[0]
    matrix = rotation[: learned.shape[1]]
    return LatentMap(matrix, np.pad(target, (0, width - len(target))) - centre @ matrix)


def agreement(mapped: Float[np.ndarray, "cells mapped"], true: Float[np.ndarray, "cells latent"]) -> Agreement:
    """Compare mapped latents with true ones, cell by cell; columns beyond the true ones against zero."""
    latent_dim = true.shape[1]
    squared, variance = np.mean((mapped[:, :latent_dim] - true) ** 2, axis=0), np.var(true, axis=0)
    surplus = mapped[:, latent_dim:]
    return Agreement(
        r2=float(1.0 - ratio(np.sum(squared), np.sum(variance))),
        r2_by_latent=1.0 - ratio(squared, variance),
        residual=float(np.sqrt(np.mean(squared))),
        residual_by_latent=np.sqrt(squared),
        excess=float(np.sqrt(np.mean(surplus**2))) if surplus.size else 0.0,
    )


def whitening(latents: np.ndarray, condition_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the symmetric map to identity covariance within conditions, and the standard deviations before it."""
    _, index = np.unique(condition_index, return_inverse=True)
    counts = np.bincount(index)
    totals = np.zeros((len(counts), latents.shape[1]))
    np.add.at(totals, index, latents)
    residual = latents - (totals / counts[:, None])[index]
    values, vectors = np.linalg.eigh(residual.T @ residual / (len(latents) - len(counts)))
    values = np.maximum(values, 0.0)  # rounding
    scale = np.sqrt(np.where(values > _NO_SPREAD * values.max(), values, 1.0))
    return (vectors / scale) @ vectors.T, np.sqrt(values[::-1])


def pad(x: np.ndarray, width: int) -> np.ndarray:
    """Fill up with zero columns to a width."""
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


def ratio(numerator: Any, denominator: Any) -> Any:
    """Return the quotient, NaN where the denominator is zero."""
    positive = np.asarray(denominator) > 0
    return np.where(positive, numerator, np.nan) / np.where(positive, denominator, 1.0)


def check_latents(learned: np.ndarray, true: np.ndarray) -> None:
    """Raise ``ValueError`` for unequal numbers of rows and for latents that are not finite."""
    if len(learned) != len(true):
        raise ValueError(
            f"{len(learned)} learned latents and {len(true)} true ones. Pass those of the same cells, in one order."
        )
    for name, latents in (("learned", learned), ("true", true)):
        bad = np.flatnonzero(~np.isfinite(latents).all(axis=1))
        if len(bad):
            raise ValueError(
                f"The {name} latents of {len(bad)} cells are not finite, the first in row {bad[0]}: {latents[bad[0]]}. "
                f"Leave these cells out."
            )
