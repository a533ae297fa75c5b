"""The matrix of observations: dense, float32, finite, with one varying feature per named column."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from pdae_jax.spelling import check_names, first_names

#: Rows made dense at a time, so that a sparse or float64 source is never dense as a whole beside the result.
BLOCK_ROWS = 4096


def read_observations(x: Any, columns: Any = None) -> Float[np.ndarray, "cells features"]:
    """The selected columns as a new float32 array, filled in blocks of rows.

    Args:
        x: ``[cells, features]``: a data frame, a SciPy sparse matrix, anything that NumPy makes an array of, or a dense
            or row-compressed matrix on disk (h5py, AnnData).
        columns: positions of the columns to take; all when None.

    Raises:
        ValueError: x is no matrix, or is empty.
        TypeError: x is not numeric, or an AnnData.
    """
    if hasattr(x, "var_names"):
        raise TypeError(f"x is a {type(x).__name__}. Pass it to pdae_jax.from_anndata, or pass its X.")
    if hasattr(x, "columns"):
        x = _frame_values(x)
    elif scipy.sparse.issparse(x):
        x = (x if columns is None else x.tocsc()[:, columns] if x.format == "csc" else x.tocsr()[:, columns]).tocsr()
        columns = None
    elif not _on_disk(x):
        x = np.asarray(x)
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
        block = block if columns is None else block[:, columns]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported by name
            out[start : start + BLOCK_ROWS] = block.toarray() if hasattr(block, "toarray") else block
    return out


def row_blocks(x: Any, rows: Int[np.ndarray, " n"]) -> Iterator[Any]:
    """Some rows, in rising order, of what `read_observations` takes, a block of its rows at a time.

    Whole blocks are read: control cells lie scattered in a file, and single rows of a compressed one are slow.
    """
    for start in range(0, x.shape[0], BLOCK_ROWS):
        inside = rows[(rows >= start) & (rows < start + BLOCK_ROWS)] - start
        if len(inside):
            yield x[start : start + BLOCK_ROWS][inside]


def _on_disk(x: Any) -> bool:
    """Whether rows are read when they are asked for: a matrix of h5py, of zarr, or a sparse one of AnnData."""
    return hasattr(x, "file") or hasattr(x, "to_memory") or (hasattr(x, "store") and hasattr(x, "chunks"))


def row_totals(x: Any) -> Float[np.ndarray, " cells"]:
    """Sum of each row of what `read_observations` takes, over all its columns, a block of rows at a time."""
    x = x if _on_disk(x) or scipy.sparse.issparse(x) else np.asarray(x)
    starts = range(0, x.shape[0], BLOCK_ROWS)
    return np.concatenate([np.asarray(x[s : s + BLOCK_ROWS].sum(axis=1), np.float64).ravel() for s in starts])


def constant_columns(x: Any) -> Bool[np.ndarray, " features"]:
    """Which columns of what `read_observations` takes are the same in all rows, found a block of rows at a time."""
    low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    for start in range(0, x.shape[0], BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        ends = (block.min(axis=0), block.max(axis=0))
        ends = [np.asarray(end.toarray() if hasattr(end, "toarray") else end).ravel() for end in ends]
        low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])  # NaN wins: it is named later
    return low == high


def read_features(features: Iterable[str] | None, width: int) -> tuple[str, ...]:
    """Names of the columns, unique and one per column; ``x0, x1, ...`` when None."""
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
    """Raises ``ValueError`` for features with values that are not finite, and for constant ones.

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
    """Raises ``ValueError`` for features whose smallest value in as many cells is their largest."""
    constant = np.flatnonzero(low == high).tolist()
    if constant:
        raise ValueError(
            f"Constant features: {first_names([features[column] for column in constant])}; {features[constant[0]]!r} "
            f"is {low[constant[0]]:g} in all {cells} cells. Drop them: pass features=<those that vary>, or the "
            f"columns of x with x.max(0) > x.min(0)."
        )


def _frame_values(frame: Any) -> np.ndarray:
    """Values of a data frame whose columns are all numeric; missing ones are NaN."""
    from pandas.api.types import is_numeric_dtype

    for column, (name, dtype) in enumerate(frame.dtypes.items()):
        if not is_numeric_dtype(dtype):
            found = f", first value {frame.iloc[0, column]!r}" if len(frame) else ""
            raise TypeError(
                f"Column {str(name)!r} is not numeric (dtype {dtype}{found}). Pass features=<the columns with "
                f"observations>, or convert it."
            )
    with np.errstate(over="ignore"):
        return frame.to_numpy(dtype=np.float32, na_value=np.nan)
