"""What one tile of pairs adds to a weighted sum of dissimilarities and to its derivatives; `pair_sum` adds them up."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pdae_jax.two_sample.distances import DIRECT_DIM, gram_distances, summed_over_features
from pdae_jax.two_sample.kernels import Kernel
from pdae_jax.two_sample.tiles import tiled

HIGHEST = jax.lax.Precision.HIGHEST


class Wanted(NamedTuple):
    """Which derivatives are asked for; False is a fact at compile time."""

    x: bool = False
    y: bool = False
    weights_x: bool = False
    weights_y: bool = False
    parameters: bool = False


class Cells(NamedTuple):
    """Tiles of cells, or one of them."""

    x: Array  # [tiles, R, d]; by features [tiles, d, R], so that a feature of a tile is contiguous
    square: Array | None  # [tiles, R], squared norms, for distances by a matrix product

    @classmethod
    def of(cls, x: Array, side: int, by_features: bool) -> "Cells":
        tiles = tiled(x, side)
        return cls(tiles.swapaxes(1, 2), None) if by_features else cls(tiles, jnp.sum(tiles**2, -1))

    def __getitem__(self, index) -> "Cells":  # type: ignore[override]
        return Cells(self.x[index], None if self.square is None else self.square[index])

    @property
    def rows(self) -> Array:
        """Rows of one tile, ``[R, d]``."""
        return self.x.T if self.square is None else self.x


class Totals(NamedTuple):
    """The sums of the loop over tiles; derivatives that are not wanted are None. R and C are rows of a tile."""

    high: Array  # [R]
    low: Array  # [R]
    x: Array | None  # as the tiles
    y: Array | None  # as the tiles
    weights_x: Array | None  # [tiles, R]
    weights_y: Array | None  # [tiles, C]
    parameters: Array | None


def one_tile(
    x: Cells, y: Cells, w, v, factor, on_diagonal, *, kernel: Kernel, offset: Array, wanted: Wanted, direct: bool
) -> Totals:
    """Return the part of one tile in every total; `factor` is 2 for a tile that stands for its mirror image too."""
    distances = tile_distances(x, y, on_diagonal, kernel, direct)
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
    return Totals(
        high=w * row_sums,
        low=jnp.zeros_like(w),
        x=dx,
        y=dy,
        weights_x=row_sums if wanted.weights_x else None,
        weights_y=jnp.matmul(factor * w, h, precision=HIGHEST) if wanted.weights_y else None,
        parameters=parameters,
    )


def sums_over_features(x: Array, kernel: Kernel, direct: bool) -> bool:
    """Tell whether distances are summed over features, not a matrix product."""
    return direct or kernel.metric == "manhattan" or x.shape[1] <= DIRECT_DIM


def tile_distances(x: Cells, y: Cells, on_diagonal: Array | None, kernel: Kernel, direct: bool) -> Array:
    """Return distances ``[R, C]`` as the kernel takes them; exactly zero `on_diagonal`, between a cell and itself."""
    if kernel.metric == "manhattan":
        distances = summed_over_features(x.rows, y.rows, jnp.abs)
    elif sums_over_features(x.rows, kernel, direct):
        distances = summed_over_features(x.rows, y.rows, jnp.square)
    else:
        distances = gram_distances(x.x, y.x, x.square, y.square)
    if on_diagonal is None:
        return distances
    # rounding must not leave a distance between a cell and itself
    return jnp.where(on_diagonal, 0.0, distances)


def _gradient(x: Array, y: Array, g: Array, wanted: Wanted) -> tuple[Array | None, Array | None]:
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

    def gradient(x: Array, y: Array, g: Array, wanted: Wanted) -> tuple[Array | None, Array | None]:
        def one_feature(feature: tuple[Array, Array]) -> tuple[Array, Array]:
            force = g * slope(feature[0][:, None] - feature[1][None, :])
            return (
                jnp.matmul(force, jnp.ones_like(feature[1]), precision=HIGHEST),
                -jnp.matmul(jnp.ones_like(feature[0]), force, precision=HIGHEST),
            )

        dx, dy = jax.lax.map(one_feature, (x.T, y.T))
        return (dx.T if wanted.x else None), (dy.T if wanted.y else None)

    return gradient
