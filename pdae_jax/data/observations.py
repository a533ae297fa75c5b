"""The matrix of observations: dense, float32, finite, with one varying feature per named column."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from pdae_jax.cells import evenly_spaced
from pdae_jax.spelling import check_names, first_names

#: Rows made dense at a time, so that a sparse or float64 source is never dense as a whole beside the result.
BLOCK_ROWS = 4096
SOME_ROWS = 200  # that are looked at, for the scale of values


def read_observations(x: Any, columns: Any = None) -> Float[np.ndarray, "cells features"]:
    """Read the selected columns as a new float32 array, filled in blocks of rows.

    Args:
        x: ``[cells, features]``: a data frame, a SciPy sparse matrix, anything that NumPy makes an array of, or a dense
            or row-compressed matrix on disk (h5py, AnnData).
        columns: positions of the columns to take; all when None.

    Raises:
        ValueError: x is no matrix, is empty, has values that are masked, or, sparse, columns beyond its width.
        TypeError: x is not numeric, an AnnData, or a data frame of another package than pandas.
    """
    if hasattr(x, "var_names"):
        raise TypeError(f"x is a {type(x).__name__}. Pass it to pdae_jax.from_anndata, or pass its X.")
    if hasattr(x, "columns"):
        x = frame_values(x)
    elif scipy.sparse.issparse(x):
        check_indices(x)
        x = (x if columns is None else x.tocsc()[:, columns] if x.format == "csc" else x.tocsr()[:, columns]).tocsr()
        columns = None
    elif not on_disk(x):
        x = unmasked("x", x)
    if x.dtype.names:
        raise TypeError(f"x has columns of its own, {first_names(x.dtype.names)}. Pass pandas.DataFrame(x).")
    if len(x.shape) != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}. Pass a matrix [cells, features]; one feature is x[:, None].")
    # JAX's bfloat16 has no kind of its own in NumPy
    if np.dtype(x.dtype).kind not in "fiub" and np.dtype(x.dtype).name != "bfloat16":
        raise TypeError(f"x has dtype {x.dtype}, which is not numeric. Pass real numbers, such as x.astype('float32').")
    width = x.shape[1] if columns is None else len(columns)
    if x.shape[0] == 0 or width == 0:
        raise ValueError(f"x is empty: {x.shape[0]} cells, {width} features. Pass some cells and at least one feature.")
    out = np.empty((x.shape[0], width), dtype=np.float32)
    for start in range(0, x.shape[0], BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        check_indices(block)
        block = block if columns is None else block[:, columns]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported by name
            out[start : start + BLOCK_ROWS] = block.toarray() if hasattr(block, "toarray") else block
    return out


def unmasked(name: str, values: Any) -> np.ndarray:
    """Make an array of what NumPy makes one of; ``ValueError`` where a part of it is masked, that is, missing."""
    rows = isinstance(values, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in values)
    values = np.ma.array(values) if rows else values
    if np.ma.is_masked(values):
        where = np.argwhere(np.ma.getmaskarray(values))
        raise ValueError(
            f"{name} has {len(where)} values that are masked, that is, missing, the first in row {where[0][0]}. Drop "
            f"these cells or features, or impute the values."
        )
    return np.asarray(values)


def check_indices(x: Any) -> None:
    """Raise ``ValueError`` for a sparse matrix with values in columns or rows that it has not: they would lie
    elsewhere.
    """
    if getattr(x, "format", None) not in ("csr", "csc") or not isinstance(getattr(x, "indices", None), np.ndarray):
        return
    width, indices = x.shape[1 if x.format == "csr" else 0], x.indices
    if len(indices) and not (indices.min() >= 0 and indices.max() < width):
        raise ValueError(
            f"The sparse matrix of shape {tuple(x.shape)} is damaged: it has values at {indices.min()} to "
            f"{indices.max()}, and places 0 to {width - 1}. Write the file again."
        )


def row_blocks(x: Any, rows: Int[np.ndarray, " n"]) -> Iterator[Any]:
    """Yield some rows, in rising order, of what `read_observations` takes, a block of its rows at a time.

    Whole blocks are read: control cells lie scattered in a file, and single rows of a compressed one are slow.
    """
    for start in range(0, x.shape[0], BLOCK_ROWS):
        inside = rows[(rows >= start) & (rows < start + BLOCK_ROWS)] - start
        if len(inside):
            yield x[start : start + BLOCK_ROWS][inside]


def on_disk(x: Any) -> bool:
    """Tell whether rows are read when they are asked for: a matrix of h5py, of zarr, or a sparse one of AnnData."""
    return hasattr(x, "file") or hasattr(x, "to_memory") or (hasattr(x, "store") and hasattr(x, "chunks"))


def row_totals(x: Any, columns: Any = None) -> Float[np.ndarray, " cells"]:
    """Return the sum of each row of what `read_observations` takes, over some columns or all, a block of rows at a
    time.
    """
    x = x if on_disk(x) or scipy.sparse.issparse(x) else np.asarray(x)
    blocks = (x[start : start + BLOCK_ROWS] for start in range(0, x.shape[0], BLOCK_ROWS))
    chosen = (block if columns is None else block[:, columns] for block in blocks)
    return np.concatenate([np.asarray(block.sum(axis=1), np.float64).ravel() for block in chosen])


def constant_columns(x: Any) -> Bool[np.ndarray, " features"]:
    """Find which columns of what `read_observations` takes are the same in all rows, a block of rows at a time."""
    low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    for start in range(0, x.shape[0], BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        ends = (block.min(axis=0), block.max(axis=0))
        ends = [np.asarray(end.toarray() if hasattr(end, "toarray") else end).ravel() for end in ends]
        low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])  # NaN wins: it is named later
    return low == high


def read_features(features: Iterable[str] | None, width: int) -> tuple[str, ...]:
    """Return the names of the columns, unique and one per column; ``x0, x1, ...`` when None."""
    if features is None:
        return tuple(f"x{column}" for column in range(width))
    names = tuple(str(name) for name in features)
    if len(names) != width:
        raise ValueError(
            f"features has {len(names)} names ({first_names(names)}), but x has {width} columns. "
            f"Pass one name per column of x."
        )
    check_names("Feature", names)
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"Feature {name!r} is there {count} times. Feature names are unique: rename or drop all but one "
                f"(AnnData: var_names_make_unique())."
            )
    return names


def check_values(
    x: Float[np.ndarray, "cells features"], features: Sequence[str], *, may_be_constant: bool = False, first: int = 0
) -> None:
    """Raise ``ValueError`` for features with values that are not finite, and for constant ones.

    Args:
        x: values, perhaps a block of rows of a larger matrix.
        features: names of the columns.
        may_be_constant: features may be the same in all cells.
        first: number of the first row.
    """
    low, high = x.min(axis=0), x.max(axis=0)  # NaN wins in both: no mask of the size of x is needed
    bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))).tolist()
    if bad:
        rows = np.flatnonzero(~np.isfinite(x[:, bad[0]]))
        more = f" So have {first_names([features[column] for column in bad[1:]])}." if len(bad) > 1 else ""
        raise ValueError(
            f"Feature {features[bad[0]]!r} has {len(rows)} values that are NaN or infinite (in float32), the first in "
            f"row {first + rows[0]}: {x[rows[0], bad[0]]}.{more} Drop these cells or features, or impute the values."
        )
    if not may_be_constant:
        check_varying(low, high, features, x.shape[0])


def check_varying(
    low: Float[np.ndarray, " features"], high: Float[np.ndarray, " features"], features: Sequence[str], cells: int
) -> None:
    """Raise ``ValueError`` for features whose smallest value in as many cells is their largest."""
    constant = np.flatnonzero(low == high).tolist()
    if constant:
        raise ValueError(
            f"Constant features: {first_names([features[column] for column in constant])}; {features[constant[0]]!r} "
            f"is {low[constant[0]]:g} in all {cells} cells. Drop them: pass features=<those that vary>, or the "
            f"columns of x with x.max(0) > x.min(0)."
        )


def check_frame(frame: Any) -> None:
    """Raise ``TypeError`` with the fix for data frames of other packages than pandas, and for what is none."""
    import pandas as pd

    if isinstance(frame, pd.DataFrame):
        return
    kind = f"{type(frame).__name__} of {type(frame).__module__.partition('.')[0]}"
    ways = {"to_pandas": "frame.to_pandas()", "collect": "frame.collect().to_pandas()", "compute": "frame.compute()"}
    fix = next((way for name, way in ways.items() if hasattr(frame, name)), "pandas.DataFrame(frame)")
    raise TypeError(f"frame is a {kind}. Pass a pandas data frame: {fix}; or use from_anndata or from_arrays.")


def frame_values(frame: Any) -> np.ndarray:
    """Return the values of a data frame whose columns are all numeric; missing ones are NaN."""
    from pandas.api.types import is_numeric_dtype

    check_frame(frame)
    for column, (name, dtype) in enumerate(frame.dtypes.items()):
        if not is_numeric_dtype(dtype) or getattr(dtype, "kind", "f") == "c":
            found = f", first value {frame.iloc[0, column]!r}" if len(frame) else ""
            raise TypeError(
                f"Column {str(name)!r} is not numeric (dtype {dtype}{found}). Pass features=<the columns with "
                f"observations>, or convert it."
            )
    with np.errstate(over="ignore"):
        return frame.to_numpy(dtype=np.float32, na_value=np.nan)


def some_rows(x: Any) -> Any:
    """Return a few rows from all over a matrix in memory, the first ones of one on disk."""
    if on_disk(x) or not hasattr(x, "shape"):
        return x[:SOME_ROWS]
    return x[evenly_spaced(x.shape[0], SOME_ROWS)]
