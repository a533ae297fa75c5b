"""Multi-layer perceptron, alone or beside a linear map; nothing about perturbations here."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "leaky_relu": nn.leaky_relu,
}


class MLP(nn.Module):
    """``x -> MLP(x)``, or ``x -> x A + b + MLP(x)`` with `linear_skip`.

    With the skip the last layer of the MLP starts near zero: the network starts as its linear part.
    """

    hidden: Sequence[int]
    out_dim: int
    activation: str = "relu"
    linear_skip: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        h = x
        for i, width in enumerate(self.hidden):
            h = ACTIVATIONS[self.activation](
                nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"hidden_{i}")(h)
            )
        near_zero = nn.initializers.variance_scaling(1e-4, "fan_in", "normal")
        last = near_zero if self.linear_skip else nn.initializers.lecun_normal()
        out = nn.Dense(self.out_dim, kernel_init=last, name="out")(h)
        return out + nn.Dense(self.out_dim, name="skip")(x) if self.linear_skip else out


def with_skip(params: dict, kernel: Array, bias: Array) -> dict:
    """The parameters of an `MLP`, its linear part set."""
    return {**params, "skip": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}


def make_mlp(
    in_dim: int, out_dim: int, *, hidden: Sequence[int], activation: str, linear_skip: bool
) -> tuple[Callable, Callable]:
    """An `MLP` as a pair of pure functions, ``init(key) -> params`` and ``apply(params, x)``."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is not known; pass one of {', '.join(ACTIVATIONS)}.")
    network = MLP(tuple(hidden), out_dim, activation, linear_skip)

    def init(key: Array) -> dict:
        return dict(network.init(key, jnp.zeros((1, in_dim)))["params"])

    def apply(params: dict, x: Array) -> Array:
        return network.apply({"params": params}, x)  # pyright: ignore[reportReturnType]

    return init, jax.named_call(apply, name="mlp")
