"""Whose cells are translated."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.types import PerturbationData


def source_rows(train: PerturbationData, source: str) -> np.ndarray:
    """Rows of the cells of a condition, or of ``"all"``."""
    if source == "all":
        return np.arange(train.num_cells)
    return np.flatnonzero(train.condition_index == train.index(source))


def resolve_source(fitted: Fitted | Ensemble, label: Float[np.ndarray, " perturbations"], source: str) -> str:
    """``"all"``, or the name of a training condition: what ``"control"`` and ``"nearest"`` stand for.

    The label itself is never its own nearest source: a prediction is not a reconstruction.
    """
    train = fitted.train
    if source == "control":
        return train.control
    if source == "all":
        return source
    if source != "nearest":
        return train.conditions[train.index(source)]
    first = fitted.members[0] if isinstance(fitted, Ensemble) else fitted
    shift = first.model.shift(first.params, jnp.asarray(train.labels), jnp.asarray(label))
    distance = np.linalg.norm(np.asarray(shift), axis=1)
    distance[np.all(train.labels == label, axis=1)] = np.inf
    return train.conditions[int(np.argmin(distance))]
