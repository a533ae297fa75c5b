"""Several devices: of one fit they share the batches, of a population the members."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "devices"


class Devices(NamedTuple):
    """Some devices of this process; hashable, as a compiled step depends on them."""

    mesh: Mesh

    def everywhere(self, tree: Any) -> Any:
        """The same arrays on all devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def spread(self, tree: Any) -> Any:
        """Arrays whose first axis, of as many entries as there are devices or a multiple, is spread over them."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(_AXIS)))

    def split(self, array: jax.Array) -> jax.Array:
        """Inside `jit`: an array whose first axis the devices share."""
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec(_AXIS)))


@functools.lru_cache(maxsize=8)
def make_devices(number: int) -> Devices:
    """The first devices of this process.

    Raises:
        ValueError: there are not so many.
    """
    found = jax.local_devices()
    if not 1 <= number <= len(found):
        raise ValueError(f"devices={number}, but JAX has {len(found)} of kind {found[0].device_kind!r} here.")
    return Devices(Mesh(np.array(found[:number]), (_AXIS,)))


def check_share(devices: int | None, num_targets: int, in_files: bool) -> None:
    """``ValueError`` where devices cannot share the batches of a fit."""
    if devices is None or devices == 1:
        return
    if devices < 1:
        raise ValueError(f"devices={devices}, but a fit needs at least one.")
    if num_targets % devices:
        raise ValueError(
            f"devices={devices}, but a batch has {num_targets} targets, which they cannot share evenly. Pass a number "
            f"of devices that divides it, or another num_targets (at most one a condition)."
        )
    if in_files:
        raise ValueError(f"devices={devices}, and the cells stay in files: these are read for one device. Pass 1.")
