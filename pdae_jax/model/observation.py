r"""What a translation ends with, where cells are counts: whole numbers, on the scale of the data.

A cell has whole numbers of counts `c`, and :math:`\log(1 + c / s)` with its size factor `s` lies on a lattice of its
own. A zero that is moved up a little is no small number in every cell but a one in few of them. So a moved value
becomes one of its two neighbours on the lattice, with probabilities that keep its mean:

.. math::
    y \to \log(1 + (k + b) / s), \quad k = \lfloor s (e^y - 1) \rfloor, \quad
    P(b = 1) = \frac{y - \log(1 + k / s)}{\log(1 + (k + 1) / s) - \log(1 + k / s)}

In the backward pass this step counts as the identity, which is the derivative of that mean (a straight-through
estimate). `data.counts.to_counts` is the same for arrays of NumPy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax.types import Counted


def whole_counts(
    key: Array, y: Float[Array, "*batch cells features"], counted: Counted
) -> Float[Array, "*batch cells features"]:
    """Moved cells as log-normalised whole numbers; the same draws for every target that a cell is moved to.

    Args:
        key: of the draws.
        y: in the model's units.
        counted: the size factor of each cell, and how the model's units are the user's.
    """
    size = counted.size[..., None]
    values = jnp.maximum(y * counted.scale + counted.mean, 0.0)
    below = jnp.floor(jnp.expm1(values) * size)
    low, high = jnp.log1p(below / size), jnp.log1p((below + 1.0) / size)
    draws = jax.random.uniform(key, (*counted.size.shape, y.shape[-1]), y.dtype)
    whole = jnp.where(draws < (values - low) / (high - low), high, low)
    return y + jax.lax.stop_gradient((whole - counted.mean) / counted.scale - y)
