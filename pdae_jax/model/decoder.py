"""The decoder: latents to observations, deterministic or with noise that it draws; laws of the noise are in `noise`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax.model.networks import make_mlp, with_skip

MAX_LOG_SCALE = 0.5  # |log s| stays below: more let single cells run away, see experiments/lab/STUDIES.md
SCALE_WIDTH = 64


class Decoder(NamedTuple):
    """`f` as pure functions."""

    init: Callable  # (key, kernel [latent + noise, features], bias [features]) -> params, started at this linear map
    decode: Callable  # (params, key, z [..., latent]) -> x [..., features]; of carried noise its centre, `mu`
    scale: Callable  # (params, z [..., latent]) -> s [..., features], one at the start; of carried noise only


def make_decoder(
    latent_dim: int, num_features: int, *, has_scale: bool, noise_dim: int, hidden: Sequence[int], activation: str
) -> Decoder:
    """Make a linear map plus an MLP of latents, and of standard normal noise where that is drawn.

    Args:
        latent_dim: k.
        num_features: d.
        has_scale: whether there is a scale of carried noise.
        noise_dim: dimension of drawn noise; 0 makes the decoder deterministic.
        hidden: widths.
        activation: a key of `networks.ACTIVATIONS`.
    """
    init_mlp, apply = make_mlp(
        latent_dim + noise_dim, num_features, hidden=hidden, activation=activation, linear_skip=True
    )
    init_scale, apply_scale = make_mlp(
        latent_dim, num_features, hidden=(SCALE_WIDTH,), activation=activation, linear_skip=False, near_zero=True
    )

    def init(key, kernel, bias):
        key_mlp, key_scale = jax.random.split(key)
        params = with_skip(init_mlp(key_mlp), kernel, bias)
        return {**params, "scale": init_scale(key_scale)} if has_scale else params

    def decode(params, key, z):
        if noise_dim:
            z = jnp.concatenate([z, jax.random.normal(key, (*z.shape[:-1], noise_dim), z.dtype)], axis=-1)
        return apply({name: layer for name, layer in params.items() if name != "scale"}, z)

    def scale(params, z):
        return jnp.exp(MAX_LOG_SCALE * jnp.tanh(apply_scale(params["scale"], z) / MAX_LOG_SCALE))

    return Decoder(init, decode, scale)
