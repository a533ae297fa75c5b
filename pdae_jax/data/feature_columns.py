"""Which columns of a table are measurements: those asked for, by name or pattern, or those that look like some."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool, Int, Shaped

from pdae_jax.data.doubtful_columns import (
    are_of_cytometry,
    doubtful_columns,
    is_named_design,
    is_named_dose,
    no_measurement,
)
from pdae_jax.data.observations import frame_values
from pdae_jax.data.tables import find_columns
from pdae_jax.spelling import first_names, is_pattern, matching_names
from pdae_jax.types import PerturbationData


class Measured(NamedTuple):
    """Columns of a table: features, all that count towards the size of a cell, and those left out, with reasons."""

    features: list[str]
    counted: list[str]
    left_out: dict[str, str]


class Selection(NamedTuple):
    """Which columns are features, as a caller says; made by `make_selection`, which checks."""

    features: tuple[str, ...] | None = None  # names or patterns; None: all, and of a table all that look like it
    exclude: tuple[str, ...] = ()  # names or patterns
    highly_variable: int | None = None  # number of those that vary most
    drop_constant: bool = False  # leave out those that are the same in all cells


def make_selection(
    features: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    highly_variable: int | None = None,
    drop_constant: bool = False,
    *,
    like: PerturbationData | None = None,
) -> Selection:
    """Check what the caller says of features. Where nothing is said they are those of the data that are joined, `like`.

    Raises:
        ValueError: features are named, and a number is to be chosen.
    """
    if highly_variable is not None and (features is not None or like is not None):
        raise ValueError(f"highly_variable={highly_variable} chooses the features, and others are given. Pass one.")
    features = like.features if like is not None and features is None else features
    asked = None if features is None else tuple(_several(features))
    return Selection(asked, tuple(_several(exclude)), highly_variable, drop_constant)


def _several(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else [str(name) for name in names]


def matching(patterns: str | Iterable[str], known: Sequence[str], where: str) -> list[str]:
    """Find the names that are asked for, in the order of asking: a name itself, or all that a pattern such as ``"CD*"``
    matches.

    Raises:
        KeyError: nothing has this name, or matches; the message has the nearest names.
        ValueError: a name is given twice.
    """
    asked = _several(patterns)
    for pattern, count in Counter(asked).items():
        if count > 1:
            raise ValueError(f"Feature {pattern!r} is there {count} times. Feature names are unique: pass it once.")
    there = set(known)
    found = {
        name: [name] if name in there else matching_names(name, known) if is_pattern(name) else [] for name in asked
    }
    if not all(found.values()):
        find_columns([name for name in asked if name in there or not found[name]], known, where)  # says which are not
    return list(dict.fromkeys(itertools.chain(*found.values())))


def asked_for(selection: Selection, known: Sequence[str], where: str) -> list[str] | None:
    """Find the features that are asked for, without those that are excluded; None where nothing is asked for.

    Raises:
        KeyError: see `matching`.
        ValueError: nothing is left.
    """
    features, exclude = selection.features, selection.exclude
    excluded = matching(exclude, known, where)
    if features is None and not excluded:
        return None
    kept = list(known) if features is None else matching(features, known, where)
    kept = [name for name in kept if name not in set(excluded)]
    if not kept:
        raise ValueError(f"exclude={list(exclude)!r} leaves no feature of {where}. Exclude fewer.")
    return kept


def measured_columns(
    frame: Any, conditions: Int[np.ndarray, " rows"], selection: Selection, *, counts: bool = False
) -> Measured:
    """Find the features of a table.

    Where none are asked for, columns that cannot be measurements are left out, which is logged: row counters and other
    columns of constant steps, columns without a name, those that are the same in all rows, and of cytometry time,
    length of events, scatter and DNA. Columns that may be none are asked about.

    Args:
        frame: a data frame without the columns of conditions and doses. That its columns are channels of cytometry is
            said in ``frame.attrs["cytometry"]``, or by their names.
        conditions: number of the condition of each row: what is the same in all rows of each is a label.
        selection: the features that are asked for; all that look like measurements where none are.
        counts: the features are counts, so that other measured columns are part of the size of a cell.

    Raises:
        KeyError: a name that is not there.
        ValueError: columns that may be no measurements, by their names or values; names them and both ways out.
        TypeError: a column is not numeric, where none are asked for.
    """
    known = [str(name) for name in frame.columns]
    excluded = dict.fromkeys(matching(selection.exclude, known, "the frame"), "excluded")
    others = [name for name in known if name not in excluded]
    asked = None if selection.features is None else asked_for(selection, known, "the frame")
    if asked is not None and not counts:
        return Measured(asked, asked, excluded)
    values = _numeric(frame, others)
    cytometry = bool(frame.attrs.get("cytometry")) or are_of_cytometry(known)
    left_out = {name: reason for name in others if (reason := no_measurement(name, values.get(name), cytometry))}
    doubtful = doubtful_columns({name: x for name, x in values.items() if name not in left_out}, conditions)
    if asked is not None:
        wanted = set(asked)
        return Measured(asked, [n for n in values if n in wanted or not (n in left_out or n in doubtful)], excluded)
    texts = {name: frame.iloc[:, known.index(name)] for name in others if name not in values and name not in left_out}
    if doubtful or texts:
        raise (TypeError if texts else ValueError)(_no_features(texts, doubtful, known))
    kept = [name for name in values if name not in left_out]
    if not kept:  # the reader then says what is wrong with them
        return Measured(others, others, excluded)
    if left_out:
        logging.warning("Left out as no measurements: %s. Name them in features= to keep them.", _listed(left_out))
    return Measured(kept, kept, excluded | left_out)


def columns_of_origin(frame: Any, features: Sequence[str]) -> dict[str, Any]:
    """Find the columns beside the features that may say where cells come from: those of text, and numbers that are
    named so.
    """
    from pandas.api.types import is_numeric_dtype

    others = {str(name): column for name, column in frame.items() if str(name) not in set(features)}
    return {name: column for name, column in others.items() if not is_numeric_dtype(column) or is_named_design(name)}


def columns_of(frame: Any, found: Measured) -> tuple[np.ndarray, list[int] | None]:
    """Return the values of the columns that count and of the features, and where the features are among them; None:
    they are all.

    Raises:
        TypeError: a feature is not numeric.
    """
    names = (
        found.features if found.counted == found.features else list(dict.fromkeys([*found.features, *found.counted]))
    )
    x = frame_values(frame.iloc[:, find_columns(names, [str(name) for name in frame.columns], "the frame")])
    return x, None if names == found.features else [names.index(name) for name in found.features]


def varying_names(names: Sequence[str], varying: Bool[np.ndarray, " features"]) -> list[str]:
    """Keep the features that vary; the others are named in the log. If none does, all: the reader then says so."""
    if not varying.any():
        return list(names)
    if not varying.all():
        dropped = [name for name, kept in zip(names, varying, strict=True) if not kept]
        logging.warning("dropped features that are the same in all cells: %s", first_names(dropped))
    return [name for name, kept in zip(names, varying, strict=True) if kept]


def _numeric(frame: Any, names: Sequence[str]) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """Values of the numeric columns, missing ones NaN."""
    from pandas.api.types import is_numeric_dtype

    position = {str(name): column for column, name in enumerate(frame.columns)}
    found = {}
    for name in names:
        column = frame.iloc[:, position[name]]
        if is_numeric_dtype(column.dtype) and getattr(column.dtype, "kind", "f") != "c":
            plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "fi"  # taken as they are, not copied
            found[name] = column.to_numpy() if plain else column.to_numpy(dtype=np.float64, na_value=np.nan)
    return found


def _no_features(texts: dict[str, Any], doubtful: dict[str, str], known: Sequence[str]) -> str:
    """For an error message: columns of text and those that may be no measurements, and both ways out."""
    said = [f"Columns that may be no measurements: {_listed(doubtful)}."] if doubtful else []
    if texts:
        (first, column), *others = texts.items()
        shown = f", first value {column.iloc[0]!r}" if len(column) else ""
        more = f" Nor are {first_names([name for name, _ in others])}." if others else ""
        said.insert(0, f"Column {first!r} is not numeric (dtype {column.dtype}{shown}).{more}")
    out = [name for name in known if name in texts or name in doubtful]
    return (
        f"{' '.join(said)} Convert, or leave them out with exclude={out!r}, or say what the features are: "
        f"features=[...], names or patterns such as 'CD*'; '*' keeps all."
    ) + _dose_hint(out)


def _dose_hint(names: Iterable[str]) -> str:
    doses = next(filter(is_named_dose, names), None)
    return f" If {doses!r} has doses, pass dose={doses!r} instead." if doses else ""


def _listed(reasons: dict[str, str]) -> str:
    shown = [f"{name!r} ({reason})" for name, reason in list(reasons.items())[:12]]
    return ", ".join(shown) + (f", ... ({len(reasons)} in all)" if len(reasons) > 12 else "")
