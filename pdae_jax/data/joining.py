"""Cells that join other data, as a test set joins those that trained: on one scale, as far as both are known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from pdae_jax.cells import StoredCells, evenly_spaced
from pdae_jax.data.normalisation import is_counts
from pdae_jax.data.observations import some_rows
from pdae_jax.data.scale import COUNTS, LOG_COUNTS
from pdae_jax.types import PerturbationData, Reading, once_for_each

_FACTOR = 2.0  # between the totals of cells that were normalised alike, and more
_CLEARLY = 4.0  # times nearer, for values to be on the other scale
_FAR = 3.0  # standard deviations of training cells, for most features
_WIDE = 5.0  # times their standard deviation
_CONDITIONS = 200  # that are looked at
_CELLS = 20  # of each


def check_joins(
    x: Float[np.ndarray, "cells features"] | StoredCells,
    features: Sequence[str],
    reading: Reading | None,
    train: PerturbationData,
    which: str,
) -> None:
    """Compare the scale of cells with that of training data, as far as both are known.

    Sums of :math:`e^x - 1` of log-normalised counts say to which total, and by the counts of which features, cells
    were divided: they may lie a factor of 2 outside those of the training conditions.

    Args:
        x: cells, transformed.
        features: names of its columns; those that are no training features are not looked at.
        reading: how they were read.
        train: the data that they join.
        which: the cells, for the message.

    Raises:
        ValueError: they are on another scale; says which, and the fix.
    """
    here, there = _shared(features, train)
    some = some_rows(x)[:, here].astype(np.float64)
    if not here or not np.all(np.isfinite(some)):
        return
    if _is_log_counts(train):
        _check_totals(some, _typical(train).rates[:, there], which)
    cofactor = None if train.reading is None else train.reading.arcsinh
    if cofactor is not None and (reading is None or reading.arcsinh is None):
        as_is, moved = (_distance(each, train, there) for each in (some, np.arcsinh(some / cofactor)))
        if _CLEARLY * moved < as_is:
            raise ValueError(
                f"The training data are arcsinh(x / {cofactor:g}), and {which} look like values before that: their "
                f"distance from the training cells is {as_is:.3g} standard deviations, and {moved:.3g} after it. Pass "
                f"numpy.arcsinh(x / {cofactor:g}), or a data frame or AnnData, to which it is applied."
            )
    away, wider = _distance(some, train, there), _spread(some, train, there)
    if away > _FAR or wider > _WIDE:
        logging.warning(
            "The values of %s are %.3g standard deviations from the training cells in the median feature, and spread "
            "%.3g times as much. See that both are on one scale: the same layer, logarithms, cofactor and unit.",
            *(which, away, wider),
        )


def check_counts_join(x: np.ndarray, reading: Reading, like: PerturbationData | None) -> None:
    """Raise ``ValueError`` where raw counts would join logarithms, or the other way round."""
    if like is None:
        return
    if _is_log_counts(like) and not reading.normalize and is_counts(x):
        raise ValueError(
            "These are raw counts, and the data they join log-normalised ones. Pass normalize=True: read them with "
            "pdae_jax.from_anndata(..., normalize=True, like=train)."
        )
    known = like.reading
    if known is None or known.scale != COUNTS or known.normalize or known.arcsinh is not None:
        return
    if reading.normalize or reading.scale == LOG_COUNTS:
        raise ValueError(
            "The data these cells join are raw counts, and these are normalised. Leave normalize out, or read the "
            "training data with normalize=True too."
        )


def check_not_transformed(
    before: np.ndarray, after: np.ndarray, features: Sequence[str], like: PerturbationData
) -> None:
    """Raise ``ValueError`` where values were on the scale of the data that they join before they were transformed."""
    here, there = _shared(features, like)
    as_is, moved = (_distance(each[:, here], like, there) for each in (before, after))
    if _CLEARLY * as_is < moved:
        raise ValueError(
            f"These cells look like arcsinh already, as the data are that they join: their distance from those is "
            f"{as_is:.3g} standard deviations as they are, and {moved:.3g} after arcsinh. Pass them as an array, or to "
            f"pdae_jax.from_arrays, which takes values as they are."
        )


def _check_totals(some: np.ndarray, rates: np.ndarray, which: str) -> None:
    with np.errstate(over="ignore"):
        own, theirs = float(np.expm1(some).sum(axis=1).mean()), rates.sum(axis=1)
    low, high = float(theirs.min()), float(theirs.max())
    if low / _FACTOR <= own <= high * _FACTOR:
        return
    raise ValueError(
        f"Cells were divided by other totals: the sum of e^x - 1 over {some.shape[1]} features is {own:.4g} a cell in "
        f"{which}, and {low:.4g} to {high:.4g} in the training conditions. If a file has only the features that were "
        f"kept, pass one with all, or the counts of each cell as totals=; if cells were normalised to another total, "
        f"pass raw counts with normalize=True, or multiply e^x - 1 before taking logarithms again."
    )


def _shared(features: Sequence[str], data: PerturbationData) -> tuple[list[int], list[int]]:
    """Columns that both have, here and in the data."""
    place = {name: column for column, name in enumerate(data.features)}
    here = [column for column, name in enumerate(features) if name in place]
    return here, [place[features[column]] for column in here]


def _is_log_counts(data: PerturbationData) -> bool:
    known = data.reading
    return data.size_factors is not None or (known is not None and (known.normalize or known.scale == LOG_COUNTS))


class _Typical(NamedTuple):
    """Statistics of a few cells of each condition."""

    rates: Float[np.ndarray, "conditions features"]  # mean of e^x - 1
    mean: Float[np.ndarray, " features"]  # of all
    std: Float[np.ndarray, " features"]


@once_for_each
def _typical(data: PerturbationData) -> _Typical:
    cells = [
        data.x[np.sort(rows[:_CELLS])].astype(np.float64)
        for rows in (data.rows[row] for row in evenly_spaced(data.num_conditions, _CONDITIONS))
        if len(rows)
    ]
    with np.errstate(over="ignore"):
        rates = np.stack([np.expm1(each).mean(axis=0) for each in cells])
    together = np.concatenate(cells)
    return _Typical(rates, together.mean(axis=0), together.std(axis=0))


def _distance(x: np.ndarray, data: PerturbationData, columns: Sequence[int]) -> float:
    """How far the mean of cells is from that of the data, in its standard deviations: the median of features."""
    found = _typical(data)
    spread = np.where(found.std > 0, found.std, 1.0)[columns]
    return float(np.median(np.abs(x.mean(axis=0) - found.mean[columns]) / spread))


def _spread(x: Float[np.ndarray, "cells features"], data: PerturbationData, columns: Sequence[int]) -> float:
    """The standard deviation of cells, in that of the data: the median of features that vary."""
    there = _typical(data).std[columns]
    return float(np.median(x.std(axis=0) / np.where(there > 0, there, np.inf)))
