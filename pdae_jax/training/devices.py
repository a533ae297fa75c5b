"""Several devices: of one fit they share the batches, of a population the members.

The devices of a fit may be those of several processes, each of which calls `fit` with the same arguments
(`jax.distributed`). What differs between processes, such as a folder that only the first can see, is that of the first.
"""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pdae_jax.compiled import as_written
from pdae_jax.randomness import is_key
from pdae_jax.settings import Whole

AXIS = "devices"
T = TypeVar("T")
R = TypeVar("R")


class Devices(NamedTuple):
    """Some devices; hashable, as a compiled step depends on them."""

    mesh: Mesh

    @property
    def number(self) -> int:
        return self.mesh.size

    @property
    def of_others(self) -> bool:
        """True where other processes have some of them."""
        return not NamedSharding(self.mesh, PartitionSpec()).is_fully_addressable

    @property
    def writes(self) -> bool:
        """True in the process that has a folder."""
        return not self.of_others or jax.process_index() == 0

    def everywhere(self, tree: Any) -> Any:
        """Put the same arrays on all devices; those of the first process."""
        return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(self.mesh, PartitionSpec())), self.of_first(tree))

    def spread(self, tree: Any) -> Any:
        """Return arrays whose first axis, of as many entries as there are devices or a multiple, is spread over
        them.
        """
        return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(self.mesh, PartitionSpec(AXIS))), tree)

    def split(self, array: jax.Array) -> jax.Array:
        """Split, inside `jit`, the first axis of an array over the devices."""
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def joined(self, array: jax.Array) -> jax.Array:
        """Give, inside `jit`, an array to all devices."""
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec()))

    def one_copy(self, tree: Any) -> Any:
        """Return, on one device of this process, what `everywhere` has put on all, or was computed from it."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def of_first(self, tree: Any) -> Any:
        """Return the arrays of the first process, in all of them."""
        if not self.of_others:
            return tree
        numbers = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)
        found = multihost_utils.broadcast_one_to_all(numbers)
        return jax.tree.map(
            lambda leaf, value: (
                jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf)) if is_key(leaf) else value
            ),
            tree,
            found,
        )

    def number_of_first(self, number: int) -> int:
        """Return a number of the first process, in all of them."""
        return int(self.of_first(np.array(number)))

    def any_of(self, flag: bool) -> bool:
        """Tell whether it is set in any process."""
        return bool(np.any(multihost_utils.process_allgather(np.array(flag)))) if self.of_others else flag


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if is_key(leaf):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def make_devices(number: int) -> Devices:
    """Choose devices to share a fit: the first of this process, or all of all processes.

    Raises:
        ValueError: there are not so many, or some processes would have none of them.
    """
    found = jax.devices()
    chosen = _first(number, found, "JAX")
    if jax.process_count() > 1 and number < len(found):
        raise ValueError(
            f"devices={number}, but the {jax.process_count()} processes have {len(found)} together. Pass {len(found)}: "
            f"they share a fit with all their devices, or None: each has a fit of its own."
        )
    return Devices(Mesh(np.array(chosen), (AXIS,)))


def own_devices() -> Devices:
    """Return all devices of this process."""
    return Devices(Mesh(np.array(jax.local_devices()), (AXIS,)))


def local_devices(number: int) -> list[Any]:
    """Return so many devices of this process.

    Raises:
        ValueError: there are not so many.
    """
    return _first(number, jax.local_devices(), "this process")


def _first(number: int, found: list[Any], owner: str) -> list[Any]:
    if not 1 <= number <= len(found):
        kind = found[0].device_kind
        raise ValueError(
            f"devices={number}, but {owner} has {len(found)} of kind {kind!r} here. Pass 1 to {len(found)}."
        )
    return found[:number]


def on_devices(function: Callable[[T], R], items: Sequence[T], devices: Sequence[Any]) -> Iterator[R]:
    """Apply the function to each item, in their order; every device has one at a time, in a thread of its own.

    The first item comes before all others: what is computed once for all is then there.
    """
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def on_a_device(item: T) -> R:
        device = free.get()
        try:
            with jax.default_device(device), as_written():  # of this thread
                return function(item)
        finally:
            free.put(device)

    yield from map(on_a_device, items[:1])
    with ThreadPoolExecutor(len(devices)) as pool:
        yield from pool.map(on_a_device, items[1:])


def shared_by(devices: int | None, num_targets: int, in_files: bool) -> Devices | None:
    """Return the devices that share the batches of a fit; None: it has one device.

    Raises:
        ValueError: they cannot.
    """
    devices = None if devices is None else Whole(1, "a fit needs at least one").checked("devices", devices)
    if devices is None or devices == 1:
        return None
    if num_targets % devices:
        raise ValueError(
            f"devices={devices}, but a batch has {num_targets} targets, which they cannot share evenly. Pass a number "
            f"of devices that divides it, or another num_targets (at most one a condition)."
        )
    if in_files:
        raise ValueError(f"devices={devices}, and the cells stay in files: these are read for one device. Pass 1.")
    return make_devices(devices)
