"""Values as they are read: transformed, checked against the data that they join, and with a record of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from pdae_jax.data.anndata_files import Place
from pdae_jax.data.joining import check_counts_join, check_joins, check_not_transformed
from pdae_jax.data.normalisation import Sized, read_counts
from pdae_jax.data.observations import (
    BLOCK_ROWS,
    SOME_ROWS,
    read_features,
    read_observations,
    row_totals,
    some_rows,
    unmasked,
)
from pdae_jax.data.scale import COUNTS, UNLOGGED, found_scale
from pdae_jax.types import PerturbationData, Reading


class Treatment(NamedTuple):
    """The treatment of values as they are read; made by `make_treatment`, which checks."""

    normalize: bool = False
    arcsinh: float | None = None
    totals: Float[np.ndarray, " cells"] | None = None  # counts of each cell; None: of all its features
    place: Place | None = None  # in an AnnData that they are from
    like: PerturbationData | None = None  # that they join

    def with_totals(self, totals: Any) -> "Treatment":
        """Set the counts of each cell, an array or a column of a table; None leaves them to the sums of cells.

        Raises:
            ValueError: they are no numbers above 0, or are not used.
        """
        if totals is None:
            return self
        if not self.normalize:
            raise ValueError("totals are what counts are divided by. Pass normalize=True too, or leave totals out.")
        totals = unmasked("totals", totals).astype(np.float64)
        bad = np.flatnonzero(~(np.isfinite(totals) & (totals > 0)))
        if totals.ndim != 1 or len(bad):
            where = f"{totals[bad[0]]} in row {bad[0]}" if totals.ndim == 1 else f"an array of shape {totals.shape}"
            raise ValueError(f"totals has {where}. Pass the counts of each cell, above 0.")
        return self._replace(totals=totals)


def make_treatment(
    normalize: bool = False,
    arcsinh: float | None = None,
    place: Place | None = None,
    *,
    like: PerturbationData | None = None,
    as_file: bool = True,
) -> Treatment:
    """Check what the caller says of values. What is not said of a place or a cofactor is as in the data that they join.

    Args:
        normalize: raw counts become logarithms, see `pdae_jax.from_arrays`.
        arcsinh: cofactor of cytometry.
        place: where in an AnnData they are; None for values that are from none.
        like: data that they join.
        as_file: they are of a file or table, with values as they were measured. Of an array, which is taken as it is,
            the cofactor of `like` is not taken.

    Raises:
        ValueError: a cofactor that is none, or another than theirs; counts and cytometry at once.
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
    place = None if place is None else _place_like(place, like)
    return Treatment(normalize, arcsinh or (theirs if as_file else None), place=place, like=like)


def read_values(
    source: Any,
    features: Sequence[str] | None,
    columns: Sequence[int] | None,
    treatment: Treatment,
) -> tuple[Sized, Reading]:
    """Read the values of some columns, as they are asked for. Cells are normalised by the sums of all columns.

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
    check_counts_join(x, reading, like)
    if treatment.arcsinh is None:
        _warn_unlogged(x, reading)
        sized = read_counts(x, totals, treatment.normalize, reading.scale == COUNTS)
    else:
        before = some_rows(x).copy()
        sized = Sized(arcsinh_in_place(x, treatment.arcsinh), None)
        if like is not None and like.reading is not None and like.reading.arcsinh is not None:
            check_not_transformed(before, some_rows(x), names, like)
    if like is not None:
        check_joins(x, names, reading, like, "these cells")
    return sized, reading


def first_look(matrix: Any, features: Sequence[str], columns: Sequence[int] | None, treatment: Treatment) -> Reading:
    """Find what `read_values` finds in the first rows of a matrix; those that join other data are checked against
    them.
    """
    start = matrix[:BLOCK_ROWS]
    if treatment.like is None:
        some = read_observations(start[:SOME_ROWS])
        reading = _reading(some, treatment)
        if treatment.arcsinh is None:
            _warn_unlogged(some, reading)
        return reading
    totals = None if treatment.totals is None else treatment.totals[:BLOCK_ROWS]
    return read_values(start, features, columns, treatment._replace(totals=totals))[1]


def arcsinh_in_place(x: Float[np.ndarray, "cells features"], cofactor: float) -> Float[np.ndarray, "cells features"]:
    """Turn values into ``arcsinh(x / cofactor)``."""
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


def _warn_unlogged(x: np.ndarray, reading: Reading) -> None:
    if reading.scale == UNLOGGED and not reading.normalize:
        sums = f"they sum to {reading.total:g} in every cell" if reading.total else "cells are multiples of one number"
        logging.warning(
            "These look like counts that were normalised, but not logged: %s, and the largest is %g. Effects of "
            "perturbations add up on the log scale; pass normalize=True, or their log1p.",
            *(sums, x.max()),
        )


def _place_like(place: Place, like: PerturbationData | None) -> Place:
    """Where to read observations: where that is asked for, else where those were that are joined."""
    known = None if like is None else like.reading
    if known is None:
        return place
    if place.layer is None and place.obsm is None:
        place = place._replace(layer=known.layer, obsm=known.obsm)
    return place if place.obsm or place.gene_symbols else place._replace(gene_symbols=known.gene_symbols)
