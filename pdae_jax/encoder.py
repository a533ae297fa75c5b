"""The encoder `g`: observations to latents."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pdae_jax.networks import make_mlp, with_skip


class Encoder(NamedTuple):
    """`g` as a pair of pure functions."""

    init: Callable  # (key, kernel [features, latent], bias [latent]) -> params, started at this linear map
    encode: Callable  # (params, x [..., features]) -> z [..., latent]


def make_encoder(
    num_features: int,
    latent_dim: int,
    *,
    hidden: Sequence[int] = (128, 128, 128),
    activation: str = "relu",
    linear_skip: bool = True,
) -> Encoder:
    """An MLP, by default beside a linear map; without `linear_skip` the start is random and the map is ignored."""
    init_mlp, apply = make_mlp(num_features, latent_dim, hidden=hidden, activation=activation, linear_skip=linear_skip)

    def init(key, kernel, bias):
        params = init_mlp(key)
        return with_skip(params, kernel, bias) if linear_skip else params

    return Encoder(init, apply)
