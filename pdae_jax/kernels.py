r"""Pairwise distances, and the kernels of two-sample statistics written as dissimilarities.

A two-sample statistic needs only :math:`h(x, y) = k(0) - k(x, y)` of a kernel `k` (the constant cancels), and for
the distance-induced kernel :math:`h(x, y) = \|x - y\|^\beta`. With `h` in hand the energy distance and the MMD are
one formula, :math:`2 E h(X, Y) - E h(X, X') - E h(Y, Y')` (Sejdinovic et al., Annals of Statistics 2013), and so
are the energy score and the kernel score. A kernel here is a function from SQUARED distances to `h`, with `h(0) = 0`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax.types import AnyArray

Kernel = Callable[[AnyArray], Array]  # squared distances -> dissimilarities, elementwise

# Below this many features direct differences are as fast as a matrix product, and exact.
DIRECT_DIM = 8


def energy(beta: float = 1.0) -> Kernel:
    r"""Distance-induced kernel, :math:`h = \|x - y\|^\beta` with `beta` in (0, 2)."""
    if not 0 < beta < 2:
        raise ValueError(
            f"beta={beta}, but the energy distance needs 0 < beta < 2 (beta = 2 compares means only). Pass beta=1."
        )

    def dissimilarity(sq: AnyArray) -> Array:
        # sqrt'(0) is inf: identical cells would give NaN gradients, so the root never sees a zero
        positive = sq > 0
        safe = jnp.where(positive, sq, 1.0)
        return jnp.where(positive, jnp.sqrt(safe) if beta == 1 else safe ** (0.5 * beta), 0.0)

    return dissimilarity


def gaussian(bandwidths: float | Sequence[float] | Array) -> Kernel:
    r"""Gaussian kernel, :math:`h = 1 - \exp(-\|x-y\|^2 / 2 s^2)`, averaged over the bandwidths `s`."""
    return _mixture(bandwidths, lambda sq, s: -jnp.expm1(-0.5 * sq / s**2))


def laplace(bandwidths: float | Sequence[float] | Array) -> Kernel:
    r"""Laplace kernel on the Euclidean distance, :math:`h = 1 - \exp(-\|x-y\| / s)`, averaged over `s`."""
    root = energy(1.0)
    return _mixture(bandwidths, lambda sq, s: -jnp.expm1(-root(sq) / s))


def inverse_multiquadric(bandwidths: float | Sequence[float] | Array) -> Kernel:
    r"""Inverse multiquadric, :math:`h = 1 - (1 + \|x-y\|^2 / s^2)^{-1/2}`, averaged over `s`."""
    return _mixture(bandwidths, lambda sq, s: 1.0 - jax.lax.rsqrt(1.0 + sq / s**2))


def _mixture(bandwidths: float | Sequence[float] | Array, one: Callable[[Array, Array], Array]) -> Kernel:
    scales = jnp.atleast_1d(jnp.asarray(bandwidths, dtype=jnp.float32))

    def dissimilarity(sq: AnyArray) -> Array:
        sq = jnp.asarray(sq)
        total = sum((one(sq, scale) for scale in scales), start=jnp.zeros((), sq.dtype))
        return total / len(scales)

    return dissimilarity


def squared_distances(x: Float[AnyArray, "*batch n d"], y: Float[AnyArray, "*batch m d"]) -> Float[Array, "*batch n m"]:
    r"""Squared Euclidean distances, never negative.

    .. math:: \|x\|^2 + \|y\|^2 - 2 \langle x, y \rangle

    one matrix product, after the pooled mean is subtracted: an offset common to both samples would otherwise cancel
    catastrophically. For few features the differences are taken directly.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.shape[-1] <= DIRECT_DIM:
        # one feature at a time: no [n, m, d] array is ever formed
        return sum((x[..., :, None, j] - y[..., None, :, j]) ** 2 for j in range(x.shape[-1]))  # pyright: ignore
    centre = jax.lax.stop_gradient(jnp.mean(y, axis=-2, keepdims=True))
    x, y = x - centre, y - centre
    # HIGHEST: accelerators would otherwise round the products to 10 or fewer bits
    product = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    size = jnp.sum(x**2, -1)[..., :, None] + jnp.sum(y**2, -1)[..., None, :]
    sq = size - 2.0 * product
    # what is left of equal cells after cancellation is rounding, of either sign
    return jnp.where(sq > 8 * jnp.finfo(sq.dtype).eps * size, sq, 0.0)


def median_bandwidth(key: Array, x: Float[AnyArray, "n d"], *, max_cells: int = 1000) -> Float[Array, ""]:
    """Median distance between distinct cells: exact up to `max_cells`, of a random subsample above."""
    x = jnp.asarray(x)
    if x.shape[0] > max_cells:
        x = jax.random.choice(key, x, (max_cells,), replace=False)
    rows, columns = jnp.triu_indices(x.shape[0], k=1)
    return jnp.sqrt(jnp.median(squared_distances(x, x)[rows, columns]))
