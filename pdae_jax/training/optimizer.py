"""The optax chain: clipping, Adam, warm-up and cosine decay."""

import functools

import optax

_FINAL_FRACTION = 0.01  # last learning rate over the highest


@functools.lru_cache(maxsize=64)  # a step is compiled for its optimiser: one for the same numbers
def make_optimizer(
    num_steps: int,
    *,
    learning_rate: float,
    warmup_steps: int,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Adam on a warm-up and cosine schedule, gradients clipped by global norm.

    Args:
        num_steps: length of the schedule.
        learning_rate: its peak.
        warmup_steps: linear from 0; cut to a tenth of `num_steps`.
        clip_norm: largest global gradient norm.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup_steps, num_steps // 10),
        decay_steps=num_steps,
        end_value=_FINAL_FRACTION * learning_rate,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule))
