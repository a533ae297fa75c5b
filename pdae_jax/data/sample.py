"""Batches drawn on the device, by condition: S sources of m cells, T targets of n cells."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from pdae_jax.types import Batch, PerturbationData


class DeviceData(NamedTuple):
    """Cells sorted by condition, so that a condition is a slice; ready to be indexed inside `jit`."""

    x: Float[Array, "cells features"]
    start: Int[Array, " conditions"]  # first row of each condition
    count: Int[Array, " conditions"]  # rows of each condition
    labels: Float[Array, "conditions perturbations"]
    rows: Int[Array, " cells"] | None = None  # rows of x to draw instead of all: a bootstrap sample of each condition


def to_device(data: PerturbationData, x: Float[np.ndarray, "cells features"] | None = None) -> DeviceData:
    """Data for the sampler; `x` replaces the observations (standardised, say)."""
    order = np.argsort(data.condition_index, kind="stable")
    counts = data.counts
    put = jax.device_put  # at once, where jnp.asarray compiles a conversion for each dtype
    return DeviceData(
        x=put((data.x if x is None else x)[order]),
        start=put((np.cumsum(counts) - counts).astype(np.int32)),
        count=put(counts.astype(np.int32)),
        labels=put(data.labels),
    )


def bootstrap_rows(key: Array, data: DeviceData) -> Int[Array, " cells"]:
    """As many cells of each condition as there are, drawn with replacement: for `DeviceData.rows`."""
    condition = jnp.repeat(jnp.arange(len(data.count)), data.count, total_repeat_length=data.x.shape[0])
    return data.start[condition] + jax.random.randint(key, condition.shape, 0, data.count[condition])


def balanced_rows(random: np.random.Generator, data: PerturbationData, cells: int) -> Int[np.ndarray, " rows"]:
    """Rows of `cells` cells of each condition, drawn with replacement."""
    by_condition, counts = np.argsort(data.condition_index, kind="stable"), data.counts
    chosen = random.integers(counts[:, None], size=(len(counts), cells))
    return by_condition[(np.cumsum(counts) - counts)[:, None] + chosen].ravel()


def balanced_sample(key: Array, data: DeviceData, cells: int) -> tuple[Array, Array]:
    """`cells` of each condition, drawn with replacement, and their labels: ``[conditions * cells, ...]``."""
    condition = jnp.arange(data.labels.shape[0])
    x = cells_of(data, condition, jax.random.bits(key, (len(condition), cells), jnp.uint32))
    return x.reshape(-1, x.shape[-1]), jnp.repeat(data.labels, cells, axis=0)


def cells_of(data: DeviceData, condition: Int[Array, " s"], bits: UInt32[Array, "s m"]) -> Float[Array, "s m features"]:
    """Cells of conditions, chosen by random bits, with replacement.

    A remainder, not `jax.random.randint`: with that, half of what is compiled for a step of a small model would be
    random numbers. It favours the first cells of a condition by less than their number over 2^32.
    """
    row = (bits % data.count[condition][:, None].astype(bits.dtype)).astype(jnp.int32)
    row = row + data.start[condition][:, None]
    return data.x[row if data.rows is None else data.rows[row]]


def make_sampler(
    num_conditions: int, *, num_sources: int, cells_per_source: int, num_targets: int, cells_per_target: int
) -> Callable[[Array, DeviceData], Batch]:
    """``sample(key, data) -> Batch``; conditions without, cells with replacement.

    Every condition is drawn equally often, whatever its size. Numbers of sources or targets above the number of
    conditions are cut to it.
    """
    num_sources, num_targets = min(num_sources, num_conditions), min(num_targets, num_conditions)
    chooses = min(num_sources, num_targets) < num_conditions

    def choose(key: Array, number: int) -> Array:
        if number == num_conditions:
            return jnp.arange(num_conditions)
        return jax.random.choice(key, num_conditions, (number,), replace=False)

    def sample(key: Array, data: DeviceData) -> Batch:
        # where no condition is chosen one key is enough: each split is compiled and run by itself
        key_source, key_target, key_cells = jax.random.split(key, 3) if chooses else (key, key, key)
        source, target = choose(key_source, num_sources), choose(key_target, num_targets)
        number = num_sources * cells_per_source + num_targets * cells_per_target
        bits = jax.random.bits(key_cells, (number,), jnp.uint32)
        bits_source, bits_target = jnp.split(bits, [num_sources * cells_per_source])
        return Batch(
            x_source=cells_of(data, source, bits_source.reshape(num_sources, cells_per_source)),
            label_source=data.labels[source],
            x_target=cells_of(data, target, bits_target.reshape(num_targets, cells_per_target)),
            label_target=data.labels[target],
        )

    return sample
