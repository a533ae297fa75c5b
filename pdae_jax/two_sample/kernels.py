r"""Kernels of two-sample statistics, written as dissimilarities: functions of distances.

A two-sample statistic needs only :math:`h(x, y) = k(0) - k(x, y)` of a kernel `k` (the constant cancels), and for
the distance-induced kernel :math:`h(x, y) = \|x - y\|^\beta`. With `h` in hand the energy distance and the MMD are
one formula, :math:`2 E h(X, Y) - E h(X, X') - E h(Y, Y')` (Sejdinovic et al., Annals of Statistics 2013), and so
are the energy score and the kernel score.

| kernel | :math:`h`, with :math:`r = \|x - y\|` | |
|---|---|---|
| `energy` | :math:`r^\beta` | characteristic, no bandwidth |
| `gaussian` | :math:`1 - e^{-r^2 / 2 s^2}` | |
| `laplace` | :math:`1 - e^{-r / s}` | Euclidean or Manhattan distance |
| `inverse_multiquadric` | :math:`1 - (1 + r^2 / s^2)^{-1/2}` | heavy tails |
| `matern` | :math:`1 - p_\nu(u) e^{-u},\ u = \sqrt{2 \nu}\, r / s` | :math:`\nu` = 1/2, 3/2, 5/2 |

A kernel of your own is one function, from squared Euclidean distances to `h`; every statistic takes it as it is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from pdae_jax.randomness import check_key
from pdae_jax.two_sample.distances import manhattan_distances, squared_distances
from pdae_jax.two_sample.samples import SampleLike, as_sample
from pdae_jax.two_sample.units import unit_of
from pdae_jax.types import AnyArray

Metric = Literal["squared_euclidean", "manhattan"]
Numbers = float | Sequence[float] | Float[AnyArray, " parameters"] | Float[AnyArray, ""]


@partial(jax.tree_util.register_dataclass, data_fields=["parameters"], meta_fields=["profile", "metric"])
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A dissimilarity `h`, the mean of ``profile(distances, parameter)`` over the parameters.

    A pytree: it passes through `jit`, `vmap` and `grad` as an argument, its parameters (bandwidths) as arrays.
    """

    profile: Callable[[Array, Array], Array]  # (distances, parameter) -> h >= 0, elementwise; h(0) = 0
    parameters: Any  # [parameters]; JAX also fills a pytree with things that are no arrays
    metric: Metric = "squared_euclidean"  # what `profile` takes as distances

    def __call__(self, distances: AnyArray) -> Array:
        """`h` of an array of distances, elementwise."""
        distances = jnp.asarray(distances)
        parameters = jnp.asarray(self.parameters, distances.dtype)
        total = sum((self.profile(distances, p) for p in parameters), start=jnp.zeros((), distances.dtype))
        return total / len(parameters)


#: What statistics take: a `Kernel`, or a plain function from squared Euclidean distances to `h`.
KernelLike = Kernel | Callable[[Array], Array]


def as_kernel(kernel: KernelLike) -> Kernel:
    """Return a plain function of squared Euclidean distances as a `Kernel`; a `Kernel` as it is."""
    return kernel if isinstance(kernel, Kernel) else Kernel(_Plain(kernel), np.ones(1, np.float32))


def energy(beta: float = 1.0) -> Kernel:
    r"""Make the distance-induced kernel, :math:`h = \|x - y\|^\beta` with `beta` in (0, 2).

    Raises:
        ValueError: `beta` outside (0, 2).
    """
    if not 0 < beta < 2:
        raise ValueError(
            f"beta={beta}, but the energy distance needs 0 < beta < 2 (beta = 2 compares means only). Pass beta=1."
        )
    return Kernel(_root if beta == 1 else _power, np.array([beta], np.float64))


def gaussian(bandwidths: Numbers) -> Kernel:
    r"""Make the Gaussian kernel, :math:`h = 1 - \exp(-\|x-y\|^2 / 2 s^2)`, averaged over the bandwidths `s`.

    Raises:
        ValueError: a bandwidth that is not positive and finite.
    """
    return Kernel(_gaussian, _bandwidths(bandwidths))


def laplace(bandwidths: Numbers, *, norm: Literal["l1", "l2"] = "l2") -> Kernel:
    r"""Make the Laplace kernel, :math:`h = 1 - \exp(-\|x-y\| / s)`, averaged over the bandwidths `s`.

    Args:
        bandwidths: `s`, one or several.
        norm: ``l2`` for the Euclidean, ``l1`` for the Manhattan distance (a product over features; no matrix product
            computes it, so it is slower for many features).

    Raises:
        ValueError: a bandwidth that is not positive and finite, or an unknown norm.
    """
    if norm not in ("l1", "l2"):
        raise ValueError(f"norm={norm!r} is not known; pass 'l1' or 'l2'.")
    if norm == "l1":
        return Kernel(_exponential, _bandwidths(bandwidths), "manhattan")
    return Kernel(_laplace, _bandwidths(bandwidths))


def inverse_multiquadric(bandwidths: Numbers) -> Kernel:
    r"""Make the inverse multiquadric, :math:`h = 1 - (1 + \|x-y\|^2 / s^2)^{-1/2}`, averaged over the bandwidths `s`.

    Raises:
        ValueError: a bandwidth that is not positive and finite.
    """
    return Kernel(_inverse_multiquadric, _bandwidths(bandwidths))


def matern(nu: float, bandwidths: Numbers) -> Kernel:
    r"""Make the Matern kernel of smoothness `nu`, averaged over the bandwidths `s`; with :math:`u = \sqrt{2\nu} \|x-y\|
    / s`,

    .. math:: h = 1 - e^{-u}, \quad 1 - (1 + u) e^{-u}, \quad 1 - (1 + u + u^2 / 3) e^{-u}

    for `nu` = 1/2 (the Laplace kernel), 3/2, 5/2 (Rasmussen & Williams 2006, section 4.2).

    Raises:
        ValueError: another `nu`, or a bandwidth that is not positive and finite.
    """
    profiles = {0.5: _laplace, 1.5: _matern_three_halves, 2.5: _matern_five_halves}
    if nu not in profiles:
        raise ValueError(
            f"nu={nu}, but the Matern kernel has a closed form here for 0.5, 1.5 and 2.5. Pass one of them."
        )
    return Kernel(profiles[nu], _bandwidths(bandwidths))


# --- profiles: (distances, parameter) -> h; functions of the module, so that equal kernels share compilations ---------


@dataclasses.dataclass(frozen=True)
class _Plain:
    function: Callable[[Array], Array]

    def __call__(self, sq: Array, _: Array) -> Array:
        return self.function(sq)


def _root(sq: Array, _: Array | None = None) -> Array:
    # sqrt'(0) is inf: identical cells would give NaN gradients, so the root never sees a zero
    zero = sq <= 0  # which NaN is not
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, sq)))


def _power(sq: Array, beta: Array) -> Array:
    zero = sq <= 0
    # exp(log) has a derivative that shares its exponential; a power of arrays has none and is 3 times slower
    return jnp.where(zero, 0.0, jnp.exp(0.5 * beta * jnp.log(jnp.where(zero, 1.0, sq))))


def _gaussian(sq: Array, s: Array) -> Array:
    return -jnp.expm1(-0.5 * sq / s**2)


def _exponential(distance: Array, s: Array) -> Array:
    return -jnp.expm1(-distance / s)


def _laplace(sq: Array, s: Array) -> Array:
    return _exponential(_root(sq), s)


def _inverse_multiquadric(sq: Array, s: Array) -> Array:
    # 1 - 1/r without the cancellation where r is near 1
    t = sq / s**2
    r = jnp.sqrt(1.0 + t)
    return t / ((1.0 + r) * r)


def _matern_three_halves(sq: Array, s: Array) -> Array:
    u = math.sqrt(3.0) * _root(sq) / s
    return -jnp.expm1(-u) - u * jnp.exp(-u)


def _matern_five_halves(sq: Array, s: Array) -> Array:
    u = math.sqrt(5.0) * _root(sq) / s
    return -jnp.expm1(-u) - u * (1.0 + u / 3.0) * jnp.exp(-u)


# whose parameters are lengths
_OF_LENGTHS = (_gaussian, _exponential, _laplace, _inverse_multiquadric, _matern_three_halves, _matern_five_halves)


# --- in another unit --------------------------------------------------------------------------------------------------


class InUnit(NamedTuple):
    """A kernel in another unit of length."""

    kernel: Kernel
    length: Float[Array, ""]  # of the user's units, in which samples are to be divided by it
    factor: Float[Array, ""]  # that values of `h` are to be multiplied by


def in_unit(kernel: Kernel, unit: Float[Array, ""]) -> InUnit:
    """Return the same kernel of lengths over a unit of `units`; a function of the user's own keeps the user's units.

    A factor is NaN where the unit is.
    """
    parameters = jnp.asarray(kernel.parameters, unit.dtype)
    same = jnp.where(jnp.isnan(unit), unit, jnp.ones_like(unit))
    if kernel.profile is _root:
        return InUnit(kernel, unit, unit)
    if kernel.profile is _power and len(parameters) == 1:
        return InUnit(kernel, unit, unit ** parameters[0])
    if kernel.profile in _OF_LENGTHS:
        return InUnit(dataclasses.replace(kernel, parameters=parameters / unit), unit, same)
    return InUnit(kernel, same, same)


def in_own_unit(kernel: KernelLike, *samples: Float[Array, "..."]) -> tuple[Kernel, Float[Array, ""], list[Array]]:
    """Return the kernel, factor of `h`, and samples, in the unit of the samples (`units.unit_of`)."""
    kernel, length, factor = in_unit(as_kernel(kernel), unit_of(*samples))
    return kernel, factor, [sample / length for sample in samples]


def _bandwidths(bandwidths: Numbers) -> Array | np.ndarray:
    if isinstance(bandwidths, Tracer):
        return jnp.atleast_1d(bandwidths)
    values = np.atleast_1d(np.asarray(bandwidths, dtype=np.float64))
    bad = values[~(np.isfinite(values) & (values > 0))]
    if values.ndim != 1 or len(values) == 0 or len(bad):
        found = f"the value {bad[0]}" if len(bad) else f"shape {values.shape}"
        raise ValueError(
            f"bandwidths has {found}, but they must be positive and finite, one or several. "
            f"`median_bandwidth` gives one; it is 0 where most cells are identical."
        )
    return values


# --- of all pairs, of rows --------------------------------------------------------------------------------------------


def dissimilarity_matrix(
    kernel: KernelLike, x: Float[AnyArray, "*batch n d"], y: Float[AnyArray, "*batch m d"] | None = None
) -> Float[Array, "*batch n m"]:
    """Return `h` of all pairs as one matrix; within `x` when there is no `y`, a cell to itself exactly 0."""
    kernel = as_kernel(kernel)
    if kernel.metric == "squared_euclidean":
        return kernel(squared_distances(x, y))
    return kernel(manhattan_distances(x, x if y is None else y))


def dissimilarity(
    kernel: KernelLike, x: Float[AnyArray, "*batch d"], y: Float[AnyArray, "*batch d"]
) -> Float[Array, "*batch"]:
    """Return `h` of each cell of `x` to the same row of `y`."""
    kernel = as_kernel(kernel)
    difference = jnp.asarray(x) - jnp.asarray(y)
    return kernel(jnp.sum(jnp.abs(difference) if kernel.metric == "manhattan" else difference**2, axis=-1))


# --- bandwidths ------------------------------------------------------------------------------------------------------


def median_bandwidth(
    key: Array, x: SampleLike, *, max_cells: int = 1000, metric: Metric = "squared_euclidean"
) -> Float[Array, ""]:
    """Return the median distance between distinct cells: exact up to `max_cells`, that of a random subsample above.

    As a bandwidth it is the median heuristic (Gretton et al., JMLR 13, 2012).

    Args:
        key: of the subsample.
        x: cells ``[n, d]``, both samples pooled for a two-sample statistic.
        max_cells: bounds time and memory by its square.
        metric: Euclidean distance (not squared), or ``manhattan`` for the l1 Laplace kernel.
    """
    check_key(key)
    return jnp.median(_distinct_distances(key, x, max_cells, metric))


def mean_bandwidth(
    key: Array, x: SampleLike, *, max_cells: int = 1000, metric: Metric = "squared_euclidean"
) -> Float[Array, ""]:
    """Return the mean distance between distinct cells; arguments and subsample as in `median_bandwidth`.

    Positive unless all cells are identical, which the median is not for sparse counts.
    """
    check_key(key)
    return jnp.mean(_distinct_distances(key, x, max_cells, metric))


def _distinct_distances(key: Array, x: SampleLike, max_cells: int, metric: Metric) -> Float[Array, " pairs"]:
    x = as_sample(x)
    if max_cells < 2 or x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(
            f"A bandwidth needs two cells, but x has shape {tuple(x.shape)} and max_cells={max_cells}. Pass more "
            f"cells, as [cells, features]."
        )
    x = jnp.asarray(x)
    if x.shape[0] > max_cells:
        x = jax.random.choice(key, x, (max_cells,), replace=False)
    rows, columns = np.triu_indices(x.shape[0], k=1)
    unit = unit_of(x - jnp.mean(x, axis=0))
    x = x / unit
    distances = manhattan_distances(x, x) if metric == "manhattan" else jnp.sqrt(squared_distances(x, x))
    return unit * distances[rows, columns]
