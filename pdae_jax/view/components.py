"""Principal components: a model of wide data works on scores, and what they leave of a cell is carried along."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.data.moments import condition_means
from pdae_jax.data.principal import principal_axes, principal_directions
from pdae_jax.types import PerturbationData, once_for_each

_MOST_CELLS = 2000  # of a condition: more change no component


class Components(NamedTuple):
    r"""Orthonormal directions in the space of features.

    A cell is :math:`x = m + V s + r` with its scores :math:`s = V^\top (x - m)`, and `r` orthogonal to `V`. A model of
    scores moves them to `s'`, and the cell to :math:`x + V (s' - s)`: it keeps its own `r`, as it keeps its own noise.
    """

    mean: Float[np.ndarray, " features"]
    loadings: Float[np.ndarray, "features components"]

    def scores(self, x: Float[Any, "cells features"]) -> Float[Any, "cells components"]:
        """Give scores of cells; of NumPy and of JAX arrays."""
        return ((x - self.mean) @ self.loadings).astype(np.float32)

    def moved(
        self,
        x: Float[Any, "cells features"],
        scores: Float[Any, "cells components"],
        moved: Float[Any, "cells components"],
    ) -> Float[Any, "cells features"]:
        """Return cells with these scores, once the scores have moved; of NumPy and of JAX arrays."""
        return (x + (moved - scores) @ self.loadings.T).astype(np.float32)

    def reduced(self, data: PerturbationData) -> PerturbationData:
        """Return the same cells by their scores, in memory."""
        return dataclasses.replace(
            data,
            x=np.concatenate([self.scores(block) for block in data.blocks()]),
            features=tuple(f"component {i}" for i in range(self.loadings.shape[1])),
            size_factors=None,
        )


def find_components(train: PerturbationData, number: int) -> Components:
    """Find half of the components for the longest differences of condition means from the control; then principal ones.

    Principal components of cells alone would be those of their noise where effects are small, and a model that does not
    see a direction cannot move a cell along it.

    Args:
        train: training data, the control among its conditions.
        number: of components.

    Raises:
        ValueError: a number below 1, or above that of the features.
    """
    if not 1 <= number <= train.num_features:
        raise ValueError(f"components={number}, and there are {train.num_features} features. Pass a number in between.")
    means = condition_means(train)
    effects = means - means[train.index(train.control)]
    singular, directions = principal_directions(effects, max(1, number // 2))
    between = directions[: number // 2][singular[: number // 2] > 1e-9 * singular[0]].T
    # among so many more there are as many that are not in the span of the others
    vectors = principal_axes(_covariance(train), number + between.shape[1])[1].T
    # the first principal components that are not among these directions yet
    basis, triangle = np.linalg.qr(np.concatenate([between, vectors], axis=1))
    new = np.abs(np.diag(triangle)) > 1e-6
    loadings = basis[:, new[: basis.shape[1]]][:, :number]
    return Components(means.mean(axis=0).astype(np.float32), loadings.astype(np.float32))


@once_for_each
def spectrum(train: PerturbationData) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, largest first, and eigenvectors of the covariance of the pooled, equally weighted
    conditions.
    """
    values, vectors = np.linalg.eigh(_covariance(train))
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


@once_for_each
def _covariance(train: PerturbationData) -> np.ndarray:
    centre = condition_means(train).mean(axis=0)
    some = [np.random.default_rng(0).permutation(rows)[:_MOST_CELLS] for rows in train.rows]
    blocks = ((block - centre, len(rows)) for rows in some for block in train.blocks(np.sort(rows)))
    return np.asarray(sum(block.T @ block / number for block, number in blocks) / train.num_conditions)
