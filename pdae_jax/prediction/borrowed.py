"""How much of a predicted mean is taken over from what other combinations do beyond the sum of their parts."""

import jax
import numpy as np
from jaxtyping import Float

from pdae_jax.model.fitted import Fitted
from pdae_jax.model.interactions import Interactions, interactions_at

_CELLS = 200  # of the control


def borrowed_share(fitted: Fitted, label: Float[np.ndarray, " perturbations"]) -> float | None:
    """Return the length of the interactions of a label over that of the shift of the control's predicted mean.

    In the units of the model, where features have one scale. None where the model has none, or nothing is shifted.
    """
    found, train = fitted.params["shift"].get("interactions"), fitted.train
    if found is None or not np.any(label):
        return None
    interactions = Interactions(**jax.tree.map(np.asarray, found))
    rows = train.rows[train.index(train.control)][:_CELLS]
    x = train.x[rows]
    moved = fitted.translate(jax.random.key(0), x, np.zeros_like(label), label, train.sizes(rows))
    into = fitted.view.into
    shift = np.mean(np.asarray(into(moved)) - np.asarray(into(x)), axis=0)
    borrowed, whole = np.linalg.norm(interactions_at(interactions, fitted.design.row(label))), np.linalg.norm(shift)
    return float(borrowed / whole) if whole > 0 else None
