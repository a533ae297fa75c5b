r"""Weighted sums of a dissimilarity over all pairs of cells: the engine of every two-sample statistic.

.. math:: S = \sum_{i, j} w_i v_j \, h(x_i, y_j)

Four things make it fast, exact and small:

* *Tiles.* Distances exist one square tile at a time: memory O(tile^2 + (n + m) d), never n x m.
* *Half the work within a sample.* `h` is symmetric: tiles above the diagonal count twice, those below are not taken.
* *One pass for value and gradient.* With `g = w_i v_j h'(|x_i - y_j|^2)` on a tile, the gradient is
  :math:`\partial S / \partial x_i = 2 (x_i \sum_j g_{ij} - \sum_j g_{ij} y_j)`: one more matrix product, while the
  tile is still in cache. Nothing is recomputed in the backward pass; only gradients that are asked for are taken.
* *Compensated sums.* Tiles are added with their rounding errors kept (Knuth's two-sum), and a sum is returned as two
  numbers, ``high + low``: statistics are small differences of large sums.

Squared distances come from a matrix product (`distances.gram_distances`), which loses the digits of pairs much nearer
to each other than to the mean. A few rows tell whether there are enough such pairs to matter; if so, all distances
are taken by direct differences.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from pdae_jax.two_sample.distances import DIRECT_DIM, gram_distances, summed_over_features
from pdae_jax.two_sample.kernels import Kernel
from pdae_jax.two_sample.pair_tile import HIGHEST, Cells, Totals, Wanted, one_tile, sums_over_features, tile_distances
from pdae_jax.two_sample.summation import Sum, sum_of_parts, two_sum
from pdae_jax.two_sample.tiles import tile_pairs, tile_rows, tiled, untiled

# Pairs nearer than this share of their squared distances to the mean lose digits in a matrix product (a squared
# distance is off by eps, so here 1e-4 of itself); its derivative divides by the distance, and bears less.
NEAR_GRAM, NEAR_DIRECT = 1e-3, 1e-7
# ... which matters when they are more than this share of all pairs, estimated from this many rows.
NEAR_SHARE, NEAR_ROWS = 1e-4, 64


def pair_sum(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    kernel: Kernel,
    *,
    offset: Float[Array, ""] | float = 0.0,
    tile: int | None = None,
) -> Sum:
    r"""Return :math:`\sum_{ij} w_i v_j (h(x_i, y_j) - c)` over the pairs of two samples.

    Differentiable once, in all arguments, the parameters of the kernel included.

    Args:
        x: cells, centred near the origin (an offset costs digits).
        y: cells.
        weights_x: of the rows of `x`.
        weights_y: of the rows of `y`.
        kernel: of `pdae_jax.kernels`.
        offset: `c`, taken as a constant. Near the mean of `h` it leaves sums of small numbers, which round less.
        tile: rows of a tile; chosen by the device when None.
    """
    return _pair_sum(x, y, weights_x, weights_y, kernel, jnp.asarray(offset, x.dtype), tile)


def self_pair_sum(
    x: Float[Array, "n d"],
    weights: Float[Array, " n"],
    kernel: Kernel,
    *,
    offset: Float[Array, ""] | float = 0.0,
    tile: int | None = None,
) -> Sum:
    r"""Return :math:`\sum_{ij} w_i w_j (h(x_i, x_j) - c)` over all pairs of one sample, a cell and itself included."""
    return _pair_sum(x, None, weights, None, kernel, jnp.asarray(offset, x.dtype), tile)


def group_pair_sums(
    x: Float[Array, "n d"],
    weights: Float[Array, "n groups"],
    kernel: Kernel,
    *,
    offset: Float[Array, ""] | float = 0.0,
    tile: int | None = None,
) -> Float[Array, "groups groups"]:
    r"""Return :math:`\sum_{ij} w_{ia} w_{jb} (h(x_i, x_j) - c)` for all groups `a`, `b`, in one pass over half the
    pairs.

    Args:
        x: cells of all groups, centred near the origin.
        weights: of a row in each group; for a partition, zero in all but one.
        kernel: of `pdae_jax.kernels`.
        offset: `c`; see `pair_sum`.
        tile: rows of a tile.
    """
    side = tile or tile_rows(*x.shape)
    w_tiles = tiled(weights, side)
    first, second, _ = tile_pairs(len(w_tiles), len(w_tiles), True, x.dtype)
    diagonal = jnp.eye(w_tiles.shape[1], dtype=bool)

    def total(direct: bool) -> Array:
        cells = Cells.of(x, side, sums_over_features(x, kernel, direct))

        @jax.checkpoint
        def part(i: Array, j: Array) -> Array:
            h = kernel(tile_distances(cells[i], cells[j], (i == j) & diagonal, kernel, direct)) - offset
            sums = jnp.matmul(w_tiles[i].T, jnp.matmul(h, w_tiles[j], precision=HIGHEST), precision=HIGHEST)
            return jnp.where(i == j, sums, sums + sums.T)

        def add(parts: tuple[Array, Array], pair: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            high, error = two_sum(parts[0], part(*pair))
            return (high, parts[1] + error), None

        zeros = jnp.zeros((weights.shape[1], weights.shape[1]), x.dtype)
        high, low = jax.lax.scan(add, (zeros, zeros), (first, second))[0]
        return high + jax.lax.stop_gradient(low)

    if kernel.metric == "manhattan":
        return total(True)
    any_weight = jnp.sum(jnp.abs(weights), axis=1)
    return jax.lax.cond(
        _many_near_pairs(x, x, any_weight, any_weight, True), partial(total, True), partial(total, False)
    )


# --- the sum and its derivative --------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _pair_sum(x, y, weights_x, weights_y, kernel, offset, tile) -> Sum:
    return _forward(x, y, weights_x, weights_y, kernel, offset, tile, Wanted())[0]


def _pair_sum_fwd(x, y, weights_x, weights_y, kernel, offset, tile):
    # primals come with `perturbed`: whether anyone differentiates by them
    wanted = Wanted(*(bool(a is not None and a.perturbed) for a in (x, y, weights_x, weights_y, kernel.parameters)))
    if y is None:  # one argument plays both parts
        wanted = wanted._replace(y=wanted.x, weights_y=wanted.weights_x)
    x, y, weights_x, weights_y, kernel, offset = jax.tree.map(
        lambda a: a.value, (x, y, weights_x, weights_y, kernel, offset), is_leaf=lambda a: hasattr(a, "perturbed")
    )
    return _forward(x, y, weights_x, weights_y, kernel, offset, tile, wanted)


def _pair_sum_bwd(tile, residuals, cotangents):
    high = cotangents.high  # `low` is rounding: a constant
    if isinstance(high, SymbolicZero):
        return (None,) * len(residuals)
    return jax.tree.map(lambda a: high.astype(a.dtype) * a, residuals)


_pair_sum.defvjp(_pair_sum_fwd, _pair_sum_bwd, symbolic_zeros=True)


def _forward(x, y, weights_x, weights_y, kernel: Kernel, offset: Array, tile: int | None, wanted: Wanted):
    """The sum in two parts, and its derivatives by (x, y, weights_x, weights_y, kernel)."""
    direct = partial(_loop, x, y, weights_x, weights_y, kernel, offset, tile, wanted, True)
    if kernel.metric == "manhattan" or (x.shape[1] <= DIRECT_DIM and not (wanted.x or wanted.y)):
        return direct()
    other = x if y is None else y
    other_weights = weights_x if weights_y is None else weights_y
    product = partial(_loop, x, y, weights_x, weights_y, kernel, offset, tile, wanted, False)
    return jax.lax.cond(_many_near_pairs(x, other, weights_x, other_weights, y is None), direct, product)


def _many_near_pairs(x: Array, y: Array, weights_x: Array, weights_y: Array, within: bool) -> Array:
    """Tell whether some of the rows have enough pairs too near for a matrix product."""
    number = min(len(x), NEAR_ROWS, max(NEAR_ROWS // 8, len(x) // 16))  # of small samples, a sixteenth of the work
    rows = np.unique(np.linspace(0, len(x) - 1, number).astype(int))
    limit = NEAR_GRAM if x.shape[1] > DIRECT_DIM else NEAR_DIRECT
    near_to = x[rows]
    size = jnp.sum(near_to**2, -1)[:, None] + jnp.sum(y**2, -1)[None]
    near = (
        gram_distances(near_to, y) < limit * size
        if x.shape[1] > DIRECT_DIM
        else (summed_over_features(near_to, y, jnp.square) < limit * size)
    )
    counts = near & (weights_x[rows] != 0)[:, None] & (weights_y != 0)[None]
    if within:
        counts &= jnp.asarray(rows)[:, None] != jnp.arange(len(y))[None]
    return jnp.mean(counts) > NEAR_SHARE


def _added(totals: Totals, term: Totals, i: Array, j: Array) -> Totals:
    """The totals with the part of tiles `i` and `j`."""
    high, error = two_sum(totals.high, term.high)
    others: Any = zip(totals[2:], term[2:], (i, j, i, j, None), strict=True)
    return Totals(
        high,
        totals.low + error,
        *(
            None if total is None else (total + part if where is None else total.at[where].add(part))
            for total, part, where in others
        ),
    )


def _loop(x, y, weights_x, weights_y, kernel: Kernel, offset: Array, tile: int | None, wanted: Wanted, direct: bool):
    within = y is None
    side = tile or tile_rows(len(x) if within else min(len(x), len(y)), x.shape[1])
    by_features = sums_over_features(x, kernel, direct)
    x_cells, w_tiles = Cells.of(x, side, by_features), tiled(weights_x, side)
    y_cells, v_tiles = (x_cells, w_tiles) if within else (Cells.of(y, side, by_features), tiled(weights_y, side))
    rows = w_tiles.shape[1]
    first, second, times = tile_pairs(len(w_tiles), len(v_tiles), within, x.dtype)
    diagonal = jnp.eye(rows, dtype=bool) if within else None
    zeros = jnp.zeros(rows, x.dtype)
    start = Totals(
        high=zeros,
        low=zeros,
        x=jnp.zeros_like(x_cells.x) if wanted.x else None,
        y=jnp.zeros_like(y_cells.x) if wanted.y else None,
        weights_x=jnp.zeros_like(w_tiles) if wanted.weights_x else None,
        weights_y=jnp.zeros_like(v_tiles) if wanted.weights_y else None,
        parameters=jnp.zeros_like(kernel.parameters) if wanted.parameters else None,
    )

    def add(index, totals: Totals) -> Totals:
        i, j, factor = first[index], second[index], times[index]
        on_diagonal = None if diagonal is None else (i == j) & diagonal
        operands = (x_cells[i], y_cells[j], w_tiles[i], v_tiles[j], factor, on_diagonal)
        one = partial(one_tile, kernel=kernel, offset=offset, wanted=wanted, direct=direct)
        if len(first) == 1:  # nothing to skip, and nothing to index
            return _added(totals, one(*operands), i, j)
        empty = jax.eval_shape(one, *operands)
        # The branch, beside skipping tiles without weight, makes XLA copy the tiles out of the arrays before it fuses
        # the arithmetic: without it a CPU indexes them anew for every distance, at a fifth of the speed.
        term = jax.lax.cond(
            jnp.any(operands[2] != 0) & jnp.any(operands[3] != 0),
            one,
            lambda *_: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), empty),
            *operands,
        )
        return _added(totals, term, i, j)

    totals = jax.lax.fori_loop(0, len(first), add, start) if len(first) > 1 else add(0, start)
    if by_features:
        by_x, by_y = (None if a is None else a.swapaxes(1, 2) for a in (totals.x, totals.y))
        totals = totals._replace(x=by_x, y=by_y)
    dx, dw = (untiled(a, len(x)) for a in (totals.x, totals.weights_x))
    dy, dv = (untiled(a, len(x if within else y)) for a in (totals.y, totals.weights_y))
    if within:  # a cell is on both sides of its pairs
        dx, dw = (None if a is None or b is None else a + b for a, b in ((dx, dy), (dw, dv)))
        dy = dv = None
    by_kernel = None if totals.parameters is None else dataclasses.replace(kernel, parameters=totals.parameters)
    return Sum(*sum_of_parts(totals.high, totals.low)), (dx, dy, dw, dv, by_kernel, None)
