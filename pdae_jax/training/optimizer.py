"""The optax chain: clipping, Adam, warm-up and cosine decay; its numbers may be traced values."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

_FINAL_FRACTION = 0.01  # last learning rate over the highest


def make_optimizer(
    num_steps: int | Array,
    *,
    learning_rate: float | Array,
    warmup_steps: int | Array,
    clip_norm: float | Array,
) -> optax.GradientTransformation:
    """Make Adam on a warm-up and cosine schedule, gradients clipped by global norm.

    Adam: Kingma & Ba, ICLR 2015; the cosine: Loshchilov & Hutter, ICLR 2017; the clipping: Pascanu, Mikolov & Bengio,
    ICML 2013.

    Args:
        num_steps: length of the schedule.
        learning_rate: its peak.
        warmup_steps: linear from 0; cut to a tenth of `num_steps`.
        clip_norm: largest global gradient norm.
    """
    warm = jnp.minimum(warmup_steps, num_steps // 10)

    def schedule(count: ArrayLike) -> Array:
        count = jnp.asarray(count)
        rising = count / jnp.maximum(warm, 1)
        share = jnp.clip((count - warm) / jnp.maximum(num_steps - warm, 1), 0.0, 1.0)
        falling = (1.0 - _FINAL_FRACTION) * 0.5 * (1.0 + jnp.cos(jnp.pi * share)) + _FINAL_FRACTION
        return learning_rate * jnp.where(count < warm, rising, falling)

    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule))
