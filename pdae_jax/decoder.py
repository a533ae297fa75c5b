"""The stochastic decoder `f(z, eps)`: latents and noise to observations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax.networks import make_mlp, with_skip


class Decoder(NamedTuple):
    """`f` as a pair of pure functions."""

    init: Callable  # (key, kernel [latent + noise, features], bias [features]) -> params, started at this linear map
    decode: Callable  # (params, key, z [..., latent]) -> x [..., features], with fresh noise


def make_decoder(
    latent_dim: int,
    num_features: int,
    *,
    noise_dim: int = 0,
    hidden: Sequence[int] = (128, 128, 128),
    activation: str = "relu",
    linear_skip: bool = True,
    floor: np.ndarray | None = None,
) -> Decoder:
    """An MLP of latents and standard normal noise, by default beside a linear map of both.

    Args:
        latent_dim: k.
        num_features: d.
        noise_dim: dimension of `eps`; 0 makes the decoder deterministic.
        hidden: widths.
        activation: a key of `networks.ACTIVATIONS`.
        linear_skip: whether the linear map is there.
        floor: smallest value per feature, ``[features]``: outputs below are set to it, so that a feature can have
            mass at exactly this value (zero counts). None: no floor.
    """
    init_mlp, apply = make_mlp(
        latent_dim + noise_dim, num_features, hidden=hidden, activation=activation, linear_skip=linear_skip
    )

    def init(key, kernel, bias):
        params = init_mlp(key)
        return with_skip(params, kernel, bias) if linear_skip else params

    def decode(params, key, z):
        if noise_dim:
            z = jnp.concatenate([z, jax.random.normal(key, (*z.shape[:-1], noise_dim), z.dtype)], axis=-1)
        x = apply(params, z)
        return x if floor is None else jnp.maximum(x, floor)

    return Decoder(init, decode)
