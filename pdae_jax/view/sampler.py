r"""Batches drawn on the device, by condition: S sources of m cells, T targets of n cells.

Cells of a batch are distinct wherever a condition has enough of them: a cell that stands twice in a sample is at
distance zero from itself, and takes :math:`1 / N` off the spread of `N` cells. They are drawn one from each of `m`
equal parts of the condition, which lies in random order on a circle and is entered at random: every cell is in a batch
with the same probability, and nothing is sorted or kept from step to step. Of fewer than `m` cells each comes as often
as another, but for one time, and `Batch.same_source` says how many pairs are of one cell.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from pdae_jax.design.design import Design
from pdae_jax.types import PerturbationData
from pdae_jax.view.view import View


class DeviceData(NamedTuple):
    """Cells sorted by condition, so that a condition is a slice; ready to be indexed inside `jit`."""

    x: Float[Array, "cells features"] | None  # None: in files, see `view.stream`
    start: Int[Array, " conditions"]  # first row of each condition
    count: Int[Array, " conditions"]  # rows of each condition
    labels: Float[Array, "conditions perturbations"]
    rows: Int[Array, " cells"] | None = None  # rows of x to draw instead of all: a bootstrap sample of each condition
    size: Float[Array, " cells"] | None = None  # factor of each cell, where the model sees counts
    view: View | None = None  # that the cells went through, where they have sizes


class Batch(NamedTuple):
    """Cells of S source conditions to be translated to T target conditions."""

    x_source: Float[Array, "sources m features"]
    label_source: Float[Array, "sources perturbations"]
    x_target: Float[Array, "targets n features"]
    label_target: Float[Array, "targets perturbations"]
    source: Int[Array, " sources"]  # rows of the source conditions
    same_source: Float[Array, " sources"] | None = None  # chance that two of the m rows are one cell; None: 1 / m
    size: Float[Array, "sources m"] | None = None  # of the source cells, and their view: as in `DeviceData`
    view: View | None = None


def to_device(
    data: PerturbationData,
    view: View | None = None,
    design: Design | None = None,
    *,
    order: Int[np.ndarray, " cells"] | None = None,
) -> DeviceData:
    """Put data on the device for the sampler.

    Args:
        data: cells as `make_view` gives them.
        view: whose units are the model's; None: cells stay as they are.
        design: whose rows are the model's labels; None: labels stay as they are.
        order: rows of the data, sorted by condition, whose cells stay where they are; None: all cells are put on the
            device, in random order within conditions.
    """
    counts, units = data.counts, None if view is None else view.units
    put = jax.device_put  # at once, where jnp.asarray compiles a conversion for each dtype
    x = None
    if order is None:
        order = sampling_order(data.condition_index)
        cells = data.x[order]
        x = put(cells if units is None else units.forward(cells).astype(np.float32))
    size = None if units is None else data.sizes(order)
    return DeviceData(
        x=x,
        start=put((np.cumsum(counts) - counts).astype(np.int32)),
        count=put(counts.astype(np.int32)),
        labels=put(data.labels if design is None else design.row(data.labels)),
        size=put(size),
        view=None if size is None else put(view),
    )


def padded_to(data: DeviceData, rows: int) -> DeviceData:
    """Pad the data with more rows of cells, which belong to no condition and are never drawn."""
    assert data.x is not None
    more = rows - len(data.x)
    if not more:
        return data
    size = data.size if data.size is None else jnp.pad(jnp.asarray(data.size), (0, more), constant_values=1)
    return data._replace(x=jnp.pad(data.x, ((0, more), (0, 0))), size=size)


def sampling_order(condition_index: Int[np.ndarray, " cells"]) -> Int[np.ndarray, " cells"]:
    """Return rows as the sampler has them: the same in every run, and random, as cells of a condition may come
    sorted.
    """
    return _by_condition(np.random.default_rng(0), condition_index)


def bootstrap_rows(key: Array, data: DeviceData) -> Int[Array, " cells"]:
    """Draw as many cells of each condition as there are, with replacement: for `DeviceData.rows`."""
    number = int(np.sum(data.count))
    condition = jnp.repeat(jnp.arange(len(data.count)), data.count, total_repeat_length=number)
    return data.start[condition] + jax.random.randint(key, condition.shape, 0, data.count[condition])


def balanced_rows(
    random: np.random.Generator, condition_index: Int[np.ndarray, " all"], cells: int
) -> Int[np.ndarray, " rows"]:
    """Choose rows of `cells` cells of each condition, distinct as long as they last, then all over again.

    Args:
        random: draws them.
        condition_index: condition of each cell there is; every condition has one.
        cells: of each condition.
    """
    counts = np.bincount(condition_index)
    chosen = np.arange(cells) % counts[:, None]
    return _by_condition(random, condition_index)[(np.cumsum(counts) - counts)[:, None] + chosen].ravel()


def _by_condition(random: np.random.Generator, condition_index: Int[np.ndarray, " cells"]) -> np.ndarray:
    """Rows sorted by condition, in random order within each."""
    shuffled = random.permutation(len(condition_index))
    return shuffled[np.argsort(condition_index[shuffled], kind="stable")]


def rows_of(data: DeviceData, condition: Int[Array, " s"], bits: UInt32[Array, "s bits"]) -> Int[Array, "s m"]:
    """Choose rows of cells of conditions, chosen by random bits, one for each and one more: distinct where there are so
    many.

    Remainders, not `jax.random.randint`: with that, half of what is compiled for a step of a small model would be
    random numbers. They favour the first cells of a part by less than their number over 2^32.
    """
    m = bits.shape[1] - 1
    count = data.count[condition][:, None].astype(bits.dtype)
    edge = jnp.arange(m + 1, dtype=bits.dtype) * count // m  # of m parts of the condition
    size = jnp.maximum(edge[:, 1:] - edge[:, :-1], 1)  # of fewer cells than parts a part is empty: the next cell
    place = (edge[:, :-1] + bits[:, 1:] % size + bits[:, :1] % count) % count
    row = place.astype(jnp.int32) + data.start[condition][:, None]
    return row if data.rows is None else data.rows[row]


def chance_of_one_cell(count: Int[Array, " s"], m: int) -> Float[Array, " s"]:
    """Return the chance that two of `m` rows drawn by `rows_of` are one cell: 1 / m where there are `m` cells or
    more.
    """
    count = jnp.maximum(count, 2)  # one cell has no pairs, and no spread to correct
    times, more = m // count, m % count
    return (count * times**2 + more * (2 * times + 1)).astype(jnp.float32) / m**2


class Drawn(NamedTuple):
    """Conditions of a batch, and rows of `DeviceData.x`."""

    source: Int[Array, " sources"]
    target: Int[Array, " targets"]
    rows_source: Int[Array, "sources m"]
    rows_target: Int[Array, "targets n"]


def make_draw(
    num_conditions: int, *, num_sources: int, cells_per_source: int, num_targets: int, cells_per_target: int
) -> Callable[[Array, DeviceData], Drawn]:
    """Make ``draw(key, data) -> Drawn``: which cells a batch has; of the data it needs no cell."""
    num_sources, num_targets = min(num_sources, num_conditions), min(num_targets, num_conditions)
    chooses = min(num_sources, num_targets) < num_conditions

    def choose(key: Array, number: int) -> Array:
        if number == num_conditions:
            return jnp.arange(num_conditions)
        return jax.random.choice(key, num_conditions, (number,), replace=False)

    def draw(key: Array, data: DeviceData) -> Drawn:
        # where no condition is chosen one key is enough: each split is compiled and run by itself
        key_source, key_target, key_cells = jax.random.split(key, 3) if chooses else (key, key, key)
        source, target = choose(key_source, num_sources), choose(key_target, num_targets)
        shapes = (num_sources, 1 + cells_per_source), (num_targets, 1 + cells_per_target)
        number_source, number_target = (rows * columns for rows, columns in shapes)
        bits = jax.random.bits(key_cells, (number_source + number_target,), jnp.uint32)
        bits_source, bits_target = jnp.split(bits, [number_source])
        return Drawn(
            source,
            target,
            rows_of(data, source, bits_source.reshape(shapes[0])),
            rows_of(data, target, bits_target.reshape(shapes[1])),
        )

    return draw


def make_sampler(num_conditions: int, **sizes: int) -> Callable[[Array, DeviceData], Batch]:
    """Make ``sample(key, data) -> Batch``; conditions without replacement, and cells where a condition has enough.

    Every condition is drawn equally often, whatever its size. Numbers of sources or targets above the number of
    conditions are cut to it. The batch follows from the key alone. `sizes` are those of `make_draw`.
    """
    draw = make_draw(num_conditions, **sizes)

    def sample(key: Array, data: DeviceData) -> Batch:
        assert data.x is not None
        drawn = draw(key, data)
        rows = drawn.rows_source
        return Batch(
            x_source=data.x[rows],
            label_source=data.labels[drawn.source],
            x_target=data.x[drawn.rows_target],
            label_target=data.labels[drawn.target],
            source=drawn.source,
            same_source=chance_of_one_cell(data.count[drawn.source], rows.shape[1]),
            size=None if data.size is None else data.size[rows],
            view=data.view,
        )

    return sample
