r"""Whole numbers of counts: what a translation ends with where cells are counts, on the scale of the data.

A cell has whole numbers of counts `c`, and :math:`\log(1 + c / s)` with its size factor `s` lies on a lattice of its
own. A zero that is moved up a little is no small number in every cell but a one in few of them. So a moved value
becomes one of its two neighbours on the lattice, with probabilities that keep its mean: effects add up on that scale,
and a rule that kept the mean of the counts would lose those of rare features, of which one count is a large step.

.. math::
    y \to \log(1 + (k + b) / s), \quad k = \lfloor s (e^y - 1) \rfloor, \quad
    P(b = 1) = \frac{y - \log(1 + k / s)}{\log(1 + (k + 1) / s) - \log(1 + k / s)}

A value as near to the lattice as single precision tells apart is on it: what came from counts and was not moved gives
back these counts, where the floor of a number just below `c` would be :math:`c - 1`. Near is meant on the scale of `y`;
a share of a count would be a large effect in a small cell, and less than single precision has in a large one.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pdae_jax.randomness import make_random

_ROUNDING = 1e-5  # of a value; float32 leaves a tenth of it of values below 16 on their way through a model
_BLOCK = 4096  # cells at a time
_COUNTS = 3  # folded into a key of which other draws may be made, or that is split into three


class Neighbours(NamedTuple):
    """The whole numbers next to values: those below, which values become the ones above, and logarithms of both."""

    below: Float[Any, "*batch cells features"]
    up: Bool[Any, "*batch cells features"]
    low: Float[Any, "*batch cells features"]
    high: Float[Any, "*batch cells features"]


def neighbours(
    values: Float[Any, "*batch cells features"],
    size: Float[Any, "*cells"],
    draws: Float[Any, "*cells features"],
) -> Neighbours:
    r"""Find whole numbers `c` for which :math:`\log(1 + c / s)` has values as its mean.

    Args:
        values: logarithms; below zero is zero.
        size: factor of each cell.
        draws: uniform on [0, 1), which of the two neighbours a value becomes.
    """
    xp = values.__array_namespace__()
    values, size = xp.maximum(values, 0), size[..., None]
    counts = xp.expm1(values) * size
    below = xp.floor(counts)
    low, high = xp.log1p(below / size), xp.log1p((below + 1) / size)
    above_middle = counts - below > 0.5
    on_lattice = xp.abs(values - xp.where(above_middle, high, low)) < _ROUNDING
    # draws * step < rest, and not draws < rest / step: of huge counts single precision has no step
    return Neighbours(below, xp.where(on_lattice, above_middle, draws * (high - low) < values - low), low, high)


def to_counts(
    random: np.random.Generator,
    x: Float[np.ndarray, "cells features"],
    sizes: Float[np.ndarray, " cells"],
) -> Int[np.ndarray, "cells features"]:
    """Round values to whole numbers of counts, `neighbours`, a few thousand cells at a time."""
    counts = np.empty(x.shape, np.int64)
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        values, size = x[block].astype(np.float64), np.asarray(sizes[block], np.float64)
        found = neighbours(values, size, random.random(values.shape))
        counts[block] = found.below + found.up
    return counts


def log_normalised(
    counts: Float[Any, "*batch cells features"] | Int[np.ndarray, "cells features"],
    size: Float[Any, "*cells"],
) -> Float[Any, "*batch cells features"]:
    r"""Compute :math:`\log(1 + c / s)`, float32."""
    return counts.__array_namespace__().log1p(counts / size[..., None]).astype(np.float32)


def as_measured(
    key: Array, values: Float[Any, "*batch cells features"], size: Float[Any, "*cells"] | None
) -> Float[Any, "*batch cells features"]:
    """Round values to what a measured cell can have: logarithms of whole numbers, where it has a size factor.

    Args:
        key: of the translation.
        values: log-normalised; in JAX, draws are the same for all batches of the same cells.
        size: factor of each cell; None: the values are no counts, and stay.
    """
    if size is None:
        return values
    if not isinstance(values, jax.Array):
        return log_normalised(to_counts(make_random(jax.random.fold_in(key, _COUNTS)), values, size), size)
    return measured(values, size, draws_of(key, size, values.shape[-1]))


def draws_of(key: Array, size: Float[Any, "*cells"], num_features: int) -> Float[Array, "*cells features"]:
    """Draw what decides which whole number the values of cells become, by the key of their translation."""
    return jax.random.uniform(jax.random.fold_in(key, _COUNTS), (*size.shape, num_features))


def measured(
    values: Float[Array, "*batch cells features"], size: Float[Any, "*cells"], draws: Float[Array, "*cells features"]
) -> Float[Array, "*batch cells features"]:
    """Round values as `as_measured` does, with draws at hand."""
    _, up, low, high = neighbours(values, size, draws)
    return jax.numpy.where(up, high, low).astype(np.float32)
