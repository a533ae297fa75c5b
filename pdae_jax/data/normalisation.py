r"""Counts of sequencing: recognised, normalised with the size of each cell kept, and made of log values again.

Effects add up on the scale of log-normalised counts, :math:`x = \log(1 + c / s)`, with the size factor `s` of a cell,
its counts of all features over the target sum. With `s` known the counts are :math:`c = s (e^x - 1)`. A cell that was
normalised elsewhere shows its size factor itself: all its values of :math:`e^x - 1` are multiples of :math:`1 / s`.
"""

from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from pdae_jax.cells import StoredCells, evenly_spaced
from pdae_jax.data.moments import MIN_ZEROS

TARGET_SUM = 1e4  # counts per 10,000
LOOKED_AT = 200  # cells, before all are
_SMALLEST_COUNTS = 20  # the smallest count of a cell is one of the first, also where few features were kept
_OFF = 0.02  # of a count; single precision leaves less
_BLOCK = 4096  # cells at a time
LARGEST_LOG = 20.0  # e^20 counts there are not
_STRAY = 0.01  # of the cells: so few that are no whole numbers are a fault


class Sized(NamedTuple):
    """Values and, of counts, the size factor of each cell."""

    x: Float[np.ndarray, "cells features"] | StoredCells
    size_factors: Float[np.ndarray, " cells"] | None


def read_counts(
    x: Float[np.ndarray, "cells features"],
    totals: Float[np.ndarray, " cells"] | None,
    normalize: bool,
    known: bool = False,
    target_sum: float = TARGET_SUM,
) -> Sized:
    """Return log-normalised values with their size factors, where the values are counts; others as they are.

    Args:
        x: values; raw counts are changed in place.
        totals: counts of each cell over ALL features; None: of the features of `x`.
        normalize: raw counts become ``log1p(counts / totals * target_sum)``; so do fractional ones, whose cells have
            no size factor then: no whole numbers come back. Else they stay, with a warning.
        known: other features of the file say that they are counts, see `check_counts`.
        target_sum: of the counts of a cell.

    Raises:
        ValueError: `normalize` for values that are no raw counts, or a cell without a count.
    """
    if not (np.isfinite(x.min()) and np.isfinite(x.max())):
        return Sized(x, None)  # `check_values` names the feature
    whole = check_counts(x, normalize, known)
    if whole and not normalize:
        return Sized(x, None)
    if normalize:
        own = x.sum(axis=1, dtype=np.float64) if totals is None else totals
        sizes = normalised_in_place(x, np.asarray(own, np.float64), target_sum)
        sizes = sizes if whole else None
    else:
        sizes = size_factors(x)
    log_sizes(sizes, normalize)
    return Sized(x, sizes)


def log_sizes(sizes: Float[np.ndarray, " cells"] | None, normalize: bool) -> None:
    """Say in the log what values were taken for."""
    if normalize:
        kept = "the size of each cell is kept" if sizes is not None else "predictions will be no whole numbers"
        logging.info("Counts were normalised to log(1 + counts per %g); %s.", TARGET_SUM, kept)
    elif sizes is not None:
        logging.info("The values are log-normalised counts: each cell shows its size factor, and counts come out.")


def check_counts(x: Float[np.ndarray, "cells features"], normalize: bool, known: bool = False) -> bool:
    """Tell whether these are raw counts, whole numbers; a warning where they are not normalised.

    Args:
        x: values.
        normalize: they are to be normalised.
        known: other features of the file say that they are counts: these may have no zeros.

    Raises:
        ValueError: values are to be normalised that are neither raw counts nor fractional ones.
    """
    raw = is_counts(x) or (known and x.min() >= 0 and all(np.array_equal(b, np.round(b)) for b in _blocks(x)))
    if normalize and not raw:
        _check_fractional(x)
    if raw and not normalize:
        logging.warning(
            "These look like raw counts: whole numbers up to %g, %.0f %% zeros. Effects of perturbations add up on the "
            "log scale; pass normalize=True.",
            *(x.max(), 100 * np.mean(_some(x) == 0)),
        )
    return raw


def _check_fractional(x: Float[np.ndarray, "cells features"]) -> None:
    """``ValueError`` for values that are no counts of an algorithm: shares of reads, or less an ambient background."""
    some = _some(x)
    found = some[some > 0]
    near = np.mean(np.abs(found - np.round(found)) < 0.01) >= 1 / 2 if len(found) else False
    plausible = x.min() >= 0 and x.max() > 1 and np.mean(some == 0) >= MIN_ZEROS
    if not (plausible and (near or x.max() > LARGEST_LOG)):
        raise ValueError(
            f"normalize=True, but these are no raw counts: {_described(x)}. Name the layer that has the counts; or, if "
            f"these are logarithms of normalised counts already, leave normalize out."
        )
    rows = np.flatnonzero(np.concatenate([np.any(block != np.round(block), axis=1) for block in _blocks(x)]))
    if len(rows) <= _STRAY * len(x):
        raise ValueError(
            f"normalize=True, and {len(rows)} of {len(x)} cells are no whole numbers, the first in row "
            f"{rows[0] if len(rows) else 0}: {_described(x)}. Round these values, or drop these cells."
        )
    logging.warning(
        "Fractional counts: %s. They are normalised as whole ones, and predictions are no whole numbers. Round them "
        "first if whole numbers are wanted.",
        _described(x),
    )


def normalised_in_place(
    x: Float[np.ndarray, "cells features"],
    totals: Float[np.ndarray, " cells"],
    target_sum: float = TARGET_SUM,
    first: int = 0,
) -> Float[np.ndarray, " cells"]:
    """Turn raw counts into ``log1p(counts / totals * target_sum)``; return the size factors.

    Row 0 of `x` is number `first` of the data.
    """
    unknown = np.flatnonzero(~np.isfinite(totals))
    if len(unknown):
        raise ValueError(
            f"The counts of {len(unknown)} cells have no sum, the first in row {first + unknown[0]}: one of their "
            f"features, perhaps one that is not kept, is NaN or infinite. Drop these cells or features."
        )
    empty = np.flatnonzero(totals <= 0)
    if len(empty):
        raise ValueError(f"{len(empty)} cells have no count at all, the first in row {first + empty[0]}. Drop them.")
    sizes = totals / target_sum
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        x[block] = np.log1p(x[block] / sizes[block, None])
    return sizes.astype(np.float32)


def is_counts(x: Float[np.ndarray, "cells features"]) -> bool:
    """Tell whether values are raw counts: whole numbers from 0 up, with zeros and more than 1 among them."""
    some = _some(x)
    if not np.all(some == np.round(some)) or some.max() <= 1 or np.mean(some == 0) < MIN_ZEROS:
        return False
    return bool(x.min() == 0 and all(np.array_equal(block, np.round(block)) for block in _blocks(x)))


def size_factors(x: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, " cells"] | None:
    """Return the size factors that log-normalised counts show, or None where values are something else; see
    `ShownSizes`.
    """
    shown = ShownSizes(_some(x))
    for block in _blocks(x):
        shown.add(block)
    return shown.result()


class ShownSizes:
    """The size factors that log-normalised counts show, found a block of cells at a time.

    Every cell has to show one: a single cell off its lattice would be rounded to a wrong one. Of a cell without a count
    the size cannot be seen: it gets the median. Of counts with a common factor it is too small by that.
    """

    def __init__(self, some: Float[np.ndarray, "cells features"]):
        different = np.max(some, axis=1) > np.min(np.where(some > 0, some, np.inf), axis=1)
        plausible = (
            some.min() >= 0
            and some.max() <= LARGEST_LOG
            and np.mean(some == 0) >= MIN_ZEROS
            and np.mean(different) >= 1 / 2
        )
        self._found: list[np.ndarray] | None = [] if plausible and np.all(_lattice(some) >= 0) else None

    def add(self, block: Float[np.ndarray, "cells features"]) -> None:
        """Take in the next cells."""
        if self._found is None:
            return
        if block.min() < 0 or block.max() > LARGEST_LOG:
            self._found = None
            return
        self._found.append(_lattice(block))
        if np.any(self._found[-1] < 0):
            self._found = None

    def result(self) -> Float[np.ndarray, " cells"] | None:
        """Return the size factors of all cells, or None where one shows none."""
        if self._found is None:
            return None
        sizes = np.concatenate(self._found)
        return np.where(sizes > 0, sizes, np.median(sizes[sizes > 0])).astype(np.float32)


def _lattice(x: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, " cells"]:
    """The size factor of each cell: 0 of a cell without a count, -1 where there is no lattice.

    The smallest value is taken for the smallest count with which all others are whole numbers.
    """
    rates = np.expm1(x.astype(np.float64))
    smallest = np.min(np.where(rates > 0, rates, np.inf), axis=1)
    ratios = rates / np.where(np.isfinite(smallest), smallest, 1.0)[:, None]
    found = np.where(np.isfinite(smallest), -1.0, 0.0)
    for count in range(1, _SMALLEST_COUNTS + 1):
        counts = ratios * count
        whole = np.all(np.abs(counts - np.round(counts)) < _OFF * np.maximum(1.0, counts / 1000), axis=1)
        found = np.where((found == -1) & whole, count / smallest, found)
    return found


def _some(x: np.ndarray) -> np.ndarray:
    """A few cells from all over the data."""
    return x[evenly_spaced(len(x), LOOKED_AT)]


def _blocks(x: np.ndarray):
    return (x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK))


def _described(x: np.ndarray) -> str:
    if x.min() < 0:
        return f"the smallest value is {x.min():g}"
    odd = x[x != np.round(x)]
    if len(odd):
        return f"there are values such as {odd[0]:g}"
    return f"the largest value is {x.max():g}, and {np.mean(x == 0):.0%} are zero"
