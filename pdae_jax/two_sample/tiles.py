"""The layout of tiles: which cells lie in one, and which pairs of tiles a sum over pairs of cells needs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pdae_jax.two_sample.distances import DIRECT_DIM

# Rows of a tile: on a CPU its distances (4 MB in float32) stay in cache; an accelerator wants larger products.
TILE_CPU, TILE_CPU_WIDE, TILE_ACCELERATOR = 1000, 500, 4000
WIDE = 100  # features above which small tiles, hence nearly half the work, beat large products


def tile_rows(n: int, d: int) -> int:
    """Return rows of a tile; one tile takes all pairs of a sample, two or more nearly half of them.

    Few features are split early: there is no matrix product that would suffer.
    """
    if jax.default_backend() != "cpu":
        return TILE_ACCELERATOR
    if d > WIDE:
        return TILE_CPU_WIDE
    return math.ceil(n / 2) if d <= DIRECT_DIM and TILE_CPU // 4 < n <= TILE_CPU else TILE_CPU


def tiled(a: Array, side: int) -> Array:
    """Return ``[n, ...] -> [tiles, rows, ...]``, zeros at the end of tiles; a tile takes every tiles-th row.

    So every tile has rows of all devices, where rows are spread over several, and each has the same work.
    """
    num_tiles = math.ceil(len(a) / side)
    rows = math.ceil(len(a) / num_tiles)
    padded = jnp.pad(a, ((0, num_tiles * rows - len(a)), *((0, 0),) * (a.ndim - 1)))
    return jnp.moveaxis(padded.reshape(rows, num_tiles, *a.shape[1:]), 1, 0)


def untiled(tiles: Array | None, n: int) -> Array | None:
    """Return the inverse of `tiled`: ``[tiles, rows, ...] -> [n, ...]``."""
    return None if tiles is None else jnp.moveaxis(tiles, 0, 1).reshape(-1, *tiles.shape[2:])[:n]


def tile_pairs(num_x: int, num_y: int, within: bool, dtype: jnp.dtype) -> tuple[Array, Array, Array]:
    """List the indices of the tiles to take, and how often each counts."""
    if within:
        first, second = np.triu_indices(num_x)
        return jnp.asarray(first), jnp.asarray(second), jnp.asarray(np.where(first == second, 1.0, 2.0), dtype)
    first, second = (a.ravel() for a in np.meshgrid(np.arange(num_x), np.arange(num_y), indexing="ij"))
    return jnp.asarray(first), jnp.asarray(second), jnp.ones(len(first), dtype)
