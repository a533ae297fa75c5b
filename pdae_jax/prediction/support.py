"""Whether translated latents lie among the training latents."""

import weakref
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from pdae_jax.model.fitted import Fitted

_NEIGHBOURS = 5
_MAX_REFERENCE = 4000  # training latents compared with
_MAX_QUERY = 1000  # translated latents asked about


class Support(NamedTuple):
    """The training latents, and how far from each other they usually are."""

    tree: KDTree
    usual: float  # 95th percentile of the distance to the fifth nearest other training latent


# one per fitted model, gone with it: predictions of many labels share the same training latents
_supports: "weakref.WeakKeyDictionary[Fitted, Support]" = weakref.WeakKeyDictionary()


def _support(fitted: Fitted) -> Support:
    if fitted not in _supports:
        train, rng = fitted.train, np.random.default_rng(fitted.seed)
        # equally many of each condition, so that a large control does not stand for the whole support
        each = max(2 * _NEIGHBOURS, _MAX_REFERENCE // train.num_conditions)
        rows = [rng.permutation(np.flatnonzero(train.condition_index == e))[:each] for e in range(train.num_conditions)]
        latents = fitted.encode(train.x[np.concatenate(rows)])
        tree = KDTree(latents)
        # the nearest neighbour of a training latent is itself
        distance = tree.query(latents, k=_NEIGHBOURS + 1, workers=-1)[0][:, -1]
        _supports[fitted] = Support(tree, float(np.quantile(distance, 0.95)))
    return _supports[fitted]


def outside_share(fitted: Fitted, label: np.ndarray, from_condition: str) -> float:
    """Share of translated latents farther from the training latents than 95 % of these are from each other."""
    train, support = fitted.train, _support(fitted)
    source = train.index(from_condition)
    rows = np.random.default_rng(fitted.seed).permutation(np.flatnonzero(train.condition_index == source))[:_MAX_QUERY]
    moved = fitted.encode(train.x[rows]) + fitted.shift(train.labels[source], label)
    distance = support.tree.query(moved, k=_NEIGHBOURS, workers=-1)[0][:, -1]
    return float(np.mean(distance > support.usual))
