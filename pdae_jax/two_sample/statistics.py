r"""Two-sample statistics.

Every statistic says whether it is the U form (unbiased, pairs of distinct cells) or the V form (all pairs; biased
by about `E h(X, X') / n`). The U form can be slightly negative: that is correct. The unit of the data changes nothing
(`units`), and a sample with NaN or an infinite value has the statistic NaN.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from pdae_jax.compiled import as_written
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import Kernel, KernelLike, as_kernel, in_own_unit
from pdae_jax.two_sample.one_dimensional import energy_distance_1d
from pdae_jax.two_sample.pair_sum import group_pair_sums, pair_sum, self_pair_sum
from pdae_jax.two_sample.samples import SampleLike, as_sample, as_samples
from pdae_jax.types import AnyArray


@as_written()
def energy_distance(
    x: SampleLike,
    y: SampleLike,
    *,
    beta: float = 1.0,
    unbiased: bool = True,
    tile: int | None = None,
) -> Float[Array, ""]:
    r"""Estimate the energy distance between two samples.

    .. math:: 2\,E\|X-Y\|^\beta - E\|X-X'\|^\beta - E\|Y-Y'\|^\beta

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        beta: exponent in (0, 2).
        unbiased: U form (default) or V form.
        tile: see `two_sample_statistic`.

    Returns:
        Scalar. Zero in expectation (U form) iff the laws agree (Szekely & Rizzo, 2013).

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or beta is outside (0, 2).
    """
    x, y = checked_samples(x, y)
    if x.shape[1] == 1 and beta == 1 and tile is None:
        x, y = centred(x, y)
        return energy_distance_1d(x[:, 0], y[:, 0], unbiased=unbiased)  # one sort instead of all pairs
    return _statistic(*_float64_centred(x, y), None, None, kernels.energy(beta), unbiased=unbiased, tile=tile)


@as_written()
def mmd2(
    x: SampleLike,
    y: SampleLike,
    *,
    kernel: KernelLike | None = None,
    unbiased: bool = True,
    tile: int | None = None,
) -> Float[Array, ""]:
    r"""Estimate the squared maximum mean discrepancy, :math:`E k(X,X') + E k(Y,Y') - 2 E k(X,Y)` (Gretton et al., JMLR
    2012).

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        kernel: of `pdae_jax.kernels`, or a function from squared distances to `k(0) - k`; default Gaussian at half,
            one and two times the median distance in the pooled sample (exact up to 1,000 cells, of a fixed random
            1,000 of them above; the mean distance where the median is 0).
        unbiased: U form (default) or V form.
        tile: see `two_sample_statistic`.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    x, y = checked_samples(x, y)
    x, y = centred(x, y)
    if kernel is None:
        pooled = jnp.concatenate([x, y])
        median = kernels.median_bandwidth(jax.random.key(0), pooled)
        scale = jnp.where(median > 0, median, kernels.mean_bandwidth(jax.random.key(0), pooled))
        kernel = Kernel(
            kernels.gaussian(1.0).profile, jnp.array([0.5, 1.0, 2.0], x.dtype) * jnp.where(scale > 0, scale, 1)
        )
    return two_sample_statistic(x, y, kernel, unbiased=unbiased, tile=tile)


@as_written()
def two_sample_statistic(
    x: SampleLike,
    y: SampleLike,
    kernel: KernelLike,
    *,
    weights_x: Float[AnyArray, " n"] | None = None,
    weights_y: Float[AnyArray, " m"] | None = None,
    unbiased: bool = True,
    tile: int | None = None,
) -> Float[Array, ""]:
    r"""Return :math:`2 E h(X,Y) - E h(X,X') - E h(Y,Y')` for any kernel; memory O(tile^2 + (n + m) d).

    Weights need not sum to one; zero weights mask rows, so that one compiled shape serves many sample sizes.

    Args:
        x: sample, ``[n, d]``: an array, a SciPy sparse matrix, an AnnData, a data frame or a list, as everywhere in
            this module. NumPy arrays are centred in float64 first; float64 is kept where JAX has it enabled.
        y: sample, ``[m, d]``.
        kernel: of `pdae_jax.kernels`, or a function from squared Euclidean distances to `h`.
        weights_x: of the rows of `x`, not negative; all equal when None.
        weights_y: of the rows of `y`.
        unbiased: U form (pairs of distinct cells) or V form (all pairs).
        tile: rows of a tile of distances; by default 1,000 on a CPU (500 for wide data), 4,000 on an accelerator.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    x, y = _float64_centred(*checked_samples(x, y))
    return _statistic(x, y, weights_x, weights_y, as_kernel(kernel), unbiased=unbiased, tile=tile)


# compiled as a whole: outside of `jit` each operation by itself takes longer than all pairs of a few hundred cells
@partial(jax.jit, static_argnames=("unbiased", "tile"))
def _statistic(
    x: AnyArray,
    y: AnyArray,
    weights_x: AnyArray | None,
    weights_y: AnyArray | None,
    kernel: Kernel,
    *,
    unbiased: bool,
    tile: int | None,
) -> Float[Array, ""]:
    x, y = centred(x, y)
    w_x, w_y = normalised(weights_x, x), normalised(weights_y, y)
    kernel, factor, (x, y) = in_own_unit(kernel, x, y)
    offset = typical_dissimilarity(x, y, w_x, w_y, kernel)
    cross = pair_sum(x, y, w_x, w_y, kernel, offset=offset, tile=tile)
    within_x = self_pair_sum(x, w_x, kernel, offset=offset, tile=tile)
    within_y = self_pair_sum(y, w_y, kernel, offset=offset, tile=tile)
    # the three are nearly equal where the laws are: their difference is taken before their low parts are dropped
    difference = cross.times(2.0) + within_x.times(-1.0) + within_y.times(-1.0)
    v_form = difference.high + difference.low  # here the offset has cancelled
    if not unbiased:
        return factor * v_form
    return factor * (v_form - (within_x.high + offset) * u_excess(w_x) - (within_y.high + offset) * u_excess(w_y))


@as_written()
def two_sample_matrix(
    x: SampleLike,
    group: Int[AnyArray, " _"] | Sequence[int],
    *,
    num_groups: int | None = None,
    kernel: KernelLike | None = None,
    unbiased: bool = True,
    tile: int | None = None,
) -> Float[Array, "groups groups"]:
    """Return the statistic between all pairs of groups of cells (conditions, say), in one pass over the pairs of cells.

    Args:
        x: cells of all groups, ``[cells, d]``.
        group: row and column of the matrix that a cell counts in, from 0.
        num_groups: G; by default one more than the largest of `group` (needed inside `jit`).
        kernel: of `pdae_jax.kernels`, or a function from squared distances to `h`; default ``energy(1.0)``.
        unbiased: U form (default) or V form.
        tile: rows of a tile of distances.

    Returns:
        ``[G, G]``, symmetric, zero on the diagonal. U form: NaN where a group has fewer than two cells.

    Raises:
        ValueError: `x` is no matrix, or `group` has another length or values outside 0 to G - 1.
    """
    x, group = as_sample(x), group if isinstance(group, jax.Array) else np.asarray(group)
    if x.ndim != 2 or group.shape != x.shape[:1]:
        raise ValueError(f"x has shape {tuple(x.shape)} and group {tuple(group.shape)}; pass [cells, d] and [cells].")
    if isinstance(group, Tracer):
        if num_groups is None:
            raise ValueError("num_groups is None, but inside jit the values of group are not known. Pass num_groups=G.")
    else:
        low, high = int(np.min(np.asarray(group), initial=0)), int(np.max(np.asarray(group), initial=0))
        num_groups = high + 1 if num_groups is None else num_groups
        if low < 0 or high >= num_groups:
            raise ValueError(f"group has values from {low} to {high}, but num_groups={num_groups}. Pass 0 to G - 1.")
    x, _ = centred(x, x)
    kernel = as_kernel(kernel or kernels.energy(1.0))
    return _matrix(x, jnp.asarray(group), kernel, num_groups=num_groups, unbiased=unbiased, tile=tile)


@partial(jax.jit, static_argnames=("num_groups", "unbiased", "tile"))
def _matrix(
    x: Array, group: Array, kernel: Kernel, *, num_groups: int, unbiased: bool, tile: int | None
) -> Float[Array, "groups groups"]:
    kernel, factor, (x,) = in_own_unit(kernel, x)
    member = jax.nn.one_hot(group, num_groups, dtype=x.dtype)
    counts = jnp.sum(member, axis=0)
    weights = member / jnp.maximum(counts, 1)
    equal = normalised(None, x)
    offset = typical_dissimilarity(x, x, equal, equal, kernel)
    sums = group_pair_sums(x, weights, kernel, offset=offset, tile=tile)
    within = jnp.diagonal(sums)
    matrix = 2.0 * sums - within[:, None] - within[None, :]
    if unbiased:
        excess = (within + offset) / (counts - 1.0)
        excess = jnp.where(counts > 1, excess, jnp.nan)
        matrix = matrix - excess[:, None] - excess[None, :]
    return factor * jnp.where(jnp.eye(num_groups, dtype=bool), 0.0, matrix)


def typical_dissimilarity(x: Array, y: Array, w_x: Array, w_y: Array, kernel: Kernel) -> Float[Array, ""]:
    """Return `h` at the root mean square distance between the samples: near the mean of `h`, from moments alone."""
    square = w_x @ x**2 + w_y @ y**2 - 2.0 * (w_x @ x) * (w_y @ y)  # E (X_k - Y_k)^2, per feature
    square = jnp.maximum(square, 0.0)
    return jax.lax.stop_gradient(kernel(jnp.sum(jnp.sqrt(square) if kernel.metric == "manhattan" else square)))


def normalised(weights: AnyArray | None, x: Array) -> Float[Array, " n"]:
    """Return weights of the rows of `x` that sum to one."""
    if weights is None:
        return jnp.full(len(x), 1.0 / len(x), x.dtype)
    weights = jnp.asarray(weights, x.dtype)
    return weights / jnp.sum(weights)


def u_excess(weights: Array) -> Array:
    """Return by how much the mean over distinct pairs (U) is that over all pairs (V) times one plus this; 1 / (n -
    1) if equal.
    """
    square = jnp.sum(weights**2)
    return square / (1.0 - square)


def centred(x: AnyArray, y: AnyArray) -> tuple[Array, Array]:
    """Return both samples with a common mean subtracted, which costs no digits: float64 ones before they become
    float32.
    """
    x, y = map(jnp.asarray, _float64_centred(x, y))
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    x, y = x.astype(dtype), y.astype(dtype)
    # of one sample: where both are nearly this, the subtraction is exact (Sterbenz)
    centre = jax.lax.stop_gradient(0.5 * (jnp.mean(x, 0) + jnp.mean(y, 0)))
    return x - centre, y - centre


def _float64_centred(x: AnyArray, y: AnyArray) -> tuple[AnyArray, AnyArray]:
    """The first step of `centred`, which only the host can take: JAX is to make float32 of float64."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.dtype == y.dtype == np.float64:
        centre = 0.5 * (x.mean(axis=0, dtype=np.float64) + y.mean(axis=0, dtype=np.float64))
        return x - centre, y - centre
    return x, y


def checked_samples(x: SampleLike, y: SampleLike, names: tuple[str, str] = ("x", "y")) -> tuple[AnyArray, AnyArray]:
    """Check what users pass as two samples, as arrays that are two samples; see `as_samples` and `check_samples`."""
    x, y = as_samples(x, y, names)
    check_samples(x, y, names)
    return x, y


def check_samples(x: AnyArray, y: AnyArray, names: tuple[str, str] = ("x", "y")) -> None:
    """Check two samples ``[n, d]`` and ``[m, d]`` with n, m >= 2; ``ValueError`` otherwise."""
    for name, sample in zip(names, (x, y), strict=True):
        if sample.ndim != 2 or sample.shape[0] < 2:
            raise ValueError(
                f"Sample {name} has shape {tuple(sample.shape)}; a two-sample statistic needs [cells >= 2, features]."
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} features but {names[1]} has {y.shape[1]}. Pass the same features, in one "
            f"order."
        )
