"""Keys of JAX, and NumPy's generator of one: for draws on the host, where there is nothing to compile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def make_random(key: Array) -> np.random.Generator:
    """NumPy's generator, seeded by a typed PRNG key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def is_key(leaf: Any) -> bool:
    """Whether an array, or its shape, is of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
