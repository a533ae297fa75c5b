"""Keys of JAX, and NumPy's generator of one: for draws on the host, where there is nothing to compile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def check_key(key: Any, name: str = "key") -> None:
    """Refuse what is not one typed PRNG key, with the way to make one.

    Raises:
        TypeError: a number, an old-style key of numbers, several keys, or something else.
    """
    if isinstance(key, jax.Array) and is_key(key):
        if key.ndim:
            raise TypeError(f"{name} is an array of {key.size} keys. Pass one of them, {name}[0].")
        return
    if isinstance(key, int | np.integer):
        raise TypeError(f"{name} is {key} ({type(key).__name__}). Pass jax.random.key({key}).")
    if getattr(key, "dtype", None) == np.uint32:
        raise TypeError(
            f"{name} is an old-style key, numbers of jax.random.PRNGKey. Pass jax.random.key(<seed>), or "
            f"jax.random.wrap_key_data({name})."
        )
    shown = "None" if key is None else f"a {type(key).__name__}"
    raise TypeError(f"{name} is {shown}, not a typed PRNG key. Pass jax.random.key(0).")


def make_random(key: Array) -> np.random.Generator:
    """NumPy's generator, seeded by a typed PRNG key."""
    check_key(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def is_key(leaf: Any) -> bool:
    """Whether an array, or its shape, is of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
