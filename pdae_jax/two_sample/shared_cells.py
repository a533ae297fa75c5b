r"""The energy distance between laws whose samples are made of the same cells.

Laws :math:`P_a` and :math:`P_b` of which samples :math:`T_a x_i` and :math:`T_b x_i` are made of the same cells are
compared as if all pairs :math:`(i, j)` were independent draws, and those with :math:`i = j` are not: a cell is nearer
to its own image than to those of others, and the distance comes out too small, below zero even. Left out of all means,

.. math:: \frac{1}{n (n - 1)} \sum_{i \neq j} 2 |T_a x_i - T_b x_j| - |T_a x_i - T_a x_j| - |T_b x_i - T_b x_j|

is a U-statistic of one sample: unbiased, exactly zero where the maps agree, and with much less noise than samples of
different cells have, whose own differences it does not see.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.pair_sum import group_pair_sums
from pdae_jax.two_sample.statistics import typical_dissimilarity
from pdae_jax.two_sample.units import unit_of


@jax.jit
def shared_cell_distances(
    x: Float[Array, "laws n d"], weight: Float[Array, "laws n"], shared: Bool[Array, "laws laws"]
) -> Float[Array, "laws laws"]:
    """Return the energy distances (U form) between all pairs of laws.

    Args:
        x: a sample of each law; rows `i` of laws that share cells are made of one cell.
        weight: of rows; zero masks a row, the others of a law are equal.
        shared: whether two laws are made of the same cells; every law is of its own.
    """
    laws, n, d = x.shape
    kernel = kernels.energy(1.0)
    weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    flat = x.reshape(laws * n, d)
    flat = flat - weight.reshape(-1) @ flat / laws
    unit = unit_of(flat)
    flat = flat / unit
    every = weight.reshape(-1) / laws
    offset = typical_dissimilarity(flat, flat, every, every, kernel)
    member = jnp.einsum("an,ab->anb", weight, jnp.eye(laws, dtype=x.dtype)).reshape(laws * n, laws)
    sums = group_pair_sums(flat, member, kernel, offset=offset)

    images = flat.reshape(laws, n, d)

    def own_pairs(law: Array) -> Array:  # of a cell's images under this law and each
        distance = kernel(jnp.sum((images - images[law]) ** 2, axis=-1))
        return jnp.sum(weight * weight[law] * (distance - offset), axis=1)

    own = jax.lax.map(own_pairs, jnp.arange(laws))
    # the pairs left out of a law with itself are those of a cell with itself, the usual U form
    mean = (sums - shared * own) / (1.0 - shared * (weight @ weight.T))
    within = jnp.diagonal(mean)
    return unit * jnp.where(jnp.eye(laws, dtype=bool), 0.0, 2.0 * mean - within[:, None] - within)
