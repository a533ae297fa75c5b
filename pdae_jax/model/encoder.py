"""The encoder `g`: observations to latents."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pdae_jax.model.networks import make_mlp, with_skip


class Encoder(NamedTuple):
    """`g` as a pair of pure functions."""

    init: Callable  # (key, kernel [features, latent], bias [latent]) -> params, started at this linear map
    encode: Callable  # (params, x [..., features]) -> z [..., latent]


def make_encoder(num_features: int, latent_dim: int, *, hidden: Sequence[int], activation: str) -> Encoder:
    """Make a linear map plus an MLP that starts near zero."""
    init_mlp, apply = make_mlp(num_features, latent_dim, hidden=hidden, activation=activation, linear_skip=True)

    def init(key, kernel, bias):
        return with_skip(init_mlp(key), kernel, bias)

    return Encoder(init, apply)
