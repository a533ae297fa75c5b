"""Keys of JAX, and NumPy's generator of one: for draws on the host, where there is nothing to compile."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_USUAL = "threefry2x32"

STREAMS = 2  # how a fit has the keys of all that it draws from the one it is given, `key_of_fit`
_OF_A_FIT = 0x70646165  # further than anybody counts


def key_of_fit(key: Array, streams: int = STREAMS) -> Array:
    """Return what a fit with this key splits for all that it draws.

    In this JAX ``split(key, n)[i]`` is ``fold_in(key, i)``, and replica `r` of a population has ``fold_in(key, r)``. So
    a fit that split its own key, as they did until November 2026 (`streams` is 1), had the key of replica 1 for its
    steps, and that of replica 3 for its bootstrap.
    """
    return key if streams == 1 else jax.random.fold_in(key, _OF_A_FIT)


def key_record(key: Array) -> dict[str, Any]:
    """Return a key as plain values, for JSON; of JAX's usual kind of keys without its name."""
    kind, data = str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()
    return {"key": data} if kind == _USUAL else {"key": data, "key_kind": kind}


def recorded_key(record: Mapping[str, Any]) -> Array:
    """Return the key of a `key_record`."""
    data = jnp.asarray(record["key"], dtype=jnp.uint32)
    return jax.random.wrap_key_data(data, impl=record.get("key_kind", _USUAL))


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
    """Make NumPy's generator, seeded by a typed PRNG key."""
    check_key(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def is_exact_side_by_side(key: Array) -> bool:
    """Tell whether a draw in `jax.vmap` over keys of this kind is that of each key by itself.

    Of ``rbg`` and ``unsafe_rbg`` keys it is not: the first key alone decides what all of them draw.
    """
    return str(jax.random.key_impl(key)) == _USUAL


def is_key(leaf: Any) -> bool:
    """Tell whether an array, or its shape, is of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
