"""The distinct values of a column and where each row's is in the list of them, by first appearance."""

from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.data.notation import as_text, is_missing


def distinct(values: Sequence[Any]) -> tuple[Int[np.ndarray, " cells"], list[Any]]:
    """Position of every value in the list of distinct values, which is in order of first appearance."""
    for row, value in enumerate(values):
        if not isinstance(value, Hashable):
            raise TypeError(
                f"conditions[{row}] is {value!r} ({type(value).__name__}), but conditions[0] is {values[0]!r}. "
                f"Pass a string for every cell, or a dict for every cell."
            )
    position: dict[Any, int] = {}
    index = np.fromiter((position.setdefault(value, len(position)) for value in values), np.int32, count=len(values))
    return index, list(position)


def distinct_names(names: Sequence[Any], known: Collection[str]) -> tuple[Int[np.ndarray, " cells"], list[str]]:
    """`distinct`, for condition names: without spaces around them, integers and booleans as text, none missing.

    Args:
        names: one per cell.
        known: names that are asked for, also where they say that a value is missing.
    """
    index, found = distinct([_clean(name) for name in names])
    for position, name in enumerate(found):
        missing = is_missing(str(name), known if isinstance(name, str) else ())
        if isinstance(name, str) and not missing:
            continue
        rows = np.flatnonzero(index == position)
        where = f"{name!r} ({type(name).__name__}) in {len(rows)} cells, the first in row {rows[0]}"
        if missing:
            asked = " If it is a name, pass it in control= or perturbations=." if isinstance(name, str) and name else ""
            raise ValueError(
                f"The condition is missing: {where}. Name the condition of every cell, or drop these.{asked}"
            )
        whole = "; of a column of numbers column.astype(int).astype(str)" if isinstance(name, float) else ""
        raise TypeError(
            f"A condition is {where}. Pass strings such as 'A+B'{whole}, dicts of doses, or labels=<matrix>."
        )
    return index, found


def distinct_labels(
    rows: Float[np.ndarray, "rows perturbations"],
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "conditions perturbations"]]:
    """`distinct`, for the rows of a matrix (twenty times faster than ``np.unique(axis=0)``, and keeps the order)."""
    rows = rows + 0.0  # minus zero becomes zero, so that equal rows are equal byte for byte
    index, found = distinct([row.tobytes() for row in rows])
    return index, np.frombuffer(b"".join(found), dtype=rows.dtype).reshape(len(found), rows.shape[1])


def _clean(name: Any) -> Any:
    if isinstance(name, str | bytes):
        return as_text(name)
    return str(name) if isinstance(name, bool | int | np.bool_ | np.integer) else name
