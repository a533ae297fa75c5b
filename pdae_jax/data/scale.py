"""The scale of values, as far as a few cells show it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.cells import evenly_spaced
from pdae_jax.data.moments import MIN_ZEROS
from pdae_jax.data.normalisation import LARGEST_LOG, LOOKED_AT, is_counts, size_factors

COUNTS = "raw counts"
LOG_COUNTS = "log-normalised counts"
UNLOGGED = "normalised, but not logged"
RAW = "raw values"
COMPRESSED = "logarithms or arcsinh"
UNKNOWN = "unknown"
#: What `found_scale` tells apart.
SCALES = (COUNTS, LOG_COUNTS, UNLOGGED, RAW, COMPRESSED, UNKNOWN)

_SAME = 1e-3  # spread of the totals of cells that were normalised, relative to them
_LEAST_TOTAL = 2.0  # below it the same sum of every cell is that of shares


class FoundScale(NamedTuple):
    """The kind of values, one of `SCALES`, and the total of every cell before logarithms, where all have the same."""

    kind: str
    total: float | None = None


def found_scale(x: Float[np.ndarray, "cells features"]) -> FoundScale:
    r"""Find the scale of values from a few cells in all their features.

    Totals are :math:`\sum_j x_j`, or :math:`\sum_j (e^{x_j} - 1)` of logarithms. Where they are the same in all cells,
    cells were normalised to that total. Without all features the totals differ, and counts are still known by the
    lattice on which every cell lies, see `data.normalisation.ShownSizes`.

    Args:
        x: values; cells from all over the data are looked at.
    """
    x = x[evenly_spaced(len(x), LOOKED_AT)]
    if not np.all(np.isfinite(x)):
        return FoundScale(UNKNOWN)
    if is_counts(x):
        return FoundScale(COUNTS)
    low, high = float(x.min()), float(x.max())
    if low >= 0:
        logs, plain = _same_total(np.expm1(x.astype(np.float64))) if high <= LARGEST_LOG else None, _same_total(x)
        if logs is not None:
            return FoundScale(LOG_COUNTS, logs)
        if plain is not None and high > LARGEST_LOG:
            return FoundScale(UNLOGGED, plain)
        if np.mean(x == 0) >= MIN_ZEROS:
            if high <= LARGEST_LOG and size_factors(x) is not None:
                return FoundScale(LOG_COUNTS)
            rounded = np.array_equal(np.round(x, 3), x)  # decimals are a lattice of their own
            if high > LARGEST_LOG and not rounded and size_factors(np.log1p(x.astype(np.float64))) is not None:
                return FoundScale(UNLOGGED)
    if high > LARGEST_LOG:
        return FoundScale(RAW)
    return FoundScale(COMPRESSED if -low <= high / 4 else UNKNOWN)


def _same_total(x: Float[np.ndarray, "cells features"]) -> float | None:
    """The sum of every cell, where it is the same in all, and no share."""
    totals = x.sum(axis=1, dtype=np.float64)
    middle = float(np.median(totals))
    same = len(x) > 1 and x.shape[1] > 1 and np.ptp(totals) <= _SAME * middle
    return middle if same and middle >= _LEAST_TOTAL else None
