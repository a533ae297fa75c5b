r"""Energy distance in one dimension by one sort: O(n log n), where all pairs would be O(n^2).

With F and G the empirical distribution functions of the two samples (Szekely & Rizzo 2013),

.. math:: 2 E|X-Y| - E|X-X'| - E|Y-Y'| = 2 \int (F - G)^2, \qquad E|X-X'| = 2 \int F (1 - F)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax.two_sample.summation import compensated_sum
from pdae_jax.two_sample.units import unit_of
from pdae_jax.types import AnyArray


def energy_distance_1d(
    x: Float[AnyArray, " n"], y: Float[AnyArray, " m"], *, unbiased: bool = True
) -> Float[Array, ""]:
    """Return the energy distance (exponent 1) of two samples of numbers; differentiable, `vmap` it over features or
    projections.

    Args:
        x: sample, ``[n]``; no offset costs digits here.
        y: sample, ``[m]``.
        unbiased: U form (default) or V form.

    Raises:
        ValueError: a sample has fewer than two numbers.
    """
    if min(x.shape[0], y.shape[0]) < 2:
        raise ValueError(f"Samples of {x.shape[0]} and {y.shape[0]} numbers; an energy distance needs two of each.")
    x, y = jnp.asarray(x), jnp.asarray(y)
    n, m = len(x), len(y)
    pooled = jnp.concatenate([x, y])
    order = jax.lax.stop_gradient(jnp.argsort(pooled))
    gap = jnp.diff(pooled[order])
    unit = unit_of(gap)
    gap = gap / unit
    from_x = order < n
    # counts are exact, and so is which sample is ahead; the integral is a sum of positive terms: nothing cancels
    f = jnp.cumsum(from_x)[:-1].astype(gap.dtype) / n
    g = jnp.cumsum(~from_x)[:-1].astype(gap.dtype) / m
    v_form = 2.0 * compensated_sum(gap * (f - g) ** 2)
    if not unbiased:
        return unit * v_form
    within_x = 2.0 * compensated_sum(gap * f * (1.0 - f))
    within_y = 2.0 * compensated_sum(gap * g * (1.0 - g))
    return unit * (v_form - within_x / (n - 1) - within_y / (m - 1))


def energy_distance_by_feature(
    x: Float[AnyArray, "n d"], y: Float[AnyArray, "m d"], *, unbiased: bool = True
) -> Float[Array, " d"]:
    """Return the energy distance of every feature by itself: the table per gene."""
    return jax.vmap(lambda a, b: energy_distance_1d(a, b, unbiased=unbiased), in_axes=1)(jnp.asarray(x), jnp.asarray(y))
