"""Cells that stay in files, brought to the device a few steps at a time.

Which cells a step draws follows from its key alone. So the rows of the next steps are drawn ahead, their cells are read
while the device is busy with those before, and the step sees a small `DeviceData` in which `DeviceData.rows` says where
each cell lies. It is the same step, with the same numbers, as that of cells in memory.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pdae_jax.cells import StoredCells
from pdae_jax.design.design import Design
from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import DeviceData, Drawn, make_draw, sampling_order, to_device
from pdae_jax.view.view import View

MAX_BYTES = 128 * 2**20  # of cells at once; as many are read ahead


class Streamed(NamedTuple):
    """The cells that a loop trains on where they stay in files; `DeviceData` where they do not."""

    data: PerturbationData
    view: View
    order: Int[np.ndarray, " cells"]  # rows of the data as the sampler numbers them
    index: DeviceData  # without cells
    draw: Callable[[Array, DeviceData], Drawn]
    keys: Callable[[Array, Array], Array]  # (key of the run, step) -> keys of the draws of that step


class Piece(NamedTuple):
    """The cells of some steps."""

    data: DeviceData
    num_steps: int


def feed(
    data: PerturbationData,
    view: View,
    design: Design,
    sizes: tuple[int, int, int, int],
    keys: Callable[[Array, Array], Array] | None = None,
) -> DeviceData | Streamed:
    """Feed training cells for a loop: all of them on the device, or, where they stay in files, those of a few steps.

    Args:
        data: training data as `make_view` gives them.
        view: whose units are the model's.
        design: whose rows are its labels.
        sizes: sources, cells of each, targets and cells of each in a step.
        keys: of the draws of a step, as the step makes them of the key of the run; None: `step_keys`.
    """
    if not isinstance(data.x, StoredCells):
        return to_device(data, view, design)
    order = sampling_order(data.condition_index)
    index = to_device(data, view, design, order=order)
    return Streamed(data, view, order, index, _draw(data.num_conditions, sizes), keys or step_keys)


def step_keys(key: Array, step: Array) -> Array:
    """Return the key of the one draw of a training step."""
    return jax.random.fold_in(key, 2 * step)[None]


def pieces(
    data: DeviceData | Streamed, key: Array, step: int | Int[np.ndarray, " replicas"], num_steps: int
) -> Iterator[Piece]:
    """Yield the cells of the next steps, piece by piece; the next piece is read while the caller works on one.

    Args:
        data: of `feed`.
        key: of the run, or ``[replicas]`` keys.
        step: the first of the steps, or that of each replica.
        num_steps: how many.
    """
    if not isinstance(data, Streamed):
        yield Piece(data, num_steps)
        return
    keys = jnp.atleast_1d(key)
    steps = jnp.broadcast_to(jnp.asarray(step, jnp.int32), keys.shape)
    rows = np.asarray(_rows(data.draw, data.keys, keys, steps, data.index, num_steps))
    most = max(1, MAX_BYTES // (4 * data.data.num_features * rows[0].size))
    size = next(n for n in range(min(most, num_steps), 0, -1) if num_steps % n == 0)  # one shape: one program
    parts = np.split(rows, num_steps // size)
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(_piece, data, parts[0], size)
        for part in (*parts[1:], None):
            piece = ahead.result()
            if part is not None:
                ahead = thread.submit(_piece, data, part, size)
            yield piece


def _piece(streamed: Streamed, rows: Int[np.ndarray, "..."], num_steps: int) -> Piece:
    """The cells of these rows on the device, each once, in room for as many as were drawn and one more.

    That one is NaN, and stands for all cells that were not drawn: a step that drew one would stop the run.
    """
    different = np.unique(rows)
    data, order = streamed.data, streamed.order[different]
    x = np.zeros((rows.size + 1, data.num_features), np.float32)
    x[-1] = np.nan
    x[: len(different)] = streamed.view.units.forward(data.x[order])
    place = np.full(data.num_cells, rows.size, np.int32)
    place[different] = np.arange(len(different), dtype=np.int32)
    index = streamed.index
    if index.rows is not None:  # a bootstrap sample
        place = place[np.asarray(index.rows)]
    if data.size_factors is not None:
        size = np.ones(rows.size + 1, np.float32)
        size[: len(different)] = data.size_factors[order]
        index = index._replace(size=jax.device_put(size))
    return Piece(index._replace(x=jax.device_put(x), rows=jax.device_put(place)), num_steps)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def _rows(
    draw: Callable, of_step: Callable, keys: Array, steps: Int[Array, " replicas"], index: DeviceData, num_steps: int
) -> Int[Array, "steps replicas rows"]:
    """Rows that the next steps draw, as the sampler numbers them."""

    def of_replica(number: Array, key: Array, step: Array) -> Array:
        def of_key(key: Array) -> Array:
            drawn = draw(key, index)
            return jnp.concatenate([drawn.rows_source.ravel(), drawn.rows_target.ravel()])

        return jax.vmap(of_key)(of_step(key, step + number)).ravel()

    of_replicas = jax.vmap(of_replica, in_axes=(None, 0, 0))
    return jax.vmap(of_replicas, in_axes=(0, None, None))(jnp.arange(num_steps), keys, steps)


@functools.lru_cache(maxsize=64)
def _draw(num_conditions: int, sizes: tuple[int, int, int, int]) -> Callable[[Array, DeviceData], Drawn]:
    num_sources, cells_per_source, num_targets, cells_per_target = sizes
    return make_draw(
        num_conditions,
        num_sources=num_sources,
        cells_per_source=cells_per_source,
        num_targets=num_targets,
        cells_per_target=cells_per_target,
    )
