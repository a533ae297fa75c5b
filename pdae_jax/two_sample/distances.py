"""Distances between all pairs of cells, squared Euclidean and Manhattan, exact whatever the offset; their slopes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax.types import AnyArray

# Up to this many features direct differences are as fast as a matrix product, and exact.
DIRECT_DIM = 10
# Features that one pass over a tile of distances sums, where they are summed directly and there are many.
FEATURES_PER_PASS = 8


def squared_distances(
    x: Float[AnyArray, "*batch n d"], y: Float[AnyArray, "*batch m d"] | None = None
) -> Float[Array, "*batch n m"]:
    r"""Return the squared Euclidean distances, never negative; within `x`, zero on the diagonal, when there is no `y`.

    .. math:: \|x\|^2 + \|y\|^2 - 2 \langle x, y \rangle

    one matrix product, after the mean is subtracted: an offset common to both samples would otherwise cancel
    catastrophically. For few features the differences are taken directly. The derivative is a matrix product either
    way, one instead of two within a sample.
    """
    x = jnp.asarray(x)
    centre = jax.lax.stop_gradient(jnp.mean(x, axis=-2, keepdims=True))
    return _within(x - centre) if y is None else _across(x - centre, jnp.asarray(y) - centre)


@jax.custom_vjp
def _across(x: Array, y: Array) -> Array:
    if x.shape[-1] <= DIRECT_DIM:
        return summed_over_features(x, y, jnp.square)
    return gram_distances(x, y)


@jax.custom_vjp
def _within(x: Array) -> Array:
    # rounding must not leave a distance between a cell and itself
    return jnp.where(jnp.eye(x.shape[-2], dtype=bool), 0.0, _across(x, x))


def _across_bwd(samples: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, y = samples
    return _pull(x, y, g), _pull(y, x, g.mT)


def _within_bwd(x: Array, g: Array) -> tuple[Array]:
    return (_pull(x, x, jnp.where(jnp.eye(x.shape[-2], dtype=bool), 0.0, g + g.mT)),)


def _pull(x: Array, y: Array, g: Array) -> Array:
    r""":math:`2 \sum_j g_{ij} (x_i - y_j)`."""
    product = jnp.matmul(g, y, precision=jax.lax.Precision.HIGHEST)
    return 2.0 * (x * jnp.sum(g, axis=-1, keepdims=True) - product)


_across.defvjp(lambda x, y: (_across(x, y), (x, y)), _across_bwd)
_within.defvjp(lambda x: (_within(x), x), _within_bwd)


def gram_distances(
    x: Float[Array, "*batch n d"],
    y: Float[Array, "*batch m d"],
    square_x: Float[Array, "*batch n"] | None = None,
    square_y: Float[Array, "*batch m"] | None = None,
) -> Float[Array, "*batch n m"]:
    """Return the squared distances by one matrix product, of samples that are already centred; squared norms if at
    hand.
    """
    # HIGHEST: accelerators would otherwise round the products to 10 or fewer bits
    product = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    square_x = jnp.sum(x**2, -1) if square_x is None else square_x
    square_y = jnp.sum(y**2, -1) if square_y is None else square_y
    size = square_x[..., :, None] + square_y[..., None, :]
    sq = size - 2.0 * product
    # what is left of equal cells after cancellation is rounding, of either sign; NaN is not
    return jnp.where(sq <= 8 * jnp.finfo(sq.dtype).eps * size, 0.0, sq)


def manhattan_distances(
    x: Float[AnyArray, "*batch n d"], y: Float[AnyArray, "*batch m d"]
) -> Float[Array, "*batch n m"]:
    r"""Return the Manhattan distances, :math:`\sum_k |x_k - y_k|`."""
    return summed_over_features(jnp.asarray(x), jnp.asarray(y), jnp.abs)


def summed_over_features(
    x: Float[Array, "*batch n d"], y: Float[Array, "*batch m d"], term: Callable[[Array], Array]
) -> Float[Array, "*batch n m"]:
    r"""Return :math:`\sum_k t(x_k - y_k)`, a few features at a time: no array ``[n, m, d]`` is ever formed."""

    def few(x: Array, y: Array) -> Array:  # features first, so that a feature is contiguous
        x, y = x[..., :, None], y[..., None, :]
        return sum(term(a - b) for a, b in zip(x, y, strict=True))  # pyright: ignore

    features = x.shape[-1]
    x, y = jnp.moveaxis(x, -1, 0), jnp.moveaxis(y, -1, 0)
    if features <= DIRECT_DIM:
        return few(x, y)
    num_passes = math.ceil(features / FEATURES_PER_PASS)
    pad = num_passes * FEATURES_PER_PASS - features
    x, y = (
        jnp.pad(a, ((0, pad), *((0, 0),) * (a.ndim - 1))).reshape(num_passes, FEATURES_PER_PASS, *a.shape[1:])
        for a in (x, y)
    )
    start = jnp.zeros(jnp.broadcast_shapes(x.shape[2:-1], y.shape[2:-1]) + (x.shape[-1], y.shape[-1]), x.dtype)
    # checkpoint: the backward pass takes the differences again instead of keeping all of them
    add = jax.checkpoint(lambda total, chunk: total + few(*chunk))
    return jax.lax.scan(lambda total, chunk: (add(total, chunk), None), start, (x, y))[0]
