"""Whether translated latents lie among the training latents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.source import Source
from pdae_jax.types import once_for_each

_NEIGHBOURS = 5
_MAX_REFERENCE = 4000  # training latents compared with
_MAX_QUERY = 1000  # translated latents asked about
_TREE_DIM = 8  # latents of up to so many dimensions are searched by a tree
_BLOCK = 500


class Support(NamedTuple):
    """Training latents, and how far from each other they usually are."""

    latents: Float[np.ndarray, "references latent"]
    usual: float  # 95th percentile of the distance to the fifth nearest other training latent


@once_for_each  # predictions of many labels share the same training latents
def _support(fitted: Fitted) -> Support:
    train, rng = fitted.train, np.random.default_rng(fitted.seed)
    # equally many of each condition, so that a large control does not stand for the whole support
    each = max(1, _MAX_REFERENCE // train.num_conditions)
    rows = np.concatenate([rng.permutation(rows)[:each] for rows in train.rows])
    rows = rows if len(rows) <= _MAX_REFERENCE else rng.permutation(rows)[:_MAX_REFERENCE]
    latents = fitted.encode(train.x[rows])
    # the nearest neighbour of a training latent is itself
    distance = neighbour_distance(latents, latents, _NEIGHBOURS + 1)
    return Support(latents, float(np.quantile(distance, 0.95)))


def outside_share(fitted: Fitted, label: Float[np.ndarray, " perturbations"], source: Source) -> float:
    """Find the share of translated latents farther from training latents than 95 % of these are from each other."""
    support = _support(fitted)
    rows = np.random.default_rng(fitted.seed).permutation(source.rows)[:_MAX_QUERY]
    moved = fitted.encode(source.data.x[rows]) + fitted.shift(source.labels(rows), label)
    return float(np.mean(neighbour_distance(support.latents, moved, _NEIGHBOURS) > support.usual))


def neighbour_distance(
    reference: Float[np.ndarray, "n k"], query: Float[np.ndarray, "m k"], number: int
) -> Float[np.ndarray, " m"]:
    """Find the distance of each row to its `number`-th nearest reference, or to the farthest where there are fewer."""
    number = min(number, len(reference))
    if reference.shape[1] <= _TREE_DIM:
        distance = KDTree(reference).query(query, k=number, workers=-1)[0]
        return np.reshape(distance, (len(query), -1))[:, -1]
    # in many dimensions a tree looks at every reference, one by one: a product of matrices does so ten times faster
    centre = reference.mean(axis=0)
    reference, query = reference - centre, query - centre
    size = np.sum(reference**2, axis=1)
    blocks = []
    for block in np.array_split(query, max(1, len(query) // _BLOCK)):
        squared = np.sum(block**2, axis=1)[:, None] + size - 2.0 * block @ reference.T
        blocks.append(np.partition(squared, number - 1, axis=1)[:, number - 1])
    return np.sqrt(np.maximum(np.concatenate(blocks), 0.0))
