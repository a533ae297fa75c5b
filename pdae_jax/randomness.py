"""NumPy's generator of a JAX key: draws on the host, where there is nothing to compile."""

import jax
import numpy as np
from jaxtyping import Array


def make_random(key: Array) -> np.random.Generator:
    """NumPy's generator, seeded by a typed PRNG key: for draws on the host, where there is nothing to compile."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
