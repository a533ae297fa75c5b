"""The optax chain: clipping, Adam, warm-up and cosine decay."""

import optax


def make_optimizer(
    num_steps: int,
    *,
    learning_rate: float = 5e-3,
    warmup_steps: int = 100,
    final_fraction: float = 0.01,
    clip_norm: float = 1.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (decoupled weight decay) on a warm-up and cosine schedule, gradients clipped by global norm.

    Args:
        num_steps: length of the schedule.
        learning_rate: its peak.
        warmup_steps: linear from 0; cut to a tenth of `num_steps`.
        final_fraction: last rate over peak rate.
        clip_norm: largest global gradient norm.
        weight_decay: decoupled (AdamW).
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup_steps, num_steps // 10),
        decay_steps=num_steps,
        end_value=final_fraction * learning_rate,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adamw(schedule, weight_decay=weight_decay))
