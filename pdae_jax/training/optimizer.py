"""The optax chain: clipping, Adam, warm-up and cosine decay."""

import optax


def make_optimizer(
    num_steps: int,
    *,
    learning_rate: float,
    warmup_steps: int,
    clip_norm: float,
    final_fraction: float = 0.01,
) -> optax.GradientTransformation:
    """Adam on a warm-up and cosine schedule, gradients clipped by global norm.

    Args:
        num_steps: length of the schedule.
        learning_rate: its peak.
        warmup_steps: linear from 0; cut to a tenth of `num_steps`.
        clip_norm: largest global gradient norm.
        final_fraction: last rate over peak rate.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup_steps, num_steps // 10),
        decay_steps=num_steps,
        end_value=final_fraction * learning_rate,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule))
