r"""What a translation ends with, where cells are counts: whole numbers, on the scale of the data.

A cell has whole numbers of counts `c`, and :math:`\log(1 + c / s)` with its size factor `s` lies on a lattice of its
own. A zero that is moved up a little is no small number in every cell but a one in few of them. So moved values become
counts with the right mean, and logarithms again:

.. math:: c = \lfloor s (e^{y} - 1) + u \rfloor, \quad u \sim U(0, 1)

In the backward pass this step counts as the identity (a straight-through estimate).
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
    rates = jnp.expm1(jnp.maximum(y * counted.scale + counted.mean, 0.0)) * size
    counts = jnp.floor(rates + jax.random.uniform(key, (*counted.size.shape, y.shape[-1]), y.dtype))
    whole = (jnp.log1p(counts / size) - counted.mean) / counted.scale
    return y + jax.lax.stop_gradient(whole - y)
