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
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from pdae_jax.distances import DIRECT_DIM, gram_distances, summed_over_features
from pdae_jax.kernels import Kernel
from pdae_jax.summation import Sum, sum_of_parts, two_sum
from pdae_jax.tiles import tile_pairs, tile_rows, tiled, untiled

# Pairs nearer than this share of their squared distances to the mean lose digits in a matrix product (a squared
# distance is off by eps, so here 1e-4 of itself); its derivative divides by the distance, and bears less.
NEAR_GRAM, NEAR_DIRECT = 1e-3, 1e-7
# ... which matters when they are more than this share of all pairs, estimated from this many rows.
NEAR_SHARE, NEAR_ROWS = 1e-4, 64

HIGHEST = jax.lax.Precision.HIGHEST


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
    r""":math:`\sum_{ij} w_i v_j (h(x_i, y_j) - c)` over the pairs of two samples.

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
    r""":math:`\sum_{ij} w_i w_j (h(x_i, x_j) - c)` over all pairs of one sample, a cell and itself included."""
    return _pair_sum(x, None, weights, None, kernel, jnp.asarray(offset, x.dtype), tile)


def group_pair_sums(
    x: Float[Array, "n d"],
    weights: Float[Array, "n groups"],
    kernel: Kernel,
    *,
    offset: Float[Array, ""] | float = 0.0,
    tile: int | None = None,
) -> Float[Array, "groups groups"]:
    r""":math:`\sum_{ij} w_{ia} w_{jb} (h(x_i, x_j) - c)` for all groups `a`, `b`, in one pass over half the pairs.

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
        cells = _Cells.of(x, side, _by_features(x, kernel, direct))

        @jax.checkpoint
        def part(i: Array, j: Array) -> Array:
            h = kernel(_distances(cells[i], cells[j], (i == j) & diagonal, kernel, direct)) - offset
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


class _Wanted(NamedTuple):
    """Which derivatives are asked for; False is a fact at compile time."""

    x: bool = False
    y: bool = False
    weights_x: bool = False
    weights_y: bool = False
    parameters: bool = False


class _Cells(NamedTuple):
    """Tiles of cells, or one of them."""

    x: Array  # [tiles, R, d]; by features [tiles, d, R], so that a feature of a tile is contiguous
    square: Array | None  # [tiles, R], squared norms, for distances by a matrix product

    @classmethod
    def of(cls, x: Array, side: int, by_features: bool) -> "_Cells":
        tiles = tiled(x, side)
        return cls(tiles.swapaxes(1, 2), None) if by_features else cls(tiles, jnp.sum(tiles**2, -1))

    def __getitem__(self, index) -> "_Cells":  # type: ignore[override]
        return _Cells(self.x[index], None if self.square is None else self.square[index])

    @property
    def rows(self) -> Array:
        """Of one tile, ``[R, d]``."""
        return self.x.T if self.square is None else self.x


class _Totals(NamedTuple):
    """What the loop over tiles adds up; derivatives that are not wanted are None. R and C are rows of a tile."""

    high: Array  # [R]
    low: Array  # [R]
    x: Array | None  # as the tiles
    y: Array | None  # as the tiles
    weights_x: Array | None  # [tiles, R]
    weights_y: Array | None  # [tiles, C]
    parameters: Array | None


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _pair_sum(x, y, weights_x, weights_y, kernel, offset, tile) -> Sum:
    return _forward(x, y, weights_x, weights_y, kernel, offset, tile, _Wanted())[0]


def _pair_sum_fwd(x, y, weights_x, weights_y, kernel, offset, tile):
    # primals come with `perturbed`: whether anyone differentiates by them
    wanted = _Wanted(*(bool(a is not None and a.perturbed) for a in (x, y, weights_x, weights_y, kernel.parameters)))
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


def _forward(x, y, weights_x, weights_y, kernel: Kernel, offset: Array, tile: int | None, wanted: _Wanted):
    """The sum in two parts, and its derivatives by (x, y, weights_x, weights_y, kernel)."""
    direct = partial(_loop, x, y, weights_x, weights_y, kernel, offset, tile, wanted, True)
    if kernel.metric == "manhattan" or (x.shape[1] <= DIRECT_DIM and not (wanted.x or wanted.y)):
        return direct()
    other = x if y is None else y
    other_weights = weights_x if weights_y is None else weights_y
    product = partial(_loop, x, y, weights_x, weights_y, kernel, offset, tile, wanted, False)
    return jax.lax.cond(_many_near_pairs(x, other, weights_x, other_weights, y is None), direct, product)


def _many_near_pairs(x: Array, y: Array, weights_x: Array, weights_y: Array, within: bool) -> Array:
    """Whether some of the rows have enough pairs too near for a matrix product."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), NEAR_ROWS)).astype(int))
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


def _loop(x, y, weights_x, weights_y, kernel: Kernel, offset: Array, tile: int | None, wanted: _Wanted, direct: bool):
    within = y is None
    side = tile or tile_rows(len(x) if within else min(len(x), len(y)), x.shape[1])
    by_features = _by_features(x, kernel, direct)
    x_cells, w_tiles = _Cells.of(x, side, by_features), tiled(weights_x, side)
    y_cells, v_tiles = (x_cells, w_tiles) if within else (_Cells.of(y, side, by_features), tiled(weights_y, side))
    rows = w_tiles.shape[1]
    first, second, times = tile_pairs(len(w_tiles), len(v_tiles), within, x.dtype)
    diagonal = jnp.eye(rows, dtype=bool) if within else None
    zeros = jnp.zeros(rows, x.dtype)
    start = _Totals(
        high=zeros,
        low=zeros,
        x=jnp.zeros_like(x_cells.x) if wanted.x else None,
        y=jnp.zeros_like(y_cells.x) if wanted.y else None,
        weights_x=jnp.zeros_like(w_tiles) if wanted.weights_x else None,
        weights_y=jnp.zeros_like(v_tiles) if wanted.weights_y else None,
        parameters=jnp.zeros_like(kernel.parameters) if wanted.parameters else None,
    )

    def add(index, totals: _Totals) -> _Totals:
        i, j, factor = first[index], second[index], times[index]
        on_diagonal = None if diagonal is None else (i == j) & diagonal
        operands = (x_cells[i], y_cells[j], w_tiles[i], v_tiles[j], factor, on_diagonal)
        one = partial(_one_tile, kernel=kernel, offset=offset, wanted=wanted, direct=direct)
        empty = jax.eval_shape(one, *operands)
        # The branch, beside skipping tiles without weight, makes XLA copy the tiles out of the arrays before it fuses
        # the arithmetic: without it a CPU indexes them anew for every distance, at a fifth of the speed.
        term = jax.lax.cond(
            jnp.any(operands[2] != 0) & jnp.any(operands[3] != 0),
            one,
            lambda *_: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), empty),
            *operands,
        )
        high, error = two_sum(totals.high, term.high)
        return _Totals(
            high,
            totals.low + error,
            *(
                None if total is None else (total + part if where is None else total.at[where].add(part))
                for total, part, where in zip(totals[2:], term[2:], (i, j, i, j, None), strict=True)
            ),
        )

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


def _one_tile(
    x: _Cells, y: _Cells, w, v, factor, on_diagonal, *, kernel: Kernel, offset: Array, wanted: _Wanted, direct: bool
) -> _Totals:
    """The part of one tile in every total; `factor` is 2 for a tile that stands for its mirror image too."""
    distances = _distances(x, y, on_diagonal, kernel, direct)
    if wanted.x or wanted.y:
        h, slope = jax.jvp(lambda r: kernel(r) - offset, (distances,), (jnp.ones_like(distances),))
        g = (factor * w)[:, None] * slope * v[None, :]
    else:
        h, g = kernel(distances) - offset, None
    row_sums = jnp.matmul(h, factor * v, precision=HIGHEST)
    gradient = _gradient if not direct and kernel.metric == "squared_euclidean" else _direct_gradient(kernel)
    dx, dy = gradient(x.rows, y.rows, g, wanted) if g is not None else (None, None)
    if x.square is None:
        dx, dy = (None if a is None else a.T for a in (dx, dy))
    parameters = None
    if wanted.parameters:
        _, pull = jax.vjp(lambda p: dataclasses.replace(kernel, parameters=p)(distances), kernel.parameters)
        parameters = pull((factor * w)[:, None] * v[None, :])[0]
    return _Totals(
        high=w * row_sums,
        low=jnp.zeros_like(w),
        x=dx,
        y=dy,
        weights_x=row_sums if wanted.weights_x else None,
        weights_y=jnp.matmul(factor * w, h, precision=HIGHEST) if wanted.weights_y else None,
        parameters=parameters,
    )


def _by_features(x: Array, kernel: Kernel, direct: bool) -> bool:
    """Whether distances are summed over features, not a matrix product."""
    return direct or kernel.metric == "manhattan" or x.shape[1] <= DIRECT_DIM


def _distances(x: _Cells, y: _Cells, on_diagonal: Array | None, kernel: Kernel, direct: bool) -> Array:
    if kernel.metric == "manhattan":
        distances = summed_over_features(x.rows, y.rows, jnp.abs)
    elif _by_features(x.rows, kernel, direct):
        distances = summed_over_features(x.rows, y.rows, jnp.square)
    else:
        distances = gram_distances(x.x, y.x, x.square, y.square)
    if on_diagonal is None:
        return distances
    # rounding must not leave a distance between a cell and itself
    return jnp.where(on_diagonal, 0.0, distances)


def _gradient(x: Array, y: Array, g: Array, wanted: _Wanted) -> tuple[Array | None, Array | None]:
    r""":math:`2 (x_i \sum_j g_{ij} - \sum_j g_{ij} y_j)`, and the same for y: matrix products."""
    dx = dy = None
    if wanted.x:
        row_sums = jnp.matmul(g, jnp.ones_like(y[:, 0]), precision=HIGHEST)
        dx = 2.0 * (x * row_sums[:, None] - jnp.matmul(g, y, precision=HIGHEST))
    if wanted.y:
        column_sums = jnp.matmul(jnp.ones_like(x[:, 0]), g, precision=HIGHEST)
        dy = 2.0 * (y * column_sums[:, None] - jnp.matmul(x.T, g, precision=HIGHEST).T)
    return dx, dy


def _direct_gradient(kernel: Kernel) -> Callable:
    r""":math:`\sum_j g_{ij} t'(x_i - y_j)`, one feature at a time: no digits are lost between near cells."""
    slope = jnp.sign if kernel.metric == "manhattan" else (lambda difference: 2.0 * difference)

    def gradient(x: Array, y: Array, g: Array, wanted: _Wanted) -> tuple[Array | None, Array | None]:
        def one_feature(feature: tuple[Array, Array]) -> tuple[Array, Array]:
            force = g * slope(feature[0][:, None] - feature[1][None, :])
            return (
                jnp.matmul(force, jnp.ones_like(feature[1]), precision=HIGHEST),
                -jnp.matmul(jnp.ones_like(feature[0]), force, precision=HIGHEST),
            )

        dx, dy = jax.lax.map(one_feature, (x.T, y.T))
        return (dx.T if wanted.x else None), (dy.T if wanted.y else None)

    return gradient
