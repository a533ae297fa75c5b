"""Multi-layer perceptron, alone or beside a linear map; nothing about perturbations here."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.types import AnyArray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "leaky_relu": nn.leaky_relu,
}


class Dense(nn.Module):
    """``x -> x kernel + bias``; zero until `make_mlp` draws its start."""

    in_dim: int
    out_dim: int

    def setup(self):
        self.kernel = self.param("kernel", nn.initializers.zeros, (self.in_dim, self.out_dim))
        self.bias = self.param("bias", nn.initializers.zeros, (self.out_dim,))

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        return x @ self.kernel + self.bias


class MLP(nn.Module):
    """``x -> MLP(x)``, or ``x -> x A + b + MLP(x)`` with `linear_skip`; `make_mlp` draws its start."""

    hidden: Sequence[int]
    out_dim: int
    activation: str
    linear_skip: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        h = x
        for i, width in enumerate(self.hidden):
            h = ACTIVATIONS[self.activation](Dense(h.shape[-1], width, name=f"hidden_{i}")(h))
        out = Dense(h.shape[-1], self.out_dim, name="out")
        if not self.linear_skip:
            return out(h)
        skip = Dense(x.shape[-1], self.out_dim, name="skip")
        # one product: the sum of two would pass through all that comes out once more
        both = jnp.concatenate([h, x], axis=-1) @ jnp.concatenate([out.kernel, skip.kernel])
        return both + (out.bias + skip.bias)


def _spread(layer: str, near_zero: bool) -> float:
    """Standard deviation of a layer's kernel at the start, times the root of its inputs.

    He et al. (2015) for hidden layers.
    """
    if layer == "out" and near_zero:
        return 0.01
    return 2**0.5 if layer.startswith("hidden") else 1.0


def with_skip(params: dict, kernel: AnyArray, bias: AnyArray) -> dict:
    """Return the parameters of an `MLP`, its linear part set."""
    return {**params, "skip": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}


def with_share(params: dict, share: AnyArray | float) -> dict:
    """Return the parameters of an `MLP`, and of those inside it, with outputs beside the linear part times `share`."""
    inner = {"scale": with_share(params["scale"], share)} if "scale" in params else {}
    return {**params, **inner, "out": {**params["out"], "kernel": share * params["out"]["kernel"]}}


def unraveller(shapes: Any) -> tuple[int, Callable[[Float[Array, " numbers"]], Any]]:
    """Find how many numbers a pytree of these shapes has, and the function that makes one of a vector."""
    leaves, treedef = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def unravel(vector: Float[Array, " numbers"]) -> Any:
        parts = jnp.split(vector, ends[:-1])
        return treedef.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    return int(ends[-1]), unravel


def make_mlp(
    in_dim: int,
    out_dim: int,
    *,
    hidden: Sequence[int],
    activation: str,
    linear_skip: bool,
    near_zero: bool | None = None,
) -> tuple[Callable, Callable]:
    """Make an `MLP` as a pair of pure functions, ``init(key) -> params`` and ``apply(params, x)``.

    With `near_zero`, the default beside a linear map, the MLP starts near zero.
    """
    near_zero = linear_skip if near_zero is None else near_zero
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is not known; pass one of {', '.join(ACTIVATIONS)}.")
    network = MLP(tuple(hidden), out_dim, activation, linear_skip)

    @functools.cache
    def shape() -> dict:
        return jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, in_dim), np.float32))["params"]

    def init(key: Array) -> dict:
        # one draw for all kernels: a draw for each would be most of what is compiled before training
        size, unravel = unraveller(shape())
        draws = unravel(jax.random.normal(key, (size,)))
        return {name: start(layer, _spread(name, near_zero)) for name, layer in draws.items()}

    def start(draws: dict, spread: float) -> dict:
        kernel = draws["kernel"]
        return {"kernel": spread * kernel / len(kernel) ** 0.5, "bias": jnp.zeros_like(draws["bias"])}

    def apply(params: dict, x: Array) -> Array:
        # as one matrix of rows: of more axes XLA lowers the gradient of a kernel to a transpose and a slow product
        rows: Any = network.apply({"params": params}, x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], out_dim)

    return init, jax.named_call(apply, name="mlp")
