"""Batches drawn on the device, by condition: S sources of m cells, T targets of n cells."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
    return DeviceData(
        x=jnp.asarray((data.x if x is None else x)[order]),
        start=jnp.asarray(np.cumsum(counts) - counts, dtype=jnp.int32),
        count=jnp.asarray(counts, dtype=jnp.int32),
        labels=jnp.asarray(data.labels),
    )


def bootstrap_rows(key: Array, data: DeviceData) -> Int[Array, " cells"]:
    """As many cells of each condition as there are, drawn with replacement: for `DeviceData.rows`."""
    condition = jnp.repeat(jnp.arange(len(data.count)), data.count, total_repeat_length=data.x.shape[0])
    return data.start[condition] + jax.random.randint(key, condition.shape, 0, data.count[condition])


def balanced_sample(key: Array, data: DeviceData, cells: int) -> tuple[Array, Array]:
    """`cells` of each condition, drawn with replacement, and their labels: ``[conditions * cells, ...]``."""
    num_conditions = data.labels.shape[0]
    row = data.start[:, None] + jax.random.randint(key, (num_conditions, cells), 0, data.count[:, None])
    row = row.reshape(-1)
    x = data.x[row if data.rows is None else data.rows[row]]
    return x, jnp.repeat(data.labels, cells, axis=0)


def make_sampler(
    num_conditions: int, *, num_sources: int, cells_per_source: int, num_targets: int, cells_per_target: int
) -> Callable[[Array, DeviceData], Batch]:
    """``sample(key, data) -> Batch``; conditions without, cells with replacement.

    Every condition is drawn equally often, whatever its size. Numbers of sources or targets above the number of
    conditions are cut to it.
    """
    num_sources, num_targets = min(num_sources, num_conditions), min(num_targets, num_conditions)

    def draw(key: Array, data: DeviceData, number: int, cells: int) -> tuple[Array, Array]:
        key_condition, key_cell = jax.random.split(key)
        if number == num_conditions:
            chosen = jnp.arange(num_conditions)
        else:
            chosen = jax.random.choice(key_condition, num_conditions, (number,), replace=False)
        count = data.count[chosen][:, None]
        row = jax.random.randint(key_cell, (number, cells), 0, count)
        row = data.start[chosen][:, None] + row
        return data.x[row if data.rows is None else data.rows[row]], data.labels[chosen]

    def sample(key: Array, data: DeviceData) -> Batch:
        key_source, key_target = jax.random.split(key)
        x_source, label_source = draw(key_source, data, num_sources, cells_per_source)
        x_target, label_target = draw(key_target, data, num_targets, cells_per_target)
        return Batch(x_source, label_source, x_target, label_target)

    return sample
