"""The distinct values of a column and where each row's is in the list of them, by first appearance."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pdae_jax.data.notation import as_text, is_missing
from pdae_jax.design.strata import distinct


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


def _clean(name: Any) -> Any:
    if isinstance(name, str | bytes):
        return as_text(name)
    return str(name) if isinstance(name, bool | int | np.bool_ | np.integer) else name
