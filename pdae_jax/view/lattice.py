r"""What a translation ends with, where cells are counts: whole numbers, on the scale of the data.

A cell has whole numbers of counts `c`, and :math:`\log(1 + c / s)` with its size factor `s` lies on a lattice of its
own. A zero that is moved up a little is no small number in every cell but a one in few of them. So a moved value
becomes one of its two neighbours on the lattice, with probabilities that keep its mean:

.. math::
    y \to \log(1 + (k + b) / s), \quad k = \lfloor s (e^y - 1) \rfloor, \quad
    P(b = 1) = \frac{y - \log(1 + k / s)}{\log(1 + (k + 1) / s) - \log(1 + k / s)}

In the backward pass this step counts as the identity, which is the derivative of that mean (a straight-through
estimate). `to_counts` is the same for arrays of NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.types import Counted

_BLOCK = 4096  # cells at a time


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


def to_counts(
    random: np.random.Generator,
    x: Float[np.ndarray, "cells features"],
    sizes: Float[np.ndarray, " cells"],
) -> Int[np.ndarray, "cells features"]:
    r"""Whole numbers `c` for which :math:`\log(1 + c / s)` has the mean `x`.

    A value between those of `c` and `c + 1` counts becomes the larger with the probability that keeps its mean: effects
    add up on that scale, and a rule that kept the mean of the counts would lose those of rare features, of which one
    count is a large step. Values that came from counts and were not moved give back these counts.
    """
    counts = np.empty(x.shape, np.int64)
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        values, size = np.maximum(x[block], 0).astype(np.float64), np.asarray(sizes, np.float64)[block, None]
        rates = np.expm1(values) * size
        nearest, below = np.round(rates), np.floor(rates)
        came_from_counts = np.abs(rates - nearest) < 1e-3 + 1e-5 * rates  # but for single precision
        low, high = np.log1p(below / size), np.log1p((below + 1) / size)
        rounded = below + (random.random(rates.shape) < (values - low) / (high - low))
        counts[block] = np.where(came_from_counts, nearest, rounded)
    return counts


def log_normalised(
    counts: Int[np.ndarray, "cells features"], sizes: Float[np.ndarray, " cells"]
) -> Float[np.ndarray, "cells features"]:
    r""":math:`\log(1 + c / s)`."""
    return np.log1p(counts / np.asarray(sizes, np.float64)[:, None]).astype(np.float32)


def in_whole_counts(
    random: np.random.Generator, x: Float[np.ndarray, "cells features"], sizes: Float[np.ndarray, " cells"]
) -> Float[np.ndarray, "cells features"]:
    """Values as a measured cell can have them: logarithms of whole numbers, `to_counts`."""
    return log_normalised(to_counts(random, x, sizes), sizes)
