r"""Two-sample statistics for samples too large for all pairs: estimates, with their errors stated.

* `incomplete_statistic`: the mean over some pairs of cells, O(n) of them, with its standard error.
* `sliced_energy_distance`: the energy distance itself, estimated from sorted projections, O(n log n) each.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax.randomness import check_key
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import Kernel, KernelLike, as_kernel, in_own_unit
from pdae_jax.two_sample.one_dimensional import energy_distance_1d
from pdae_jax.two_sample.samples import SampleLike
from pdae_jax.two_sample.statistics import centred, checked_samples
from pdae_jax.two_sample.units import unit_of


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def incomplete_statistic(
    key: Array,
    x: SampleLike,
    y: SampleLike,
    *,
    kernel: KernelLike | None = None,
    pairs_per_cell: int = 16,
) -> Estimate:
    r"""Estimate the incomplete U-statistic of the energy distance or MMD, in time and memory linear in the number of
    cells.

    An average over some pairs only (Blom, Biometrika 63, 1976).

    Paired at random, :math:`z_i = (x_i, y_i)`, and with the R shifts :math:`j = i + 1, \ldots, i + R` (cyclic)

    .. math:: \frac{1}{nR} \sum_{i, j} H(z_i, z_j), \quad
        H(z, z') = h(x, y') + h(x', y) - h(x, x') - h(y, y')

    is unbiased for the statistic. A cell is in 2R of the nR pairs, so with :math:`\sigma_2^2 = \mathrm{Var}\, H` and
    :math:`\sigma_1^2 = \mathrm{Cov}(H(z, z'), H(z, z''))` (Lee, U-Statistics 1990, section 4.3)

    .. math:: \mathrm{Var} = \frac{\sigma_2^2}{nR} + \frac{(4 - 2/R) \sigma_1^2}{n}

    with both estimated from the same pairs. R = 1 costs least; the standard error falls with R until the second term,
    that of the complete statistic, is what remains.

    Args:
        key: of the pairing, and of the cells taken from the larger sample.
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``; the larger of the two is subsampled to the size of the smaller.
        kernel: of `pdae_jax.kernels`, or a function from squared distances to `h`; default ``energy(1.0)``.
        pairs_per_cell: R.

    Raises:
        ValueError: the feature counts differ, samples have fewer than four rows, or R is not below half of them.
    """
    check_key(key)
    x, y = checked_samples(x, y)
    n = min(x.shape[0], y.shape[0])
    if not 1 <= pairs_per_cell < n / 2:
        raise ValueError(
            f"pairs_per_cell={pairs_per_cell} with {n} cells in the smaller sample; pass 1 to {(n - 1) // 2}."
        )
    x, y = centred(x, y)
    return _incomplete(key, x, y, as_kernel(kernel or kernels.energy(1.0)), r=pairs_per_cell)


@partial(jax.jit, static_argnames="r")
def _incomplete(key: Array, x: Array, y: Array, kernel: Kernel, *, r: int) -> Estimate:
    kernel, factor, (x, y) = in_own_unit(kernel, x, y)
    h = partial(kernels.dissimilarity, kernel)
    n = min(len(x), len(y))
    key_x, key_y = jax.random.split(key)
    x = x[jax.random.permutation(key_x, x.shape[0])[:n]]
    y = y[jax.random.permutation(key_y, y.shape[0])[:n]]

    @jax.checkpoint
    def one_shift(carry: tuple[Array, Array], shift: Array) -> tuple[tuple[Array, Array], None]:
        x_next, y_next = jnp.roll(x, -shift, axis=0), jnp.roll(y, -shift, axis=0)
        values = h(x, y_next) + h(x_next, y) - h(x, x_next) - h(y, y_next)
        # per cell, over the pairs it is the first or the second of
        total, square = (c + v + jnp.roll(v, shift) for c, v in zip(carry, (values, values**2), strict=True))
        return (total, square), None

    zeros = jnp.zeros(n, x.dtype)
    (total, square), _ = jax.lax.scan(one_shift, (zeros, zeros), jnp.arange(1, r + 1))
    value = jnp.sum(total) / (2 * n * r)
    variance_of_pair = jnp.sum(square) / (2 * n * r) - value**2
    covariance = jnp.mean(total**2 - square) / (2 * r * (2 * r - 1)) - value**2
    variance = variance_of_pair / (n * r) + (4.0 - 2.0 / r) * jnp.maximum(covariance, 0.0) / n
    return Estimate(factor * value, factor * jnp.sqrt(jnp.maximum(variance, 0.0)))


def sliced_energy_distance(
    key: Array,
    x: SampleLike,
    y: SampleLike,
    *,
    num_projections: int = 128,
    unbiased: bool = True,
) -> Estimate:
    r"""Return the energy distance (exponent 1) from one-dimensional projections, in O(n log n) each.

    For a direction `u` uniform on the sphere, :math:`E |\langle u, v \rangle| = c_d \|v\|` with
    :math:`c_d = \Gamma(d/2) / (\sqrt\pi\, \Gamma((d+1)/2))`, so that

    .. math:: D(X, Y) = E_u\, D(\langle u, X \rangle, \langle u, Y \rangle) / c_d

    exactly: the mean over random directions is an unbiased estimate of the energy distance of these samples, and the
    standard error is that of the choice of directions.

    Args:
        key: of the directions.
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        num_projections: directions; the standard error falls with their square root.
        unbiased: U form (default) or V form of every projection.

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or there are fewer than two directions.
    """
    check_key(key)
    x, y = checked_samples(x, y)
    if num_projections < 2:
        raise ValueError(f"num_projections={num_projections}, but the standard error needs at least 2.")
    x, y = centred(x, y)
    return _sliced(key, x, y, num_projections=num_projections, unbiased=unbiased)


@partial(jax.jit, static_argnames=("num_projections", "unbiased"))
def _sliced(key: Array, x: Array, y: Array, *, num_projections: int, unbiased: bool) -> Estimate:
    unit, d = unit_of(x, y), x.shape[1]
    x, y = x / unit, y / unit
    direction = jax.random.normal(key, (num_projections, d), x.dtype)
    direction /= jnp.linalg.norm(direction, axis=1, keepdims=True)

    def one(u: Array) -> Array:
        project = lambda z: jnp.matmul(z, u, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
        return energy_distance_1d(project(x), project(y), unbiased=unbiased)

    constant = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    distances = jax.lax.map(jax.checkpoint(one), direction, batch_size=min(16, num_projections)) / constant
    return Estimate(unit * jnp.mean(distances), unit * jnp.std(distances, ddof=1) / math.sqrt(num_projections))
