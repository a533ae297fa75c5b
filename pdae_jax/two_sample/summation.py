"""Sums that keep the digits rounding takes off: for numbers that are small differences of large sums."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Sum(NamedTuple):
    """A number in two parts: its value is ``high + low``; gradients flow through `high`."""

    high: Float[Array, ""]
    low: Float[Array, ""]

    def __add__(self, other: "Sum") -> "Sum":  # type: ignore[override]
        high, error = two_sum(self.high, other.high)
        return Sum(high, self.low + other.low + error)

    def times(self, power_of_two: float) -> "Sum":
        """Multiply, exactly for plus or minus a power of two."""
        return Sum(power_of_two * self.high, power_of_two * self.low)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``a + b`` rounded, and what rounding took off (Knuth 1969)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def compensated_sum(a: Float[Array, " n"]) -> Float[Array, ""]:
    """Return the sum of a vector to the last digit, whatever its length; the gradient is that of a sum.

    Errors of the sums are summed beside them (Ogita, Rump & Oishi, SIAM J. Sci. Comput. 26, 2005), pair by pair.
    """
    high, low = sum_of_parts(a, jnp.zeros_like(a))
    return high + jax.lax.stop_gradient(low)


def sum_of_parts(high: Array, low: Array) -> tuple[Array, Array]:
    """Return the sum of a vector, its rounding errors kept."""
    while len(high) > 1:
        if len(high) % 2:
            high, low = (jnp.pad(a, (0, 1)) for a in (high, low))
        high, error = two_sum(high[::2], high[1::2])
        low = low[::2] + low[1::2] + error
    return high[0], low[0]
