r"""What combinations do beyond the sum of their parts, as a function of the label: fixed, and found before training.

.. math:: r(a) = \big[ h(a) + \phi(a) B' + 1_{a \ne 0} u' + \textstyle\sum_{i < j} a_i a_j Z_{ij} \big] D

`h` is the kernel's part (`condition_kernel`): what pairs with similar effects were seen to do. `B'` and `u'` are what
the linear model would have to be changed by beside it. `Z` is the part of dense designs (`completion`): the missing
entries of a table of all pairs. The rows of `D` are principal directions of the measured effects. `r` vanishes for the
control, and has a value for every label, with doses of any size.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.design.design import Design
from pdae_jax.design.effects import effective_label, is_perturbed
from pdae_jax.types import AnyArray

MIN_TESTED = 8  # combinations that others determine, before anything is said of interactions
MIN_DENSITY = 0.1  # of all pairs, before the table of pairs is completed
MAX_DIRECTIONS = 128
MAX_COMPLETED = 16  # of these, the longest, in which the table of pairs is completed


class Sizes(NamedTuple):
    """Sizes that labels and features alone decide."""

    columns: int
    conditions: int  # perturbed
    directions: int
    completed: int  # directions of the table of pairs; 0: it is not dense
    features: int


class Interactions(NamedTuple):
    """Arrays of `r`; of NumPy, and as parameters of a model of JAX."""

    embedding: Float[AnyArray, "columns directions"]  # E: where a label lies among others, in lengths of the kernel
    points: Float[AnyArray, "conditions directions"]  # where the training conditions lie
    weights: Float[AnyArray, "conditions directions"]
    effects: Float[AnyArray, "columns directions"]  # B'
    common: Float[AnyArray, " directions"]  # u'
    pairs: Float[AnyArray, "completed columns columns"]  # Z, symmetric, without diagonal
    directions: Float[AnyArray, "directions features"]  # D
    saturation: float | Float[AnyArray, ""]  # of `phi`, as in the linear model


def interactions_at(found: Interactions, row: Float[AnyArray, "*batch columns"]) -> Float[AnyArray, "*batch features"]:
    """Evaluate `r` at rows of a design; of NumPy and of JAX arrays."""
    xp = np if isinstance(row, np.ndarray) and isinstance(found.points, np.ndarray) else jnp
    scores = beyond_origin(row @ found.embedding, found.points) @ found.weights
    scores = scores + effective_label(row, found.saturation) @ found.effects + is_perturbed(row) * found.common
    completed = len(found.pairs)
    if completed:
        added = 0.5 * xp.einsum("...i,qij,...j->...q", row, found.pairs, row)
        rest = xp.zeros((*added.shape[:-1], scores.shape[-1] - completed), added.dtype)
        scores = scores + xp.concatenate([added, rest], axis=-1)
    return scores @ found.directions


def beyond_origin(
    x: Float[AnyArray, "*batch directions"], points: Float[AnyArray, "conditions directions"]
) -> Float[AnyArray, "*batch conditions"]:
    r"""Return the Matern 3/2 kernel of what is 0 at the origin, :math:`k(x, p) - k(x, 0) - k(0, p) + 1`.

    :math:`k(x, p) = (1 + \sqrt 3 r) e^{-\sqrt 3 r}` of the distance `r` (Rasmussen & Williams 2006, section 4.2.1):
    the covariance of :math:`h(x) - h(0)`.
    """
    xp = np if isinstance(x, np.ndarray) and isinstance(points, np.ndarray) else jnp
    squares, of_points = xp.sum(x**2, axis=-1)[..., None], xp.sum(points**2, axis=-1)

    def matern(square):
        distance = xp.sqrt(3.0 * xp.maximum(square, 0.0))
        return (1.0 + distance) * xp.exp(-distance)

    return matern(squares + of_points - 2.0 * x @ points.T) - matern(squares) - matern(of_points) + 1.0


def interaction_sizes(design: Design, features: int) -> Sizes | None:
    """Say how large the arrays are for a design; None where it has too few combinations that others determine."""
    tested = design.determined_by_others & (design.num_effects > 1)
    if int(tested.sum()) < MIN_TESTED:
        return None
    columns, conditions = design.num_columns, int(design.perturbed.sum())
    directions = min(conditions, features, MAX_DIRECTIONS)
    pairs = int(np.sum(tested & (design.num_effects == 2)))
    dense = pairs >= max(MIN_TESTED, MIN_DENSITY * columns * (columns - 1) / 2)
    return Sizes(columns, conditions, directions, min(directions, MAX_COMPLETED) if dense else 0, features)


def no_interactions(sizes: Sizes, saturation: float = 0.0) -> Interactions:
    """Return those of nothing beyond the sum: zeros, of the sizes of a design."""
    columns, conditions, directions, completed, features = sizes
    return Interactions(
        embedding=np.zeros((columns, directions)),
        points=np.zeros((conditions, directions)),
        weights=np.zeros((conditions, directions)),
        effects=np.zeros((columns, directions)),
        common=np.zeros(directions),
        pairs=np.zeros((completed, columns, columns)),
        directions=np.zeros((directions, features)),
        saturation=saturation,
    )
