"""Arrays, data frames and AnnData in, `PerturbationData` out: all validation of users' data is behind this door."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from pdae_jax.data.conditions import Conditions
from pdae_jax.data.notation import read_dicts, read_matrix, read_names
from pdae_jax.data.observations import check_values, read_features, read_observations
from pdae_jax.data.tables import find_columns, open_anndata, read_conditions
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData


def from_arrays(
    x: Any,
    conditions: Any = None,
    *,
    labels: Any = None,
    perturbations: Iterable[str] | None = None,
    features: Iterable[str] | None = None,
    control: str = "control",
    separator: str = "+",
) -> PerturbationData:
    """Data from a matrix of observations and the condition of each cell.

    Conditions are put in order of first appearance, the control first; so are label columns.

    Args:
        x: ``[cells, features]``: NumPy, JAX, SciPy sparse (made dense once, in float32) or a data frame.
        conditions: one entry per cell: strings (``"A+B"``, ``"A:0.5+B"``, the control by its name) or dicts
            (``{"A": 1.0, "B": 0.5}``, ``{}`` for the control). None when `labels` says it all.
        labels: matrix of doses ``[cells, perturbations]``; `conditions`, if also given, are then only names, which
            must agree with the labels one to one.
        perturbations: names of the label columns. By first appearance for strings and dicts, the column names of a
            data frame, else ``"p0", "p1", ...``.
        features: names of the columns of x; those of a data frame, else ``"x0", "x1", ...``.
        control: name of the control.
        separator: joins perturbation names in a condition name.

    Raises:
        ValueError, TypeError, KeyError: anything that could not be analysed as it stands; the message names the
            condition, perturbation or feature, the value found, and what to do.
    """
    if features is None and hasattr(x, "columns"):
        features = [str(name) for name in x.columns]
    x = read_observations(x)
    if not separator:
        raise ValueError("separator is empty. Pass what joins perturbation names, such as '+'.")
    if conditions is None and labels is None:
        raise ValueError("No conditions. Pass conditions=<one name or dict per cell> or labels=<matrix of doses>.")
    entries = None if conditions is None else _as_list(conditions)
    given: dict[str, Any] = {"conditions": entries, "labels": labels}
    for name, value in given.items():
        count = x.shape[0] if value is None else value.shape[0] if hasattr(value, "shape") else len(value)
        if count != x.shape[0]:
            raise ValueError(f"{name} has {count} entries, but x has {x.shape[0]} rows. Pass one entry per row of x.")
    known = None if perturbations is None else [str(name) for name in perturbations]
    options: dict[str, Any] = {"perturbations": known, "control": control, "separator": separator}
    if labels is not None:
        table = read_matrix(labels, names=entries, **options)
    elif entries and isinstance(entries[0], Mapping):
        table = read_dicts(entries, **options)
    else:
        table = read_names(entries or [], **options)
    return _build(x, table, features, control, separator)


def from_frame(
    frame: Any,
    *,
    condition: str = "condition",
    features: Iterable[str] | None = None,
    dose: str | None = None,
    control: str = "control",
    separator: str = "+",
) -> PerturbationData:
    """Data from a pandas data frame with one row per cell.

    Args:
        frame: the data frame.
        condition: column with the condition names.
        features: columns with the observations; all other columns when None.
        dose: column with doses: a number for all perturbations of the cell's condition, or a string such as
            ``"1+0.5"`` in the order of the names. Conditions are then named with their doses, ``"A+B:0.5"``.
        control: name of the control.
        separator: joins perturbation names in a condition name.

    Raises:
        KeyError: a column is missing; the message names the nearest ones.
        ValueError, TypeError: see `from_arrays`.
    """
    known = [str(name) for name in frame.columns]
    used = [condition] if dose is None else [condition, dose]
    names = [name for name in known if name not in used] if features is None else [str(name) for name in features]
    labelled = frame.iloc[:, find_columns(used, known, "the frame")]
    observed = frame.iloc[:, find_columns(names, known, "the frame")]
    table = read_conditions(labelled, control, separator)
    return _build(read_observations(observed), table, names, control, separator)


def from_anndata(
    adata: Any,
    *,
    condition: str = "condition",
    control: str = "control",
    separator: str = "+",
    dose: str | None = None,
    layer: str | None = None,
    features: Iterable[str] | None = None,
) -> PerturbationData:
    """Data from an AnnData, or from an .h5ad file of which only the needed parts are read.

    Args:
        adata: AnnData or path.
        condition: column of ``obs`` with the condition names.
        control: name of the control.
        separator: joins perturbation names in a condition name.
        dose: column of ``obs`` with doses, see `from_frame`.
        layer: layer with the observations; ``X`` when None.
        features: names from ``var_names`` to keep, in this order; all when None.

    Raises:
        KeyError: a column, layer or feature is missing; the message names the nearest ones.
        FileNotFoundError: there is no such file.
        ValueError, TypeError: see `from_arrays`.
    """
    used = [condition] if dose is None else [condition, dose]
    with open_anndata(adata, used, layer) as table:
        names = table.features if features is None else [str(name) for name in features]
        columns = None if features is None else find_columns(names, table.features, "var_names")
        conditions = read_conditions(table.obs, control, separator)
        return _build(read_observations(table.matrix, columns), conditions, names, control, separator)


def _build(
    x: Float[np.ndarray, "cells features"],
    table: Conditions,
    features: Iterable[str] | None,
    control: str,
    separator: str,
) -> PerturbationData:
    """Checks what concerns cells and features, and assembles the data."""
    names = read_features(features, x.shape[1])
    single = [table.names[row] for row in np.flatnonzero(np.bincount(table.index) < 2)]
    if single:
        raise ValueError(
            f"Conditions with one cell: {first_names(single)}. A distribution needs at least 2: drop these cells, or "
            f"merge them with another condition."
        )
    check_values(x, names)
    return PerturbationData(
        x=x,
        condition_index=table.index,
        labels=table.labels,
        conditions=table.names,
        perturbations=table.perturbations,
        features=names,
        control=control,
        separator=separator,
    )


def _as_list(conditions: Any) -> list[Any]:
    if isinstance(conditions, str | Mapping):
        raise TypeError(f"conditions is {conditions!r}. Pass one entry per cell, in a list or array.")
    return conditions.tolist() if hasattr(conditions, "tolist") else list(conditions)
