"""Values as they are read: transformed, checked against the data that they join, and with a record of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from pdae_jax.cells import StoredCells, evenly_spaced
from pdae_jax.data.counts import Sized, is_counts, read_counts
from pdae_jax.data.observations import BLOCK_ROWS, on_disk, read_features, read_observations, row_totals, unmasked
from pdae_jax.data.scale import COUNTS, LOG_COUNTS, UNLOGGED, found_scale
from pdae_jax.data.tables import Place
from pdae_jax.types import PerturbationData, Reading, once_for_each

_FACTOR = 2.0  # between the totals of cells that were normalised alike, and more
_CLEARLY = 4.0  # times nearer, for values to be on the other scale
_FAR = 3.0  # standard deviations of training cells, for most features
_WIDE = 5.0  # times their standard deviation
_CONDITIONS = 200  # that are looked at
_CELLS = 20  # of each
_ROWS = 200  # of a file


class Treatment(NamedTuple):
    """What is done to values as they are read."""

    normalize: bool = False
    arcsinh: float | None = None
    totals: Float[np.ndarray, " cells"] | None = None  # counts of each cell; None: of all its features
    place: Place | None = None  # in an AnnData that they are from, for the record
    like: PerturbationData | None = None  # that they join


def treatment_of(
    normalize: bool,
    arcsinh: float | None,
    totals: Any,
    like: PerturbationData | None,
    place: Place | None = None,
    *,
    as_file: bool = True,
) -> Treatment:
    """A treatment. Of a file or table, which has values as they were measured, the cofactor of `like` is taken.

    Raises:
        ValueError: a cofactor that is none, or another than theirs; counts and cytometry at once; totals that are no
            numbers above 0, or are not used.
    """
    theirs = None if like is None or like.reading is None else like.reading.arcsinh
    if arcsinh is not None and not arcsinh > 0:
        raise ValueError(f"arcsinh is {arcsinh}. Pass a cofactor above 0: 5 is usual for CyTOF, 150 for fluorescence.")
    if normalize and arcsinh is not None:
        raise ValueError(f"normalize=True and arcsinh={arcsinh}: counts of sequencing take one, cytometry the other.")
    if normalize and theirs is not None:
        raise ValueError(f"normalize=True, and the data these cells join are arcsinh(x / {theirs:g}). Leave it out.")
    if arcsinh is not None and theirs is not None and arcsinh != theirs:
        raise ValueError(f"arcsinh={arcsinh}, and the data these cells join have {theirs}. Leave arcsinh out.")
    if totals is not None:
        if not normalize:
            raise ValueError("totals are what counts are divided by. Pass normalize=True too, or leave totals out.")
        totals = unmasked("totals", totals).astype(np.float64)
        bad = np.flatnonzero(~(np.isfinite(totals) & (totals > 0)))
        if totals.ndim != 1 or len(bad):
            where = f"{totals[bad[0]]} in row {bad[0]}" if totals.ndim == 1 else f"an array of shape {totals.shape}"
            raise ValueError(f"totals has {where}. Pass the counts of each cell, above 0.")
    return Treatment(normalize, arcsinh or (theirs if as_file else None), totals, place, like)


def read_values(
    source: Any,
    features: Sequence[str] | None,
    columns: Sequence[int] | None,
    treatment: Treatment,
) -> tuple[Sized, Reading]:
    """Values of some columns, as they are asked for. Cells are normalised by the sums of all columns.

    Args:
        source: a matrix, see `read_observations`; no data frame where `columns` are given.
        features: names of the columns that are taken, see `read_features`.
        columns: their positions; all when None.
        treatment: what is done to them.

    Raises:
        ValueError: values that cannot be treated so, or are on another scale than the data that they join.
        TypeError: see `read_observations`.
    """
    x = read_observations(source, columns)
    names, like = read_features(features, x.shape[1]), treatment.like
    reading = _reading(x if columns is None else read_observations(some_rows(source)), treatment)
    totals = _totals(source, x, columns, treatment)
    _check_counts_join(x, reading, like)
    if treatment.arcsinh is None:
        _warn_unlogged(x, reading)
        sized = read_counts(x, totals, treatment.normalize, reading.scale == COUNTS)
    else:
        before = some_rows(x).copy()
        sized = Sized(arcsinh_in_place(x, treatment.arcsinh), None)
        if like is not None and like.reading is not None and like.reading.arcsinh is not None:
            _check_not_transformed(before, some_rows(x), names, like)
    if like is not None:
        check_joins(x, names, reading, like, "these cells")
    return sized, reading


def first_look(matrix: Any, features: Sequence[str], columns: Sequence[int] | None, treatment: Treatment) -> Reading:
    """What `read_values` finds in the first rows of a matrix; those that join other data are checked against them."""
    start = matrix[:BLOCK_ROWS]
    if treatment.like is None:
        some = read_observations(start[:_ROWS])
        reading = _reading(some, treatment)
        if treatment.arcsinh is None:
            _warn_unlogged(some, reading)
        return reading
    totals = None if treatment.totals is None else treatment.totals[:BLOCK_ROWS]
    return read_values(start, features, columns, treatment._replace(totals=totals))[1]


def arcsinh_in_place(x: Float[np.ndarray, "cells features"], cofactor: float) -> Float[np.ndarray, "cells features"]:
    """Values become ``arcsinh(x / cofactor)``."""
    return np.arcsinh(np.divide(x, np.float32(cofactor), out=x), out=x)


def _reading(some: Float[np.ndarray, "_ features"], treatment: Treatment) -> Reading:
    layer, obsm, symbols = treatment.place or (None, None, None)
    layer = "X" if treatment.place and layer is None and obsm is None else layer
    scale, total = found_scale(some)
    return Reading(layer, obsm, symbols, treatment.normalize, treatment.arcsinh, scale=scale, total=total)


def _totals(source: Any, x: np.ndarray, columns: Sequence[int] | None, treatment: Treatment) -> np.ndarray | None:
    """Counts of each cell, where they are not the sums of `x`."""
    if not treatment.normalize:
        return None
    if treatment.totals is None:
        return None if columns is None else row_totals(source)
    if len(treatment.totals) != len(x):
        raise ValueError(f"totals has {len(treatment.totals)} entries, but x has {len(x)} rows. Pass one for each row.")
    short = np.flatnonzero(x.sum(axis=1, dtype=np.float64) > treatment.totals * (1 + 1e-6))
    if len(short):
        raise ValueError(
            f"totals has {treatment.totals[short[0]]:g} in row {short[0]}, and the features that are kept have more "
            f"counts: {x[short[0]].sum():g}. Pass the counts of all features of each cell."
        )
    return treatment.totals


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


def _check_counts_join(x: np.ndarray, reading: Reading, like: PerturbationData | None) -> None:
    """Raw counts join raw counts, and logarithms join logarithms."""
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


def _check_not_transformed(
    before: np.ndarray, after: np.ndarray, features: Sequence[str], like: PerturbationData
) -> None:
    """``ValueError`` where values were on the scale of the data that they join before they were transformed."""
    here, there = _shared(features, like)
    as_is, moved = (_distance(each[:, here], like, there) for each in (before, after))
    if _CLEARLY * as_is < moved:
        raise ValueError(
            f"These cells look like arcsinh already, as the data are that they join: their distance from those is "
            f"{as_is:.3g} standard deviations as they are, and {moved:.3g} after arcsinh. Pass them as an array, or to "
            f"pdae_jax.from_arrays, which takes values as they are."
        )


def _shared(features: Sequence[str], data: PerturbationData) -> tuple[list[int], list[int]]:
    """Columns that both have, here and in the data."""
    place = {name: column for column, name in enumerate(data.features)}
    here = [column for column, name in enumerate(features) if name in place]
    return here, [place[features[column]] for column in here]


def _warn_unlogged(x: np.ndarray, reading: Reading) -> None:
    if reading.scale == UNLOGGED and not reading.normalize:
        sums = f"they sum to {reading.total:g} in every cell" if reading.total else "cells are multiples of one number"
        logging.warning(
            "These look like counts that were normalised, but not logged: %s, and the largest is %g. Effects of "
            "perturbations add up on the log scale; pass normalize=True, or their log1p.",
            *(sums, x.max()),
        )


def place_like(place: Place, like: PerturbationData | None) -> Place:
    """Where to read observations: where that is asked for, else where those were that are joined."""
    known = None if like is None else like.reading
    if known is None:
        return place
    if place.layer is None and place.obsm is None:
        place = place._replace(layer=known.layer, obsm=known.obsm)
    return place if place.obsm or place.gene_symbols else place._replace(gene_symbols=known.gene_symbols)


def _is_log_counts(data: PerturbationData) -> bool:
    known = data.reading
    return data.size_factors is not None or (known is not None and (known.normalize or known.scale == LOG_COUNTS))


class _Typical(NamedTuple):
    """Of a few cells of each condition."""

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


def some_rows(x: Any) -> Any:
    """A few rows from all over a matrix in memory, the first ones of one on disk."""
    if on_disk(x) or not hasattr(x, "shape"):
        return x[:_ROWS]
    return x[evenly_spaced(x.shape[0], _ROWS)]
