"""After how many steps a fit ends, where no validation conditions say it: chosen by combinations that are left out."""

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.data.span import determined_by_others, label_span
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import make_random
from pdae_jax.types import PerturbationData

MIN_COMBINATIONS = 5  # that the other training conditions determine: with fewer nothing is left out to choose the end
_LEFT_OUT = 0.2  # of them
_MOST_LEFT_OUT = 40
_CHOICE = 7  # folded into the key of the fit


def combinations_to_leave_out(train: PerturbationData, key: Array) -> list[str]:
    """Names of a fifth of the training combinations whose labels the rest determines; none where they are few."""
    order = np.count_nonzero(train.labels, axis=1)
    determined = np.flatnonzero((order > 1) & determined_by_others(train.labels))
    if len(determined) < MIN_COMBINATIONS:
        return []
    number = min(max(1, round(_LEFT_OUT * len(determined))), _MOST_LEFT_OUT)
    chosen = np.sort(make_random(key).permutation(determined)[:number])
    # those that only others among them determine go back
    inside = label_span(np.delete(train.labels, chosen, axis=0)).contains(train.labels[chosen])
    return [train.conditions[row] for row in chosen[inside]]


def choice_key(key: Array) -> Array:
    """The key of the fit that chooses for a fit with this one."""
    return jax.random.fold_in(key, _CHOICE)


def best_step(chosen: Fitted) -> int:
    """After how many steps the left-out combinations were predicted best; 0 where the start was no worse."""
    start = np.mean([errors["start"] for errors in chosen.validation_errors.values()])
    found = {e["step"]: e["validation_energy_distance"] for e in chosen.history if "validation_energy_distance" in e}
    best = min(found, key=lambda step: found[step])
    return best if found[best] < start else 0
