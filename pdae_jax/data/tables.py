"""Tables that data come in: columns found by name, in memory or in a file."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pdae_jax.spelling import first_names, nearest_names, unquoted


class Table(NamedTuple):
    """The parts of an AnnData that are needed."""

    obs: Any  # data frame with the asked columns
    features: list[str]
    matrix: Any  # [cells, features], perhaps on disk
    others: dict[str, int]  # columns of obs that were not asked for, and how many values each has
    column: Callable[[str], Any]  # one of these


def find_columns(names: Sequence[str], known: Sequence[str], where: str) -> list[int]:
    """Find the positions of named columns, each of which must be there once."""
    counts, position = Counter(known), {name: column for column, name in enumerate(known)}
    missing = [name for name in names if name not in counts]
    if missing:
        near = unquoted(str(missing[0]), counts.__contains__) or nearest_names(str(missing[0]), known)
        others = f" {len(missing)} of {len(names)} names are missing: {first_names(missing)}." if missing[1:] else ""
        raise KeyError(f"No {missing[0]!r} in {where}; {near}.{others} Pass a name that is there.")
    for name in names:
        if counts[name] > 1:
            raise ValueError(f"{name!r} is there {counts[name]} times in {where}. Rename or drop all but one.")
    return [position[name] for name in names]


def column_names(columns: str | Sequence[str | None] | None) -> tuple[Any, ...]:
    """List one column name, several or none."""
    return () if columns is None else (columns,) if isinstance(columns, str) else tuple(columns)
