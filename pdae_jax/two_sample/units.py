"""A unit of length in which squares of distances neither overflow nor vanish, so that users may choose any other.

It is a power of two, which costs no digit; and 1 where values are of usual size. It is NaN where a value is NaN or
infinite: no comparison further on can take such a sample for a good one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Powers of two: largest values between 2^-32 and 2^32 have squares, and sums of them, well inside the range of float32.
USUAL = 32
FARTHEST = 100  # a unit and its inverse are normal numbers of float32


def unit_of(*samples: Float[Array, "..."]) -> Float[Array, ""]:
    """Find the unit of samples near the origin; a constant to derivatives."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(jax.lax.stop_gradient(x)), initial=0) for x in samples]))
    exponent = jnp.frexp(largest)[1]
    exponent = jnp.clip(jnp.where(jnp.abs(exponent) > USUAL, exponent, 0), -FARTHEST, FARTHEST)
    return jnp.where(jnp.isfinite(largest), jnp.ldexp(jnp.ones_like(largest), exponent), jnp.nan)


def unit_on_host(*samples: Float[np.ndarray, "..."]) -> float:
    """Find the unit of finite samples in float64."""
    exponent = int(np.frexp(max(float(np.max(np.abs(x), initial=0.0)) for x in samples))[1])
    return float(np.ldexp(1.0, exponent)) if abs(exponent) > USUAL else 1.0
