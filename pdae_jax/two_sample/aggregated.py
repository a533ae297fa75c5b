r"""MMDAgg, a test of two samples that needs no choice of a bandwidth: it aggregates kernels and bandwidths.

Each kernel :math:`k` of a collection of :math:`K` tests with its own :math:`\widehat{MMD}{}^2_k`. With
:math:`q_{k, 1 - a}` the quantile of the observed statistic and :math:`B_1` relabelled ones, the aggregated test rejects
if

.. math:: \exists k: \widehat{MMD}{}^2_k > q_{k, 1 - u_\alpha / K}, \quad u_\alpha = \sup \Big\{u:
    \frac{1}{B_2} \sum_{b=1}^{B_2} 1\Big[\max_k \big(\widehat{MMD}{}^{2,b}_k - q_{k, 1 - u / K}\big) > 0\Big]
    \le \alpha\Big\}

over :math:`B_2` further relabellings, the same for all kernels: the level is corrected for how much the tests overlap,
which costs far less power than Bonferroni (:math:`u = \alpha`). The quantiles are order statistics, so :math:`u` acts
only through :math:`j = \lfloor (B_1 + 1) u / K \rfloor`, the number of statistics above the quantile, and counting
gives the supremum that bisection approaches. The share of the :math:`B_2` counted at the smallest :math:`j` at which
the observed statistic of some kernel is above its quantile is the p-value: the smallest level that rejects.

Reference: Schrab, Kim, Albert, Laurent, Guedj & Gretton, MMD Aggregated Two-Sample Test, JMLR 24 (2023), Algorithm 1.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial.distance
from jaxtyping import Array, Float

from pdae_jax.compiled import as_written
from pdae_jax.randomness import check_key, make_random
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.distances import manhattan_distances, squared_distances
from pdae_jax.two_sample.kernels import Kernel
from pdae_jax.two_sample.relabelling import (
    centred_samples,
    checked_pair,
    draw_members,
    draw_signs,
    padded_rows,
    padded_size,
    paired_statistics,
    unbiased_statistics,
)
from pdae_jax.two_sample.samples import SampleLike

METHODS = ("permutation", "wild_bootstrap")

# Bandwidths: from half the first to twice the second quantile of the distances, of at most so many cells.
QUANTILES = (0.05, 0.95)
BANDWIDTH_CELLS = 500


class AggregatedTest(NamedTuple):
    """Outcome of `aggregated_test`; the fields per kernel are in the order of `kernels`."""

    rejected: bool  # at the level asked for: p_value <= level
    p_value: float  # smallest level at which the test rejects, at least 1 / num_level
    rejected_by: tuple[str, ...]  # kernels whose statistic is above its threshold
    kernels: tuple[str, ...]  # "gaussian(0.8)", by family and bandwidth
    bandwidths: Float[np.ndarray, " kernels"]  # as `pdae_jax.kernels` takes them
    statistic: Float[np.ndarray, " kernels"]  # MMD^2, U form
    threshold: Float[np.ndarray, " kernels"]  # at the corrected level
    corrected_level: float  # of each single test, u / K
    method: str  # how labels were redrawn
    n: int  # cells of x used
    m: int  # cells of y used


@as_written()
def aggregated_test(
    x: SampleLike,
    y: SampleLike,
    *,
    key: Array,
    level: float = 0.05,
    families: Sequence[str] = ("gaussian", "laplace"),
    num_bandwidths: int = 10,
    method: str | None = None,
    num_quantile: int = 2000,
    num_level: int = 2000,
    max_cells: int | None = None,
    pad_to: int | None = None,
) -> AggregatedTest:
    r"""Run the MMDAgg test of equal laws; equations and reference in the docstring of the module.

    The bandwidths of a family are a geometric sequence from half the 5 % to twice the 95 % quantile of the positive
    distances in the pooled sample (among at most 500 random cells; the authors' code has absolute bounds instead, and
    so depends on units). Relabelling does not change the pool, so that choosing them costs no level: the test rejects
    equal laws with probability at most ``(1 + level * num_level) / (1 + num_level)``, for independent cells.

    It takes about `K N^2 (num_quantile + num_level)` floating-point operations for `N = n + m` cells and `K` kernels,
    a quarter of it with the wild bootstrap, and memory for a few `N x N` matrices and the labels.

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        key: typed PRNG key of the relabellings and the subsamples.
        level: probability allowed for a false rejection.
        families: of ``gaussian`` (Euclidean distance), ``laplace`` (Manhattan distance) and
            ``inverse_multiquadric`` (Euclidean distance).
        num_bandwidths: per family.
        method: ``permutation`` of all cells, with the U statistic; ``wild_bootstrap``, which swaps the cells
            ``x[i], y[i]`` of random pairs and leaves their own dissimilarity out, for `n = m`. By default the
            wild bootstrap where `n = m`, as the authors do.
        num_quantile: relabellings `B_1` that give the quantiles.
        num_level: relabellings `B_2` that give the level correction.
        max_cells: larger samples are subsampled to this many cells, each by itself.
        pad_to: rows that the pooled sample is padded to: all sizes up to it share one compilation. By default the
            next power of two.

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows or a value that is not finite, the
            wild bootstrap is asked for unequal sizes, more than `pad_to` cells are pooled, `families` is empty, has one
            twice or an unknown one, or a number is out of range.
    """
    check_key(key)
    x, y = checked_pair(x, y, max_cells, pad_to)
    n, m = (len(s) if max_cells is None else min(len(s), max_cells) for s in (x, y))
    _check_collection(families, num_bandwidths)
    _check_level(level, num_quantile, num_level)
    method = _check_method(method, n, m)
    random = make_random(key)
    x, y, unit = centred_samples(random, x, y, max_cells)
    pooled = np.concatenate([x, y])
    collection = [_family(random, name, pooled, num_bandwidths) for name in families]
    size, num_draws = padded_size(n + m, pad_to), num_quantile + num_level
    if method == "permutation":
        rows, labels = padded_rows(pooled, size), draw_members(random, n, m, num_draws, size)
    else:
        rows = np.concatenate([padded_rows(x, size // 2), padded_rows(y, size // 2)])
        labels = draw_signs(random, n, num_draws, size // 2)
    rows, labels = jnp.asarray(rows), jnp.asarray(labels)
    outcomes = [_STATISTICS[method](kernel, rows, labels, np.float32(n), np.float32(m)) for kernel in collection]
    statistics, ties = (np.concatenate(parts).astype(np.float64) for parts in zip(*outcomes, strict=True))
    bandwidths = [unit * kernel.parameters for kernel in collection]
    names = [f"{name}({s:.3g})" for name, widths in zip(families, bandwidths, strict=True) for s in widths]
    p_value, corrected_level, threshold = aggregate(statistics, ties, level, num_quantile)
    rejected_by = tuple(k for k, t, q in zip(names, statistics[:, 0], threshold, strict=True) if t > q)
    rejected = p_value <= level
    return AggregatedTest(
        rejected,
        p_value,
        rejected_by,
        tuple(names),
        np.concatenate(bandwidths),
        statistics[:, 0],
        threshold,
        corrected_level,
        method,
        n,
        m,
    )


def aggregate(
    statistics: Float[np.ndarray, "kernels labels"],
    ties: Float[np.ndarray, " kernels"],
    level: float,
    num_quantile: int,
) -> tuple[float, float, Float[np.ndarray, " kernels"]]:
    """Return the p-value, corrected level of a single test, and thresholds, of statistics under shared relabellings.

    Args:
        statistics: the observed one, then `num_quantile` for the quantiles, then the ones for the level correction.
        ties: difference up to which two statistics of a kernel are ties.
        level: of the aggregated test.
        num_quantile: `B_1`.
    """
    first = np.sort(statistics[:, : 1 + num_quantile], axis=1)
    count = first.shape[1]
    # how many of the first are at least as large, per kernel; a test with j above its quantile rejects up to rank j
    rank = count - np.stack([np.searchsorted(*pair) for pair in zip(first, statistics - ties[:, None], strict=True)])
    observed, drawn = np.min(rank[:, 0]), np.min(rank[:, count:], axis=0)
    rejecting = np.cumsum(np.bincount(drawn, minlength=1 + count)) / len(drawn)  # at j = 0, 1, ..., count
    # nothing rejects at j = 0, where the threshold is the largest statistic
    allowed = max(0, int(np.searchsorted(rejecting, level, side="right")) - 1)
    p_value = max(float(rejecting[observed]), 1.0 / len(drawn))
    return p_value, allowed / count, first[:, count - 1 - allowed] + ties


class _Family(NamedTuple):
    make: Callable[[np.ndarray], Kernel]  # of bandwidths, in the units of the distance
    distance: Literal["euclidean", "cityblock"]  # SciPy's name


FAMILIES = {
    # the authors write exp(-r^2 / s^2)
    "gaussian": _Family(lambda s: kernels.gaussian(s / np.sqrt(2.0)), "euclidean"),
    "laplace": _Family(lambda s: kernels.laplace(s, norm="l1"), "cityblock"),
    "inverse_multiquadric": _Family(kernels.inverse_multiquadric, "euclidean"),
}


def _family(random: np.random.Generator, name: str, pooled: np.ndarray, num_bandwidths: int) -> Kernel:
    """The kernels of one family, as one `Kernel` with all bandwidths."""
    cells = pooled if len(pooled) <= BANDWIDTH_CELLS else random.choice(pooled, BANDWIDTH_CELLS, replace=False)
    distances = scipy.spatial.distance.pdist(cells, FAMILIES[name].distance)
    distances = distances[distances > 0]
    # identical cells throughout: every bandwidth gives statistics of zero
    low, high = np.quantile(distances, QUANTILES) if len(distances) else (1.0, 1.0)
    return FAMILIES[name].make(np.geomspace(0.5 * low, 2.0 * high, num_bandwidths))


def _each_bandwidth(statistics_of: Callable[[Array], tuple[Array, Array]], kernel: Kernel, rows: Array):
    """Statistics of every bandwidth, one matrix at a time."""
    distances = (manhattan_distances if kernel.metric == "manhattan" else squared_distances)(rows, rows)

    def one(bandwidth: Array) -> tuple[Array, Array]:
        return statistics_of(dataclasses.replace(kernel, parameters=bandwidth[None])(distances))

    return jax.lax.map(one, jnp.asarray(kernel.parameters))


@jax.jit
def _permutation(
    kernel: Kernel, rows: Float[Array, "size d"], member: Float[Array, "labels size"], n: Array, m: Array
) -> tuple[Float[Array, "bandwidths labels"], Float[Array, " bandwidths"]]:
    return _each_bandwidth(lambda h: unbiased_statistics(h, member, n, m), kernel, rows)


@jax.jit
def _wild_bootstrap(
    kernel: Kernel, rows: Float[Array, "size d"], sign: Float[Array, "labels half"], n: Array, m: Array
) -> tuple[Float[Array, "bandwidths labels"], Float[Array, " bandwidths"]]:
    del m  # equals n
    return _each_bandwidth(lambda h: paired_statistics(h, sign, n), kernel, rows)


_STATISTICS = {"permutation": _permutation, "wild_bootstrap": _wild_bootstrap}


def _check_collection(families: Sequence[str], num_bandwidths: int) -> None:
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families or len(set(families)) < len(families):
        raise ValueError(f"families={tuple(families)}. Pass one or more of {tuple(FAMILIES)}, each once.")
    if num_bandwidths < 2:
        raise ValueError(f"num_bandwidths={num_bandwidths}, but a geometric sequence needs at least 2. Pass 10.")


def _check_level(level: float, num_quantile: int, num_level: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}, but it is a probability between 0 and 1. Pass 0.05.")
    for name, number in (("num_quantile", num_quantile), ("num_level", num_level)):
        if number * level < 1:
            raise ValueError(
                f"{name}={number} cannot resolve level={level}: pass at least {int(np.ceil(1 / level))}; 2000 is usual."
            )


def _check_method(method: str | None, n: int, m: int) -> str:
    if method is None:
        return "wild_bootstrap" if n == m else "permutation"
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; pass one of {METHODS}, or None to choose by size.")
    if method == "wild_bootstrap" and n != m:
        raise ValueError(
            f"The wild bootstrap pairs cells, but x has {n} and y has {m}. Pass method='permutation', "
            f"or max_cells={min(n, m)}."
        )
    return method
