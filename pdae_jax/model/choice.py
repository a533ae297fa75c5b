"""How leave-one-out chooses: downhill, by more than chance, and of thousands of conditions on a part."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

MIN_TESTED_TO_CHOOSE = 3  # combinations that must be left out before a gain or a rank is believed
_MANY = 800  # conditions: of more, choices are made on a part


def part_to_choose_on(
    rows: Float[np.ndarray, "conditions columns"], tested: Bool[np.ndarray, " conditions"]
) -> Int[np.ndarray, " part"]:
    """Take every so many of thousands of tested combinations, and of the rest what has no other parts than these."""
    if len(rows) <= _MANY:
        return np.arange(len(rows))
    chosen = np.flatnonzero(tested)
    chosen = chosen[:: max(1, -(-2 * len(chosen) // _MANY))]
    parts = np.any(rows[chosen] != 0, axis=0)
    related = np.flatnonzero(~tested & np.all((rows == 0) | parts, axis=1))
    return np.sort(np.concatenate([chosen, related]))


def valley(value: Callable[[int], float], start: int, size: int) -> int:
    """Go downhill from `start` to where both neighbours are higher: curves of ridges have one valley."""
    here = start
    while True:
        around = [i for i in (here - 1, here, here + 1) if 0 <= i < size]
        lowest = min(around, key=value)
        if lowest == here:
            return here
        here = lowest


def better(errors: np.ndarray, reference: np.ndarray, standard_errors: float = 1.0) -> bool:
    """Tell whether errors are smaller on average by more than so many standard errors of the difference."""
    gain = reference - errors
    return len(gain) >= MIN_TESTED_TO_CHOOSE and bool(
        np.mean(gain) > standard_errors * np.std(gain, ddof=1) / len(gain) ** 0.5
    )
